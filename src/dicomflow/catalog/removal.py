"""Removing a study: all its rows, in one transaction, with an audit event.

A patient who stays is made anew from the objects that stay, so the catalog is what a rebuild would make.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, or_, select, text, update

from dicomflow.catalog.anew import make_patients_anew, objects_of_patients
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.index import IndexedObject, recount_versions
from dicomflow.catalog.states import UNSETTLED
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
from dicomflow.catalog.types import in_code_points
from dicomflow.errors import PermanentError, TransientError

__all__ = [
    "check_removable",
    "delete_study",
    "deliveries_of_study",
    "image_sets_of_study",
    "object_keys_of_study",
    "objects_to_index",
    "objects_to_read",
]


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
    is_unsettled = series_import.c.status.in_([state.status for state in UNSETTLED])  # as the index has them
    under_way = select(exists().where(_import_of(study_instance_uid), is_unsettled))
    if connection.scalar(under_way):
        raise TransientError(f"study {study_instance_uid} is being imported: try again when that has ended")


def deliveries_of_study(connection: Connection, study_instance_uid: str) -> frozenset[str]:
    """Return the ids of the deliveries that brought a study."""
    of_objects = select(stored_object.c.delivery_id).where(stored_object.c.study_instance_uid == study_instance_uid)
    of_imports = select(series_import.c.delivery_id).where(_import_of(study_instance_uid))
    return frozenset(each for each in connection.scalars(of_objects.union(of_imports)) if each is not None)


def object_keys_of_study(connection: Connection, study_instance_uid: str) -> list[str]:
    """Return the keys of a study's objects, in order."""
    statement = select(stored_object.c.object_key).where(stored_object.c.study_instance_uid == study_instance_uid)
    return list(connection.scalars(statement.order_by(stored_object.c.object_key)))


def image_sets_of_study(connection: Connection, study_instance_uid: str) -> list[tuple[str, str]]:
    """Return data store and id of the image sets that hold series of a study, in order."""
    statement = select(series_image_set.c.datastore_id, series_image_set.c.image_set_id).where(
        series_image_set.c.study_instance_uid == study_instance_uid
    )
    return sorted({(datastore_id, image_set_id) for datastore_id, image_set_id in connection.execute(statement)})


def delete_study(
    connection: Connection,
    study_instance_uid: str,
    now: datetime,
    *,
    actor: str,
    deliveries: Collection[str] | None = None,
    objects_deleted: int = 0,
    image_sets_deleted: Collection[str] = (),
    read: Mapping[str, IndexedObject | None] | None = None,
) -> dict[str, int]:
    """Remove all rows of a study, and its patient when this was the last study; return how many, by table.

    What comes meanwhile stays: only what `deliveries` brought is removed, by default those that are there at the
    start. The mapping of image sets is removed here; the ids of those that stay in HealthImaging go into the audit
    event. An object of another study that has the SOP Instance UID of one that goes is to be indexed again: its
    `indexed_at` is NULL. Of a patient who stays the rows are made anew from `read`, which is what `objects_to_read`
    names; without it they stay as they are.

    Raises:
        PermanentError: no row of the catalog names the study, or what was read names other patients.
        TransientError: a series of it is queued or being imported.
        UnreadObjectsError: more objects of its patients came; read, they let it go on.
    """
    _lock(connection, study_instance_uid)
    seen = deliveries_of_study(connection, study_instance_uid) if deliveries is None else deliveries
    check_removable(connection, study_instance_uid)
    removed: dict[str, int] = {}

    def remove(table: Table, condition: ColumnElement[bool]) -> None:
        removed[table.name] = removed.get(table.name, 0) + connection.execute(delete(table).where(condition)).rowcount

    study_key = connection.scalar(select(study.c.study_key).where(study.c.study_instance_uid == study_instance_uid))
    patients = list(connection.scalars(select(study_patient.c.patient_key).where(_patient_of(study_instance_uid))))
    image_sets = [image_set_id for _, image_set_id in image_sets_of_study(connection, study_instance_uid)]
    of_study = and_(
        stored_object.c.study_instance_uid == study_instance_uid,
        or_(stored_object.c.delivery_id.is_(None), stored_object.c.delivery_id.in_(seen)),
    )
    several = _instances_of_several(connection, of_study)
    this_import = and_(_import_of(study_instance_uid), series_import.c.delivery_id.in_(seen))
    imports = select(series_import.c.series_import_id).where(this_import)
    keys = select(stored_object.c.object_key).where(of_study)
    remove(import_outcome, import_outcome.c.object_key.in_(keys) | import_outcome.c.series_import_id.in_(imports))
    remove(series_import, this_import)
    remove(stored_object, of_study)
    in_study = series.c.study_key == study_key
    without_object = and_(
        instance.c.series_key.in_(select(series.c.series_key).where(in_study)),
        ~exists().where(stored_object.c.object_key == instance.c.object_key),
    )
    hidden = stored_object.c.sop_instance_uid.in_(select(instance.c.sop_instance_uid).where(without_object))
    connection.execute(update(stored_object).where(hidden).values(indexed_at=None))
    remove(instance, without_object)
    remove(series, in_study & ~exists().where(instance.c.series_key == series.c.series_key))
    remove(series_image_set, and_(series_image_set.c.study_instance_uid == study_instance_uid, ~_is_series(study_key)))
    remove(image_set, ~_is_mapped() & image_set.c.image_set_id.in_(image_sets))
    if not connection.scalar(select(exists().where(in_study))):
        remove(series_study, series_study.c.study_instance_uid == study_instance_uid)
        remove(study, study.c.study_key == study_key)
        remove(study_patient, _patient_of(study_instance_uid))
        for table in (patient_word, patient_history, patient):
            remove(table, table.c.patient_key.in_(patients) & ~_has_study(table))
    recount_versions(connection, several)
    if read is not None:
        make_patients_anew(connection, patients, read, now)
    details = {
        "rows": removed,
        "objects_deleted": objects_deleted,
        "image_sets_deleted": len(image_sets_deleted),
        "image_sets_left": [each for each in image_sets if each not in image_sets_deleted],
    }
    record_audit_event(connection, now, actor=actor, action="delete_study", uid=study_instance_uid, details=details)
    return removed


