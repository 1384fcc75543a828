"""Index rows: one bulk upsert per level for a batch of objects, in an order that cannot deadlock.

Rows are a function of the set of objects, not of their order: an instance is what the object with the greatest `as_of`
says, what several objects describe is merged (`merging`), what only adds up is a set, and what is counted is counted
anew from the rows. So late, repeated and concurrent batches end in the same catalog. This module must not know how
objects are read.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date, datetime, time
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Table, Text, bindparam, case, func, or_, select, text, update

from dicomflow.catalog.merging import MergedTable, is_filled, merge_objects, write_merged
from dicomflow.catalog.objects import MAX_KEY_CHARACTERS, UIDS, IndexedObject, ObjectLocation, ObjectProblem
from dicomflow.catalog.ownership import record_claims, settle_owners
from dicomflow.catalog.tables import (
    instance,
    patient,
    patient_history,
    patient_word,
    series,
    series_study,
    stored_object,
    study,
)
from dicomflow.catalog.types import in_code_points
from dicomflow.catalog.upsert import Excluded, Upsert
from dicomflow.dicom.attributes import Level, column_name, of_level
from dicomflow.dicom.names import words_to_find

__all__ = [
    "IndexedObject",
    "ObjectLocation",
    "ObjectProblem",
    "demographics_digest",
    "identity_of",
    "lock_instances",
    "recount_versions",
    "upsert_objects",
    "upsert_problems",
]

_COLUMNS: Final = {
    level: tuple((attribute.keyword, attribute.column) for attribute in of_level(level)) for level in Level
}
_STORED_UIDS: Final = tuple((keyword, column_name(keyword)) for keyword in UIDS if keyword != "SOPClassUID")
_DEMOGRAPHICS: Final = ("patient_name", "patient_birth_date", "patient_sex")
_PAGE_UIDS: Final = 5000  # SQLite takes 32,766 parameters a statement

Key = tuple[Any, ...]
Rows = dict[Key, dict[str, Any]]


def upsert_objects(connection: Connection, objects: Sequence[IndexedObject], now: datetime) -> None:
    """Insert or update the rows of a batch, from patient down to object; a repeat changes nothing.

    Locks are taken table by table and in key order, so that concurrent batches wait for each other and go on.
    """
    identities: list[Key] = [identity_of(indexed) for indexed in objects]
    as_of = [_as_of(indexed) for indexed in objects]
    study_as_of = [f"{_study_time(indexed)}|{stored}" for indexed, stored in zip(objects, as_of, strict=True)]
    patient_keys = write_merged(connection, _PATIENT, _merged(_PATIENT, objects, identities, study_as_of))
    owners = [patient_keys[identity] for identity in identities]
    _execute(_HISTORY, connection, _history_rows(objects, owners, study_as_of))
    _execute(_WORD, connection, _word_rows(objects, owners))
    study_uids: list[str] = [indexed.values["StudyInstanceUID"] for indexed in objects]
    study_keys = write_merged(connection, _STUDY, _study_rows(objects, study_uids, owners, as_of))
    record_claims(connection, zip(study_uids, owners, as_of, map(_has_issuer, objects), strict=True))
    settle_owners(connection, set(study_uids))
    series_uids: list[str] = [indexed.values["SeriesInstanceUID"] for indexed in objects]
    of_study: list[Key] = [
        (study_keys[study_uid,], uid) for study_uid, uid in zip(study_uids, series_uids, strict=True)
    ]
    series_keys = write_merged(connection, _SERIES, _merged(_SERIES, objects, of_study, as_of))
    pairs = set(zip(series_uids, study_uids, strict=True))
    _execute(_SERIES_STUDY, connection, {pair: dict(zip(_SERIES_STUDY.columns, pair, strict=True)) for pair in pairs})
    _execute(_INSTANCE, connection, _instance_rows(objects, as_of, [series_keys[key] for key in of_study]))
    _execute(_STORED, connection, {(each.location.object_key,): _stored_row(each, now) for each in objects})
    recount_versions(connection, {each.values["SOPInstanceUID"] for each in objects})


def upsert_problems(connection: Connection, problems: Sequence[ObjectProblem]) -> None:
    """Record objects that cannot be indexed; one that once was indexed keeps its row, and what is known stays known."""
    keys = [problem.object_key.replace("\0", "\ufffd") for problem in problems]  # PostgreSQL holds no U+0000
    rows: Rows = {
        (key,): {
            "object_key": key,
            "edge": problem.edge,
            "delivery_id": problem.delivery_id,
            "bytes": problem.bytes,
            "problem": problem.reason,
        }
        for key, problem in zip(keys, problems, strict=True)
    }
    _execute(_PROBLEM, connection, rows)


def lock_instances(connection: Connection, sop_instance_uids: Iterable[str]) -> None:
    """Lock instances in key order, for whoever changes their objects' digests: before the objects' rows."""
    uids = sorted(sop_instance_uids)
    for start in range(0, len(uids), _PAGE_UIDS):
        wanted = instance.c.sop_instance_uid.in_(uids[start : start + _PAGE_UIDS])
        statement = select(instance.c.instance_key).where(wanted)
        connection.execute(statement.order_by(in_code_points(instance.c.sop_instance_uid)).with_for_update()).all()


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


def _merged(target: MergedTable, objects: Sequence[IndexedObject], keys: Sequence[Key], as_of: Sequence[str]) -> Rows:
    """Return one row per key, of all objects that have it."""
    of_key: dict[Key, list[tuple[str, int]]] = {}
    for number, key in enumerate(keys):
        of_key.setdefault(key, []).append((as_of[number], number))
    rows: Rows = {}
    for key, found in of_key.items():
        found.sort(reverse=True)
        newest_first = [(moment, objects[number]) for moment, number in found]
        rows[key] = merge_objects(newest_first, target.merged) | dict(zip(target.key, key, strict=True))
    return rows


def _study_rows(
    objects: Sequence[IndexedObject], study_uids: Sequence[str], owners: Sequence[int], as_of: Sequence[str]
) -> Rows:
    """Return one row per study; until its owner is settled, a new one is that of any patient it names."""
    rows = _merged(_STUDY, objects, [(uid,) for uid in study_uids], as_of)
    for uid, owner in zip(study_uids, owners, strict=True):
        rows[uid,] |= {"patient_key": owner, "sort_at": rows[uid,]["sort_at"] or ""}
    return rows


def identity_of(indexed: IndexedObject) -> tuple[str, str, str]:
    """Return whose object it is: without a Patient ID it is the study's own, so that strangers never become one."""
    patient_id = indexed.values.get("PatientID") or ""
    issuer = indexed.values.get("IssuerOfPatientID") or indexed.site_issuer
    return issuer, patient_id, "" if patient_id else indexed.values["StudyInstanceUID"]


