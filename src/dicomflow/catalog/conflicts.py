"""What an operator should look at: objects with a problem, and objects that contradict each other.

Nothing is merged and nothing is dropped: a conflict is found in the rows as they stand, so it goes when its cause goes.
This module only reads, and shows no patient's name.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Table, func, or_, select, text

from dicomflow.catalog.hidden import list_hidden
from dicomflow.catalog.tables import (
    instance,
    patient,
    patient_history,
    series_study,
    stored_object,
    study_patient,
)

__all__ = ["KINDS", "Conflict", "Problem", "list_conflicts", "list_problems"]

KINDS: Final = {
    "versions": "one SOP Instance UID with different bytes",
    "damaged": "an object whose bytes are not those that its manifest names",
    "study_of_patients": "one Study Instance UID under several patients",
    "series_of_studies": "one Series Instance UID under several studies",
    "demographics": "one patient with different names, birth dates or sexes",
    "unidentified": "a study without a Patient ID",
    "hidden": "an image set that is not primary, which no viewer sees",
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """One contradiction: `uid` names what is in it, `details` the objects, patients or studies that disagree."""

    kind: str
    uid: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """An object that is stored and cannot be indexed, or whose data set is not what it says it is."""

    object_key: str
    reason: str
    edge: str | None
    bytes: int | None
    stored_at: datetime | None


def list_problems(connection: Connection, *, having: str = "", after: str = "", limit: int = 1000) -> list[Problem]:
    """Return objects with a problem, indexed or not, by key, from behind `after`; with `having` in key or reason."""
    # "problem IS NOT NULL" stands as it does in the index of the few rows that have one.
    statement = (
        select(
            stored_object.c.object_key,
            stored_object.c.problem,
            stored_object.c.edge,
            stored_object.c.bytes,
            stored_object.c.stored_at,
        )
        .where(text("problem IS NOT NULL"), stored_object.c.object_key > after)
        .order_by(stored_object.c.object_key)
        .limit(limit)
    )
    if having:
        columns = (stored_object.c.object_key, stored_object.c.problem)
        statement = statement.where(or_(*(column.contains(having, autoescape=True) for column in columns)))
    return [Problem(*row) for row in connection.execute(statement)]


def list_conflicts(
    connection: Connection, *, limit: int = 1000, kinds: Collection[str] = KINDS.keys()
) -> list[Conflict]:
    """Return at most `limit` conflicts of each of some kinds, sorted by UID."""
    return [each for kind, listed in _LISTED.items() if kind in kinds for each in listed(connection, limit)]


def _versions(connection: Connection, limit: int) -> list[Conflict]:
    """List every object of the instances that have several versions, the current one first."""
    wanted = select(instance.c.sop_instance_uid).where(text("versions > 1"))
    chosen = wanted.order_by(instance.c.sop_instance_uid).limit(limit).subquery()
    digest = func.coalesce(stored_object.c.sha256, stored_object.c.object_sha256, "")
    statement = (
        select(stored_object.c.sop_instance_uid, stored_object.c.object_key, digest, instance.c.object_key)
        .join_from(chosen, stored_object, stored_object.c.sop_instance_uid == chosen.c.sop_instance_uid)
        .join(instance, instance.c.sop_instance_uid == chosen.c.sop_instance_uid)
        .order_by(stored_object.c.sop_instance_uid, stored_object.c.stored_at.desc(), stored_object.c.object_key)
    )
    found: dict[str, list[str]] = {}
    for uid, key, sha256, current in connection.execute(statement):
        objects = found.setdefault(uid, [])
        objects.insert(0 if key == current else len(objects), f"{key} sha256={sha256[:12]}")
    return [Conflict("versions", uid, tuple(objects)) for uid, objects in found.items()]


def _damaged(connection: Connection, limit: int) -> list[Conflict]:
    columns = (
        stored_object.c.sop_instance_uid,
        stored_object.c.object_key,
        stored_object.c.sha256,
        stored_object.c.object_sha256,
    )
    statement = (
        select(*columns).where(text("sha256 <> object_sha256")).order_by(stored_object.c.object_key).limit(limit)
    )
    return [
        Conflict("damaged", uid or key, (key, f"manifest sha256={told[:12]}", f"object sha256={found[:12]}"))
        for uid, key, told, found in connection.execute(statement)
    ]


def _of_several(connection: Connection, kind: str, table: Table, limit: int) -> list[Conflict]:
    """List the children that were seen under several parents."""
    child, parent = table.primary_key.columns
    several = select(child).group_by(child).having(func.count() > 1).order_by(child).limit(limit)
    statement = select(child, parent).where(child.in_(several)).order_by(child, parent)
    found: dict[str, list[str]] = {}
    for uid, other in connection.execute(statement):
        found.setdefault(uid, []).append(f"{'patient' if table is study_patient else 'study'} {other}")
    return [Conflict(kind, uid, tuple(names)) for uid, names in found.items()]


def _demographics(connection: Connection, limit: int) -> list[Conflict]:
    """List patients by key, with how many sets of demographics they have: what is in them is patient data."""
    key = patient_history.c.patient_key
    values = (patient_history.c.patient_name, patient_history.c.patient_birth_date, patient_history.c.patient_sex)
    differs = or_(*(func.count(value.distinct()) > 1 for value in values))  # one that is empty contradicts none
    several = select(key, func.count()).group_by(key).having(differs).order_by(key).limit(limit)
    return [
        Conflict("demographics", f"patient {patient_key}", (f"{count} sets in patient_history",))
        for patient_key, count in connection.execute(several)
    ]


def _unidentified(connection: Connection, limit: int) -> list[Conflict]:
    uid = patient.c.unidentified_study_uid
    statement = (
        select(uid, patient.c.patient_key).where(text("unidentified_study_uid <> ''")).order_by(uid).limit(limit)
    )
    return [Conflict("unidentified", study, (f"patient {key}",)) for study, key in connection.execute(statement)]


def _hidden(connection: Connection, limit: int) -> list[Conflict]:
    """List image sets by the series that they hide, with the elements in which they differ, not with their values."""
    return [
        Conflict("hidden", row.series_instance_uid, (f"image set {row.image_set_id}", *_differs(row.differs_in)))
        for row in list_hidden(connection, limit)
    ]


_LISTED: Final[Mapping[str, Callable[[Connection, int], list[Conflict]]]] = {
    "versions": _versions,
    "damaged": _damaged,
    "study_of_patients": lambda connection, limit: _of_several(connection, "study_of_patients", study_patient, limit),
    "series_of_studies": lambda connection, limit: _of_several(connection, "series_of_studies", series_study, limit),
    "demographics": _demographics,
    "unidentified": _unidentified,
    "hidden": _hidden,
}


def _differs(elements: list[str] | None) -> tuple[str, ...]:
    return (f"differs in {', '.join(elements)}",) if elements else ()