def objects_to_read(connection: Connection, study_instance_uid: str) -> list[str]:
    """Return the keys of the other objects of a study's patients, from which these are made anew."""
    patients = connection.scalars(select(study_patient.c.patient_key).where(_patient_of(study_instance_uid)))
    return objects_of_patients(connection, list(patients), study_instance_uid)


def objects_to_index(connection: Connection) -> list[str]:
    """Return the keys of the objects that were indexed, and are to be again."""
    statement = select(stored_object.c.object_key).where(
        stored_object.c.indexed_at.is_(None), stored_object.c.stored_at.is_not(None), stored_object.c.problem.is_(None)
    )
    return list(connection.scalars(statement.order_by(stored_object.c.object_key)))


def _lock(connection: Connection, study_instance_uid: str) -> None:
    """Lock from the patient down, as indexing does, so that neither waits for the other in a circle."""
    of_study = study.c.study_instance_uid == study_instance_uid
    patients = select(study_patient.c.patient_key).where(_patient_of(study_instance_uid))
    in_study = series.c.study_key.in_(select(study.c.study_key).where(of_study))
    identity = (patient.c.issuer_of_patient_id, patient.c.patient_id, patient.c.unidentified_study_uid)
    statements: tuple[Any, ...] = (
        select(patient.c.patient_key)
        .where(patient.c.patient_key.in_(patients))
        .order_by(*map(in_code_points, identity)),
        select(study.c.study_key).where(of_study),
        select(series.c.series_key).where(in_study).order_by(in_code_points(series.c.series_instance_uid)),
        select(instance.c.instance_key)
        .where(instance.c.series_key.in_(select(series.c.series_key).where(in_study)))
        .order_by(in_code_points(instance.c.sop_instance_uid)),
    )
    for statement in statements:
        connection.execute(statement.with_for_update()).all()


def _instances_of_several(connection: Connection, of_study: ColumnElement[bool]) -> set[str]:
    """Return the SOP Instance UIDs among a study's objects that other objects may have too."""
    uids = select(stored_object.c.sop_instance_uid).where(of_study)
    # "versions > 1" stands as it does in the index of the few rows that have several.
    statement = select(instance.c.sop_instance_uid).where(text("versions > 1"), instance.c.sop_instance_uid.in_(uids))
    return set(connection.scalars(statement))


def _import_of(study_instance_uid: str) -> ColumnElement[bool]:
    return series_import.c.study_instance_uid == study_instance_uid


def _patient_of(study_instance_uid: str) -> ColumnElement[bool]:
    return study_patient.c.study_instance_uid == study_instance_uid


def _is_series(study_key: int | None) -> ColumnElement[bool]:
    return exists().where(
        series.c.study_key == study_key, series.c.series_instance_uid == series_image_set.c.series_instance_uid
    )


def _is_mapped() -> ColumnElement[bool]:
    return exists().where(
        series_image_set.c.datastore_id == image_set.c.datastore_id,
        series_image_set.c.image_set_id == image_set.c.image_set_id,
    )


def _has_study(table: Table) -> ColumnElement[bool]:
    """Tell patients that a study is left of, or that another study was seen under."""
    key = table.c.patient_key
    return exists().where(study.c.patient_key == key) | exists().where(study_patient.c.patient_key == key)