def _has_issuer(indexed: IndexedObject) -> bool:
    return bool(indexed.values.get("IssuerOfPatientID"))


def _as_of(indexed: IndexedObject) -> str:
    """Order objects by the time they were stored; the key decides between equals."""
    return f"{indexed.location.stored_at.isoformat(timespec='microseconds')}|{indexed.location.object_key}"


def _study_time(indexed: IndexedObject) -> str:
    """Demographics follow the time of the study first: an old study that arrives late corrects nobody."""
    return f"{indexed.values.get('StudyDate') or date.min}T{indexed.values.get('StudyTime') or time.min}"


def _sort_at(indexed: IndexedObject) -> str | None:
    return _study_time(indexed) if indexed.values.get("StudyDate") else None


def _history_rows(objects: Sequence[IndexedObject], owners: Sequence[int], as_of: Sequence[str]) -> Rows:
    rows: Rows = {}
    values_of = [_PATIENT.merged[name] for name in _DEMOGRAPHICS]
    for indexed, owner, moment in zip(objects, owners, as_of, strict=True):
        known = tuple(value if is_filled(value) else None for value in (value_of(indexed) for value_of in values_of))
        if not any(known):
            continue
        row = rows.get((owner, known))
        if row is None:
            rows[owner, known] = {
                **dict(zip(_DEMOGRAPHICS, known, strict=True)),
                "patient_key": owner,
                "digest": demographics_digest(*known),
                "first_as_of": moment,
                "last_as_of": moment,
            }
        else:
            row["first_as_of"], row["last_as_of"] = min(row["first_as_of"], moment), max(row["last_as_of"], moment)
    return {(owner, row["digest"]): row for (owner, _), row in rows.items()}


def _word_rows(objects: Sequence[IndexedObject], owners: Sequence[int]) -> Rows:
    named = {(indexed.values.get("PatientName") or "", owner) for indexed, owner in zip(objects, owners, strict=True)}
    return {
        (word, owner): {"word": word, "patient_key": owner} for name, owner in named for word in words_to_find(name)
    }


