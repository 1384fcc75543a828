"""Statements that find what is to be given out: instances with the objects that hold them. This module only reads."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, select

from dicomflow.catalog.tables import instance, patient, series, stored_object, study

__all__ = ["count_syntaxes", "find_stored", "find_version"]

_DIGEST: Final[ColumnElement[Any]] = func.coalesce(stored_object.c.sha256, stored_object.c.object_sha256).label(
    "sha256"
)


def find_stored(
    connection: Connection,
    *,
    patient_id: str | None,
    studies: Sequence[str],
    series_uids: Sequence[str],
    instances: Sequence[str],
) -> Sequence[Row[Any]]:
    """Return the objects that spoke last of the instances that fit all that is given.

    Columns: study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, bytes,
    sha256, object_key; by study, series number and instance number.
    """
    conditions: list[ColumnElement[bool]] = []
    if patient_id is not None:
        conditions.append(patient.c.patient_id == patient_id)
    for column, uids in (
        (study.c.study_instance_uid, studies),
        (series.c.series_instance_uid, series_uids),
        (instance.c.sop_instance_uid, instances),
    ):
        if uids:
            conditions.append(column == uids[0] if len(uids) == 1 else column.in_(uids))
    statement = _columns(instance.c.bytes, instance.c.object_key).outerjoin(
        stored_object, stored_object.c.object_key == instance.c.object_key
    )
    return connection.execute(
        statement.where(*conditions).order_by(
            study.c.study_instance_uid,
            series.c.series_number,
            series.c.series_instance_uid,
            instance.c.instance_number,
            instance.c.sop_instance_uid,
        )
    ).all()


def find_version(connection: Connection, sop_instance_uid: str, sha256: str) -> Row[Any] | None:
    """Return one object of an instance by the digest of its file, with the columns of `find_stored`.

    Its transfer syntax is "": the catalog knows that of the object that spoke last.
    """
    statement = (
        _columns(stored_object.c.bytes, stored_object.c.object_key, literal("").label("transfer_syntax_uid"))
        .join(stored_object, stored_object.c.sop_instance_uid == instance.c.sop_instance_uid)
        .where(
            instance.c.sop_instance_uid == sop_instance_uid, _DIGEST.in_([sha256]), stored_object.c.bytes.is_not(None)
        )
        .order_by(stored_object.c.object_key)
        .limit(1)
    )
    return connection.execute(statement).first()


def count_syntaxes(connection: Connection, after: int, most: int) -> tuple[Counter[tuple[str, str]], int, bool]:
    """Count instances by SOP class and transfer syntax, so many of those that were indexed after one.

    Returns:
        the counts, the key of the last that was looked at, and whether there were no more.
    """
    some = (
        select(instance.c.instance_key, instance.c.sop_class_uid, instance.c.transfer_syntax_uid)
        .where(instance.c.instance_key > after)
        .order_by(instance.c.instance_key)
        .limit(most)
        .subquery("some")
    )
    pair = (some.c.sop_class_uid, some.c.transfer_syntax_uid)
    statement = select(*pair, func.count(), func.max(some.c.instance_key)).group_by(*pair)
    found: Counter[tuple[str, str]] = Counter()
    read, last = 0, after
    for sop_class_uid, transfer_syntax_uid, count, key in connection.execute(statement):
        read, last = read + count, max(last, key)
        if sop_class_uid is not None and transfer_syntax_uid is not None:
            found[sop_class_uid, transfer_syntax_uid] += count
    return found, last, read < most


def _columns(
    size: ColumnElement[Any], key: ColumnElement[Any], syntax: ColumnElement[Any] = instance.c.transfer_syntax_uid
) -> Select[Any]:
    return (
        select(
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            syntax,
            size,
            _DIGEST,
            key,
        )
        .select_from(instance)
        .join(series, series.c.series_key == instance.c.series_key)
        .join(study, study.c.study_key == series.c.study_key)
        .join(patient, patient.c.patient_key == study.c.patient_key)
    )
