"""Index rows: one bulk upsert per level for a batch of objects, in an order that cannot deadlock.

Rows are a function of the set of objects, not of their order: of all objects that describe a row the one with the
greatest `as_of` gives its values, what only adds up is a set, and what is counted is counted anew from the rows. So
late, repeated and concurrent batches end in the same catalog. This module must not know how objects are read.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, case, func, or_, select, text, update

from dicomflow.catalog.objects import UIDS, IndexedObject, ObjectLocation, ObjectProblem
from dicomflow.catalog.tables import (
    instance,
    patient,
    patient_history,
    patient_word,
    series,
    series_study,
    stored_object,
    study,
    study_patient,
)
from dicomflow.catalog.upsert import Excluded, Lookup, Upsert
from dicomflow.dicom.attributes import Level, column_name, of_level
from dicomflow.dicom.names import fold_words

__all__ = [
    "IndexedObject",
    "ObjectLocation",
    "ObjectProblem",
    "demographics_digest",
    "lock_instances",
    "recount_versions",
    "upsert_objects",
    "upsert_problems",
]

_COLUMNS: Final = {
    level: tuple((attribute.keyword, attribute.column) for attribute in of_level(level)) for level in Level
}
_STORED_UIDS: Final = tuple((keyword, column_name(keyword)) for keyword in UIDS if keyword != "SOPClassUID")
_IDENTITY: Final = ("issuer_of_patient_id", "patient_id", "unidentified_study_uid")
_DEMOGRAPHICS: Final = ("patient_name", "patient_birth_date", "patient_sex")
_PAGE_UIDS: Final = 5000  # SQLite takes 32,766 parameters a statement

Identity = tuple[str, str, str]
Rows = dict[Any, dict[str, Any]]


def upsert_objects(connection: Connection, objects: Sequence[IndexedObject], now: datetime) -> None:
    """Insert or update the rows of a batch, from patient down to object; a repeat changes nothing.

    Locks are taken table by table and in key order, so that concurrent batches wait for each other and go on.
    """
    identities = [_identity(indexed) for indexed in objects]
    as_of = [_as_of(indexed) for indexed in objects]
    study_as_of = [f"{_study_time(indexed)}|{stored}" for indexed, stored in zip(objects, as_of, strict=True)]
    studies, series_uids, sops = ([each.values[name] for each in objects] for name, _ in _STORED_UIDS)
    _execute(_PATIENT, connection, _latest(objects, identities, study_as_of, _patient_row))
    _execute(_HISTORY, connection, _history_rows(objects, identities, study_as_of))
    _execute(_WORD, connection, _word_rows(objects, identities))
    _execute(_STUDY, connection, _latest(objects, studies, as_of, _study_row))
    pairs = set(zip(studies, identities, strict=True))
    _execute(_STUDY_PATIENT, connection, {each: {"study_instance_uid": each[0]} | _parent(each[1]) for each in pairs})
    _execute(_SERIES, connection, _latest(objects, series_uids, as_of, _series_row))
    of_study = set(zip(series_uids, studies, strict=True))
    _execute(
        _SERIES_STUDY, connection, {each: dict(zip(_SERIES_STUDY.columns, each, strict=True)) for each in of_study}
    )
    _execute(_INSTANCE, connection, _latest(objects, sops, as_of, _instance_row))
    _execute(_STORED, connection, {each.location.object_key: _stored_row(each, now) for each in objects})
    recount_versions(connection, set(sops))


def upsert_problems(connection: Connection, problems: Sequence[ObjectProblem]) -> None:
    """Record objects that cannot be indexed; one that once was indexed keeps its row."""
    rows = {
        problem.object_key: {
            "object_key": problem.object_key,
            "edge": problem.edge,
            "delivery_id": problem.delivery_id,
            "bytes": problem.bytes,
            "problem": problem.reason,
        }
        for problem in problems
    }
    _execute(_PROBLEM, connection, rows)


def lock_instances(connection: Connection, sop_instance_uids: Iterable[str]) -> None:
    """Lock instances in key order, for whoever changes their objects' digests: before the objects' rows."""
    uids = sorted(sop_instance_uids)
    for start in range(0, len(uids), _PAGE_UIDS):
        wanted = instance.c.sop_instance_uid.in_(uids[start : start + _PAGE_UIDS])
        statement = select(instance.c.instance_key).where(wanted)
        connection.execute(statement.order_by(instance.c.sop_instance_uid).with_for_update()).all()


def recount_versions(connection: Connection, sop_instance_uids: Collection[str]) -> None:
    """Count the different digests of instances' objects; the instances must be locked.

    Where data sets were compared, their digests count; `versions` tells which are to be.
    """
    uids = sorted(sop_instance_uids)
    for start in range(0, len(uids), _PAGE_UIDS):
        page = uids[start : start + _PAGE_UIDS]
        known = (stored_object.c.data_set_sha256, stored_object.c.sha256, stored_object.c.object_sha256)
        digests = func.count(func.coalesce(*known).distinct())
        counted = (
            select(stored_object.c.sop_instance_uid, digests)
            .where(stored_object.c.sop_instance_uid.in_(page))
            .group_by(stored_object.c.sop_instance_uid)
            .having(digests > 1)
        )
        several = {uid: count for uid, count in connection.execute(counted)}  # noqa: C416  # a row is no tuple to mypy
        # "versions > 1" stands as it does in the index of the few rows that have several.
        before = select(instance.c.sop_instance_uid).where(text("versions > 1"), instance.c.sop_instance_uid.in_(page))
        changed = {uid: several.get(uid, 1) for uid in {*several, *connection.scalars(before)}}
        if changed:
            statement = update(instance).where(instance.c.sop_instance_uid == bindparam("uid"))
            rows = [{"uid": uid, "versions": count} for uid, count in sorted(changed.items())]
            connection.execute(statement.values(versions=bindparam("versions")), rows)


def demographics_digest(name: str | None, birth_date: date | None, sex: str | None) -> str:
    """Return what tells one set of demographics from another, in hex."""
    values = [name, birth_date and birth_date.isoformat(), sex]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _execute(upsert: Upsert, connection: Connection, rows: Rows) -> None:
    upsert.execute(connection, [rows[key] for key in sorted(rows)])


def _latest(
    objects: Sequence[IndexedObject],
    keys: Sequence[Any],
    as_of: Sequence[str],
    row_of: Callable[[IndexedObject, str], dict[str, Any]],
) -> Rows:
    """Return one row per key, of the object that spoke last."""
    latest: dict[Any, int] = {}
    for number, key in enumerate(keys):
        known = latest.get(key)
        if known is None or as_of[known] < as_of[number]:
            latest[key] = number
    return {key: row_of(objects[number], as_of[number]) for key, number in latest.items()}


def _level_row(indexed: IndexedObject, level: Level, as_of: str) -> dict[str, Any]:
    values = indexed.values
    row = {column: values.get(keyword) for keyword, column in _COLUMNS[level]}
    row["raw_values"] = indexed.raw_values.get(level)
    row["as_of"] = as_of
    return row


def _identity(indexed: IndexedObject) -> Identity:
    """Return whose object it is: without a Patient ID it is the study's own, so that strangers never become one."""
    patient_id = indexed.values.get("PatientID") or ""
    issuer = indexed.values.get("IssuerOfPatientID") or indexed.site_issuer
    return issuer, patient_id, "" if patient_id else indexed.values["StudyInstanceUID"]