def _instance_rows(objects: Sequence[IndexedObject], as_of: Sequence[str], series_keys: Sequence[int]) -> Rows:
    """Return one row per instance, whole, of the object that spoke last."""
    newest: dict[str, int] = {}
    for number, indexed in enumerate(objects):
        uid = indexed.values["SOPInstanceUID"]
        known = newest.setdefault(uid, number)
        if as_of[known] < as_of[number]:
            newest[uid] = number
    return {
        (uid,): _instance_row(objects[number], as_of[number], series_keys[number]) for uid, number in newest.items()
    }


def _instance_row(indexed: IndexedObject, as_of: str, series_key: int) -> dict[str, Any]:
    values = indexed.values
    row = {column: values.get(keyword) for keyword, column in _COLUMNS[Level.INSTANCE]}
    row["raw_values"] = indexed.raw_values.get(Level.INSTANCE)
    row["as_of"] = as_of
    row["object_key"] = indexed.location.object_key
    row["bytes"] = indexed.location.bytes
    row["series_key"] = series_key
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


def _values(table: Table, level: Level, key: tuple[str, ...]) -> dict[str, Callable[[IndexedObject], Any]]:
    """Return what gives each value of a level's row, its keys left out.

    A value too long for an index that its column is in stays in `raw_values`: the object is found by all else.
    """
    indexed = {column.name for index in table.indexes for column in index.columns if isinstance(column.type, Text)}
    found = [(keyword, column) for keyword, column in _COLUMNS[level] if column not in key]
    limited = [keyword for keyword, column in found if column in indexed]

    def value(keyword: str, each: IndexedObject) -> Any:
        return each.values.get(keyword)

    def short_value(keyword: str, each: IndexedObject) -> Any:
        return None if _is_long(each, keyword) else each.values.get(keyword)

    def raw_values(each: IndexedObject) -> dict[str, str] | None:
        long = {keyword: each.values[keyword] for keyword in limited if _is_long(each, keyword)}
        return {**each.raw_values.get(level, {}), **long} or None

    by_column = {column: partial(short_value if keyword in limited else value, keyword) for keyword, column in found}
    return {**by_column, "raw_values": raw_values}


def _is_long(indexed: IndexedObject, keyword: str) -> bool:
    return len(indexed.values.get(keyword) or "") > MAX_KEY_CHARACTERS


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


_STORED_COLUMNS: Final = (
    *("object_key", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "bytes", "object_sha256"),
    *("edge", "delivery_id", "stored_at", "indexed_at", "problem"),
)
_PROBLEM_COLUMNS: Final = ("object_key", "edge", "delivery_id", "bytes", "problem")

_IDENTITY: Final = ("issuer_of_patient_id", "patient_id", "unidentified_study_uid")
_PATIENT: Final = MergedTable(patient, "patient_key", _IDENTITY, _values(patient, Level.PATIENT, _IDENTITY))
_STUDY: Final = MergedTable(
    study,
    "study_key",
    ("study_instance_uid",),
    _values(study, Level.STUDY, ("study_instance_uid",)) | {"sort_at": _sort_at},
    ("patient_key",),
)
_SERIES: Final = MergedTable(
    series,
    "series_key",
    ("study_key", "series_instance_uid"),
    _values(series, Level.SERIES, ("series_instance_uid",)),
)
_HISTORY: Final = Upsert(
    patient_history,
    ("patient_key", "digest", *_DEMOGRAPHICS, "first_as_of", "last_as_of"),
    ("patient_key", "digest"),
    _history_changes,
    _history_condition,
)
_WORD: Final = Upsert(patient_word, ("word", "patient_key"), ("word", "patient_key"))
_SERIES_STUDY: Final = Upsert(
    series_study, ("series_instance_uid", "study_instance_uid"), ("series_instance_uid", "study_instance_uid")
)
_INSTANCE_COLUMNS: Final = (
    *(column for _, column in _COLUMNS[Level.INSTANCE]),
    *("raw_values", "as_of", "object_key", "bytes", "series_key"),
)
_INSTANCE: Final = Upsert(
    instance,
    _INSTANCE_COLUMNS,
    ("sop_instance_uid",),
    lambda excluded: {name: excluded[name] for name in _INSTANCE_COLUMNS if name != "sop_instance_uid"},
    lambda excluded: excluded.as_of > instance.c.as_of,
)
_STORED: Final = Upsert(stored_object, _STORED_COLUMNS, ("object_key",), changes=_stored_changes)
_PROBLEM: Final = Upsert(
    stored_object,
    _PROBLEM_COLUMNS,
    ("object_key",),
    changes=lambda excluded: {
        "problem": excluded.problem,
        **{name: func.coalesce(excluded[name], stored_object.c[name]) for name in ("edge", "delivery_id", "bytes")},
    },
    condition=lambda _: stored_object.c.indexed_at.is_(None),
)
