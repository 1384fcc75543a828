"""Index rows: one bulk upsert per level for a batch of objects, in an order that cannot deadlock.

Rows are a function of the set of objects, not of their order: of all objects that describe a row the one with the
greatest `as_of` gives its values, so late, repeated and concurrent batches end in the same catalog. Nothing is counted
here, and nothing is read to be incremented. This module must not know how objects are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from dicomflow.catalog.tables import UID_LENGTH, instance, patient, series, stored_object, study
from dicomflow.dicom.attributes import Level, column_name, of_level
from dicomflow.errors import PermanentError

__all__ = ["IndexedObject", "ObjectLocation", "ObjectProblem", "upsert_objects", "upsert_problems"]

MAX_IDENTITY_CHARACTERS: Final = 256
"""Patient ID and its issuer are one key of an index; LO allows 64 characters (PS3.5 6.2)."""

_UIDS: Final = {
    "StudyInstanceUID": "(0020,000D)",
    "SeriesInstanceUID": "(0020,000E)",
    "SOPInstanceUID": "(0008,0018)",
    "SOPClassUID": "(0008,0016)",
}
_IDENTITIES: Final = {"PatientID": "(0010,0020)", "IssuerOfPatientID": "(0010,0021)"}
_UID_CHARACTERS: Final = frozenset("0123456789.")
_COLUMNS: Final = {
    level: tuple((attribute.keyword, attribute.column) for attribute in of_level(level)) for level in Level
}


@dataclass(frozen=True, slots=True)
class ObjectLocation:
    """Where an object lies, and what its key says of its way; `stored_at` is the store's time of the object."""

    object_key: str
    edge: str
    delivery_id: str | None
    bytes: int
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class IndexedObject:
    """An object with its indexed attributes.

    `values` are by DICOM keyword, `raw_values` the texts of those that did not parse; `site_issuer` is the issuer of
    Patient IDs that name none.
    """

    location: ObjectLocation
    site_issuer: str
    values: Mapping[str, Any]
    raw_values: Mapping[Level, Mapping[str, str]]

    def __post_init__(self) -> None:
        """Refuse what cannot have a place in the index.

        Raises:
            PermanentError: a UID is missing, too long or no UID, or the patient's identity is too long.
        """
        for keyword, tag in _UIDS.items():
            uid = self.values.get(keyword)
            if not uid:
                raise PermanentError(f"no {keyword} {tag}")
            if len(uid) > UID_LENGTH:
                raise PermanentError(f"{keyword} {tag} of {len(uid)} characters exceeds {UID_LENGTH}")
            if not _UID_CHARACTERS.issuperset(uid):
                raise PermanentError(f"{keyword} {tag} is no UID")
        for keyword, tag in _IDENTITIES.items():
            length = len(self.values.get(keyword) or "")
            if length > MAX_IDENTITY_CHARACTERS:
                raise PermanentError(f"{keyword} {tag} of {length} characters exceeds {MAX_IDENTITY_CHARACTERS}")


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """An object that will never be indexed, and why; the reason holds no patient data."""

    object_key: str
    edge: str
    delivery_id: str | None
    bytes: int | None
    reason: str


def upsert_objects(connection: Connection, objects: Sequence[IndexedObject], now: datetime) -> None:
    """Insert or update the rows of a batch, from patient down to object; a repeat changes nothing.

    Locks are taken table by table and in key order, so that concurrent batches wait for each other and go on.
    """
    levels: tuple[tuple[Table, Iterable[dict[str, Any]], tuple[str, ...]], ...] = (
        (patient, map(_patient_row, objects), _PATIENT_KEY),
        (study, map(_study_row, objects), ("study_instance_uid",)),
        (series, map(_series_row, objects), ("series_instance_uid",)),
        (instance, map(_instance_row, objects), ("sop_instance_uid",)),
    )
    for table, rows, key in levels:
        _upsert_latest(connection, table, rows, key)
    _upsert_stored(connection, [_stored_row(indexed, now) for indexed in objects])


def upsert_problems(connection: Connection, problems: Sequence[ObjectProblem]) -> None:
    """Record objects that cannot be indexed; one that once was indexed keeps its row."""
    rows: list[dict[str, Any]] = [
        {
            "object_key": problem.object_key,
            "edge": problem.edge,
            "delivery_id": problem.delivery_id,
            "bytes": problem.bytes,
            "problem": problem.reason,
        }
        for problem in problems
    ]
    if not rows:
        return
    statement = _insert(connection, stored_object)
    values = {name: getattr(statement.excluded, name) for name in rows[0] if name != "object_key"}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["object_key"], set_=values, where=stored_object.c.indexed_at.is_(None)
        ),
        sorted(rows, key=lambda row: row["object_key"]),
    )


_PATIENT_KEY: Final = ("issuer_of_patient_id", "patient_id", "unidentified_study_uid")