def _parent(identity: Identity) -> dict[str, str]:
    return {f"parent_{name}": value for name, value in zip(_IDENTITY, identity, strict=True)}


def _as_of(indexed: IndexedObject) -> str:
    """Order objects by the time they were stored; the key decides between equals."""
    return f"{indexed.location.stored_at.isoformat(timespec='microseconds')}|{indexed.location.object_key}"


def _study_time(indexed: IndexedObject) -> str:
    """Demographics follow the time of the study first: an old study that arrives late corrects nobody."""
    return f"{indexed.values.get('StudyDate') or date.min}T{indexed.values.get('StudyTime') or time.min}"


def _patient_row(indexed: IndexedObject, as_of: str) -> dict[str, Any]:
    return _level_row(indexed, Level.PATIENT, as_of) | dict(zip(_IDENTITY, _identity(indexed), strict=True))


def _history_rows(objects: Sequence[IndexedObject], identities: Sequence[Identity], as_of: Sequence[str]) -> Rows:
    rows: Rows = {}
    for indexed, identity, moment in zip(objects, identities, as_of, strict=True):
        known = tuple(indexed.values.get(name) for name in ("PatientName", "PatientBirthDate", "PatientSex"))
        row = rows.get((identity, known))
        if row is None:
            rows[identity, known] = {
                **dict(zip(_DEMOGRAPHICS, known, strict=True)),
                **_parent(identity),
                "digest": demographics_digest(*known),
                "first_as_of": moment,
                "last_as_of": moment,
            }
        else:
            row["first_as_of"], row["last_as_of"] = min(row["first_as_of"], moment), max(row["last_as_of"], moment)
    return {(identity, row["digest"]): row for (identity, _), row in rows.items()}


def _word_rows(objects: Sequence[IndexedObject], identities: Sequence[Identity]) -> Rows:
    named = {(indexed.values.get("PatientName") or "", each) for indexed, each in zip(objects, identities, strict=True)}
    return {
        (word, identity): {"word": word} | _parent(identity) for name, identity in named for word in fold_words(name)
    }


def _study_row(indexed: IndexedObject, as_of: str) -> dict[str, Any]:
    sort_at = _study_time(indexed) if indexed.values.get("StudyDate") else ""
    return _level_row(indexed, Level.STUDY, as_of) | {"sort_at": sort_at} | _parent(_identity(indexed))


def _series_row(indexed: IndexedObject, as_of: str) -> dict[str, Any]:
    row = _level_row(indexed, Level.SERIES, as_of)
    row["parent_study_instance_uid"] = indexed.values["StudyInstanceUID"]
    return row


