"""Removing a study: all its rows, in one transaction, with an audit event."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, delete, exists, select

from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.tables import (
    image_set,
    import_outcome,
    instance,
    patient,
    patient_history,
    patient_word,
    series,
    series_image_set,
    series_import,
    series_study,
    stored_object,
    study,
    study_patient,
)
from dicomflow.errors import PermanentError, TransientError

__all__ = ["check_removable", "delete_study", "image_sets_of_study", "object_keys_of_study"]

UNFINISHED: Final = (1, 2)
"""The status numbers of queued and in progress."""


def check_removable(connection: Connection, study_instance_uid: str) -> None:
    """Refuse a study that is not there, or whose import is under way.

    Raises:
        PermanentError: no row of the catalog names the study.
        TransientError: a series of it is queued or being imported.
    """
    of_study = stored_object.c.study_instance_uid == study_instance_uid
    known = select(exists().where(of_study) | exists().where(study.c.study_instance_uid == study_instance_uid))
    if not connection.scalar(known):
        raise PermanentError(f"the catalog has no study {study_instance_uid}")
    under_way = select(exists().where(_import_of(study_instance_uid), series_import.c.status.in_(UNFINISHED)))
    if connection.scalar(under_way):
        raise TransientError(f"study {study_instance_uid} is being imported: try again when that has ended")


def object_keys_of_study(connection: Connection, study_instance_uid: str) -> list[str]:
    """Return the keys of a study's objects, in order."""
    statement = select(stored_object.c.object_key).where(stored_object.c.study_instance_uid == study_instance_uid)
    return list(connection.scalars(statement.order_by(stored_object.c.object_key)))


def image_sets_of_study(connection: Connection, study_instance_uid: str) -> list[tuple[str, str]]:
    """Return data store and id of the image sets that hold series of a study, in order."""
    mapped = (
        select(series_image_set.c.datastore_id, series_image_set.c.image_set_id)
        .join(series, series.c.series_instance_uid == series_image_set.c.series_instance_uid)
        .join(study, study.c.study_key == series.c.study_key)
        .where(study.c.study_instance_uid == study_instance_uid)
    )
    return sorted({(datastore_id, image_set_id) for datastore_id, image_set_id in connection.execute(mapped)})


def delete_study(
    connection: Connection,
    study_instance_uid: str,
    now: datetime,
    *,
    actor: str,
    objects_deleted: int = 0,
    image_sets_deleted: Collection[str] = (),
) -> dict[str, int]:
    """Remove all rows of a study, and its patient when this was the last study; return how many, by table.

    The mapping of image sets is removed here; the ids of those that stay in HealthImaging go into the audit event.

    Raises:
        PermanentError: no row of the catalog names the study.
        TransientError: a series of it is queued or being imported.
    """
    _lock(connection, study_instance_uid)
    check_removable(connection, study_instance_uid)
    removed: dict[str, int] = {}

    def remove(table: Table, condition: ColumnElement[bool]) -> None:
        removed[table.name] = removed.get(table.name, 0) + connection.execute(delete(table).where(condition)).rowcount

    study_key = connection.scalar(select(study.c.study_key).where(study.c.study_instance_uid == study_instance_uid))
    patients = list(connection.scalars(select(study_patient.c.patient_key).where(_patient_of(study_instance_uid))))
    in_study = series.c.study_key == study_key
    series_uids = select(series.c.series_instance_uid).where(in_study)
    keys = select(stored_object.c.object_key).where(stored_object.c.study_instance_uid == study_instance_uid)
    image_sets = _image_sets(connection, series_uids)
    imports = select(series_import.c.series_import_id).where(_import_of(study_instance_uid))
    remove(import_outcome, import_outcome.c.object_key.in_(keys) | import_outcome.c.series_import_id.in_(imports))
    remove(series_import, _import_of(study_instance_uid))
    remove(series_image_set, series_image_set.c.series_instance_uid.in_(series_uids))
    remove(image_set, ~_is_mapped() & image_set.c.image_set_id.in_(image_sets))
    remove(instance, instance.c.series_key.in_(select(series.c.series_key).where(in_study)))
    remove(series, in_study)
    remove(series_study, series_study.c.study_instance_uid == study_instance_uid)
    remove(study, study.c.study_key == study_key)
    remove(study_patient, _patient_of(study_instance_uid))
    remove(stored_object, stored_object.c.study_instance_uid == study_instance_uid)
    for table in (patient_word, patient_history, patient):
        remove(table, table.c.patient_key.in_(patients) & ~_has_study(table))
    details = {
        "rows": removed,
        "objects_deleted": objects_deleted,
        "image_sets_deleted": len(image_sets_deleted),
        "image_sets_left": [each for each in image_sets if each not in image_sets_deleted],
    }
    record_audit_event(connection, now, actor=actor, action="delete_study", uid=study_instance_uid, details=details)
    return removed


def _lock(connection: Connection, study_instance_uid: str) -> None:
    """Lock from the patient down, as indexing does, so that neither waits for the other in a circle."""
    of_study = study.c.study_instance_uid == study_instance_uid
    patients = select(study_patient.c.patient_key).where(_patient_of(study_instance_uid))
    in_study = series.c.study_key.in_(select(study.c.study_key).where(of_study))
    statements: tuple[Any, ...] = (
        select(patient.c.patient_key).where(patient.c.patient_key.in_(patients)).order_by(patient.c.patient_key),
        select(study.c.study_key).where(of_study),
        select(series.c.series_key).where(in_study).order_by(series.c.series_instance_uid),
        select(instance.c.instance_key)
        .where(instance.c.series_key.in_(select(series.c.series_key).where(in_study)))
        .order_by(instance.c.sop_instance_uid),
    )
    for statement in statements:
        connection.execute(statement.with_for_update()).all()


def _import_of(study_instance_uid: str) -> ColumnElement[bool]:
    return series_import.c.study_instance_uid == study_instance_uid


def _patient_of(study_instance_uid: str) -> ColumnElement[bool]:
    return study_patient.c.study_instance_uid == study_instance_uid


def _image_sets(connection: Connection, series_uids: Any) -> list[str]:  # a select of one column
    mapped = select(series_image_set.c.image_set_id).where(series_image_set.c.series_instance_uid.in_(series_uids))
    return sorted(set(connection.scalars(mapped)))


def _is_mapped() -> ColumnElement[bool]:
    return exists().where(
        series_image_set.c.datastore_id == image_set.c.datastore_id,
        series_image_set.c.image_set_id == image_set.c.image_set_id,
    )


def _has_study(table: Table) -> ColumnElement[bool]:
    """Tell patients that a study is left of, or that another study was seen under."""
    key = table.c.patient_key
    return exists().where(study.c.patient_key == key) | exists().where(study_patient.c.patient_key == key)