def _insert(connection: Connection, table: Table) -> Any:  # the two dialects' inserts share no typed base
    """Return the dialect's INSERT, the one that knows ON CONFLICT."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _upsert_latest(connection: Connection, table: Table, rows: Iterable[dict[str, Any]], key: tuple[str, ...]) -> None:
    """Write one row per key, the latest of the batch, unless the table holds a later one."""
    latest: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        identity = tuple(row[name] for name in key)
        known = latest.get(identity)
        if known is None or known["as_of"] < row["as_of"]:
            latest[identity] = row
    if not latest:
        return
    statement = _insert(connection, table)
    columns = [name for name in next(iter(latest.values())) if not name.startswith("parent_")]
    parents = _parent_of(table)
    changed = {name: getattr(statement.excluded, name) for name in (*columns, *parents) if name not in key}
    connection.execute(
        statement.values(
            {name: bindparam(name, type_=table.c[name].type) for name in columns} | parents
        ).on_conflict_do_update(index_elements=list(key), set_=changed, where=statement.excluded.as_of > table.c.as_of),
        [latest[identity] for identity in sorted(latest)],
    )


def _parent_of(table: Table) -> dict[str, Any]:
    """Return the foreign key to the level above as a look-up by the parent's own identity."""
    if table is study:
        wanted = [patient.c[name] == bindparam(f"parent_{name}", type_=patient.c[name].type) for name in _PATIENT_KEY]
        return {"patient_key": select(patient.c.patient_key).where(*wanted).scalar_subquery()}
    if table is series:
        uid = bindparam("parent_study_instance_uid", type_=study.c.study_instance_uid.type)
        found = select(study.c.study_key).where(study.c.study_instance_uid == uid)
        return {"study_key": found.scalar_subquery()}
    if table is instance:
        uid = bindparam("parent_series_instance_uid", type_=series.c.series_instance_uid.type)
        found = select(series.c.series_key).where(series.c.series_instance_uid == uid)
        return {"series_key": found.scalar_subquery()}
    return {}


def _upsert_stored(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = _insert(connection, stored_object)
    values = {name: getattr(statement.excluded, name) for name in rows[0] if name != "object_key"}
    values["indexed_at"] = func.coalesce(stored_object.c.indexed_at, statement.excluded.indexed_at)
    values["problem"] = None
    connection.execute(
        statement.on_conflict_do_update(index_elements=["object_key"], set_=values),
        sorted(rows, key=lambda row: row["object_key"]),
    )


def _level_row(indexed: IndexedObject, level: Level, as_of: str) -> dict[str, Any]:
    row = {column: indexed.values.get(keyword) for keyword, column in _COLUMNS[level]}
    row["raw_values"] = dict(indexed.raw_values[level]) if level in indexed.raw_values else None
    row["as_of"] = as_of
    return row


def _identity(indexed: IndexedObject) -> dict[str, str]:
    """Return whose object it is: without a Patient ID it is the study's own, so that strangers never become one."""
    patient_id = indexed.values.get("PatientID") or ""
    return {
        "issuer_of_patient_id": indexed.values.get("IssuerOfPatientID") or indexed.site_issuer,
        "patient_id": patient_id,
        "unidentified_study_uid": "" if patient_id else indexed.values["StudyInstanceUID"],
    }


def _as_of(indexed: IndexedObject) -> str:
    """Order objects by the time they were stored; the key decides between equals."""
    return f"{indexed.location.stored_at.isoformat(timespec='microseconds')}|{indexed.location.object_key}"


def _patient_row(indexed: IndexedObject) -> dict[str, Any]:
    """Demographics follow the time of the study first: an old study that arrives late corrects nobody."""
    day: date | None = indexed.values.get("StudyDate")
    clock: time | None = indexed.values.get("StudyTime")
    study_time = f"{day or date.min}T{clock or time.min}"
    return _level_row(indexed, Level.PATIENT, f"{study_time}|{_as_of(indexed)}") | _identity(indexed)


def _study_row(indexed: IndexedObject) -> dict[str, Any]:
    parents = {f"parent_{name}": value for name, value in _identity(indexed).items()}
    return _level_row(indexed, Level.STUDY, _as_of(indexed)) | parents


def _series_row(indexed: IndexedObject) -> dict[str, Any]:
    row = _level_row(indexed, Level.SERIES, _as_of(indexed))
    return row | {"parent_study_instance_uid": indexed.values["StudyInstanceUID"]}


def _instance_row(indexed: IndexedObject) -> dict[str, Any]:
    row = _level_row(indexed, Level.INSTANCE, _as_of(indexed))
    return row | {
        "object_key": indexed.location.object_key,
        "bytes": indexed.location.bytes,
        "parent_series_instance_uid": indexed.values["SeriesInstanceUID"],
    }


def _stored_row(indexed: IndexedObject, now: datetime) -> dict[str, Any]:
    uids = {column_name(keyword): indexed.values[keyword] for keyword in _UIDS if keyword != "SOPClassUID"}
    location = indexed.location
    return uids | {
        "object_key": location.object_key,
        "bytes": location.bytes,
        "edge": location.edge,
        "delivery_id": location.delivery_id,
        "stored_at": location.stored_at,
        "indexed_at": now,
    }