def _instance_row(indexed: IndexedObject, as_of: str) -> dict[str, Any]:
    row = _level_row(indexed, Level.INSTANCE, as_of)
    row["object_key"] = indexed.location.object_key
    row["bytes"] = indexed.location.bytes
    row["parent_series_instance_uid"] = indexed.values["SeriesInstanceUID"]
    return row


def _stored_row(indexed: IndexedObject, now: datetime) -> dict[str, Any]:
    location = indexed.location
    row = {column: indexed.values[keyword] for keyword, column in _STORED_UIDS}
    return row | {
        "object_key": location.object_key,
        "bytes": location.bytes,
        "object_sha256": location.sha256,
        "edge": location.edge,
        "delivery_id": location.delivery_id,
        "stored_at": location.stored_at,
        "indexed_at": now,
        "problem": indexed.problem,
    }


def _level_upsert(
    table: Table,
    level: Level,
    key: tuple[str, ...],
    more: tuple[str, ...] = (),
    lookups: Mapping[str, Lookup] | None = None,
) -> Upsert:
    """Write one row per key unless the table holds one that spoke later."""
    columns = (*dict.fromkeys((*(column for _, column in _COLUMNS[level]), "raw_values", "as_of", *more)),)
    parents = lookups or {}

    def changes(excluded: Excluded) -> dict[str, Any]:
        return {name: excluded[name] for name in (*columns, *parents) if name not in key}

    return Upsert(table, columns, key, parents, changes, lambda excluded: excluded.as_of > table.c.as_of)


def _stored_changes(excluded: Excluded) -> dict[str, Any]:
    changes: dict[str, Any] = {name: excluded[name] for name in _STORED_COLUMNS if name != "object_key"}
    known = stored_object.c
    is_same = func.coalesce(known.stored_at, excluded.stored_at) == excluded.stored_at
    return changes | {
        "indexed_at": func.coalesce(known.indexed_at, excluded.indexed_at),
        "data_set_sha256": case((is_same, known.data_set_sha256), else_=None),
    }


def _history_changes(excluded: Excluded) -> dict[str, Any]:
    first, last = patient_history.c.first_as_of, patient_history.c.last_as_of
    return {
        "first_as_of": case((excluded.first_as_of < first, excluded.first_as_of), else_=first),
        "last_as_of": case((excluded.last_as_of > last, excluded.last_as_of), else_=last),
    }


def _history_condition(excluded: Excluded) -> Any:  # SQLAlchemy's boolean
    return or_(excluded.first_as_of < patient_history.c.first_as_of, excluded.last_as_of > patient_history.c.last_as_of)


def _key_of(table: Table, key: str, *columns: str) -> Lookup:
    return Lookup(table.c[key], {table.c[name]: f"parent_{name}" for name in columns})


_OF_PATIENT: Final = {"patient_key": _key_of(patient, "patient_key", *_IDENTITY)}
_OF_STUDY: Final = {"study_key": _key_of(study, "study_key", "study_instance_uid")}
_OF_SERIES: Final = {"series_key": _key_of(series, "series_key", "series_instance_uid")}
_STORED_COLUMNS: Final = (
    *("object_key", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "bytes", "object_sha256"),
    *("edge", "delivery_id", "stored_at", "indexed_at", "problem"),
)
_PROBLEM_COLUMNS: Final = ("object_key", "edge", "delivery_id", "bytes", "problem")

_PATIENT: Final = _level_upsert(patient, Level.PATIENT, _IDENTITY, ("unidentified_study_uid",))
_HISTORY: Final = Upsert(
    patient_history,
    ("digest", *_DEMOGRAPHICS, "first_as_of", "last_as_of"),
    ("patient_key", "digest"),
    _OF_PATIENT,
    _history_changes,
    _history_condition,
)
_WORD: Final = Upsert(patient_word, ("word",), ("word", "patient_key"), _OF_PATIENT)
_STUDY: Final = _level_upsert(study, Level.STUDY, ("study_instance_uid",), ("sort_at",), _OF_PATIENT)
_STUDY_PATIENT: Final = Upsert(
    study_patient, ("study_instance_uid",), ("study_instance_uid", "patient_key"), _OF_PATIENT
)
_SERIES: Final = _level_upsert(series, Level.SERIES, ("series_instance_uid",), (), _OF_STUDY)
_SERIES_STUDY: Final = Upsert(
    series_study, ("series_instance_uid", "study_instance_uid"), ("series_instance_uid", "study_instance_uid")
)
_INSTANCE: Final = _level_upsert(instance, Level.INSTANCE, ("sop_instance_uid",), ("object_key", "bytes"), _OF_SERIES)
_STORED: Final = Upsert(stored_object, _STORED_COLUMNS, ("object_key",), changes=_stored_changes)
_PROBLEM: Final = Upsert(
    stored_object,
    _PROBLEM_COLUMNS,
    ("object_key",),
    changes=lambda excluded: {name: excluded[name] for name in _PROBLEM_COLUMNS if name != "object_key"},
    condition=lambda _: stored_object.c.indexed_at.is_(None),
)
