"""Patients made anew from the objects that stay, after a study of theirs went: what it alone gave goes with it.

The rows tell of each value which object gave it last, and not what the others said, so the objects are read again, by
the caller. Transactions are the caller's, and so are the locks of the patients.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, select, update

from dicomflow.catalog.index import IndexedObject, identity_of, upsert_objects
from dicomflow.catalog.tables import patient, patient_history, patient_word, stored_object, study_patient
from dicomflow.errors import PermanentError, TransientError

__all__ = ["UnreadObjectsError", "make_patients_anew", "objects_of_patients"]


class UnreadObjectsError(TransientError):
    """Objects that stay, by their `keys`, were not read: they came meanwhile."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} more objects came for the study's patients: try again")
        self.keys = keys


_IDENTITY: Final = (patient.c.issuer_of_patient_id, patient.c.patient_id, patient.c.unidentified_study_uid)
_SAYS_NOTHING: Final = {
    column.name: "" if column.name == "as_of" else None
    for column in patient.c
    if column is not patient.c.patient_key and column not in set(_IDENTITY)
}


def objects_of_patients(connection: Connection, patients: Collection[int], without_study: str = "") -> list[str]:
    """Return the keys of the objects of all studies but one that patients were named for, in order."""
    uid = stored_object.c.study_instance_uid
    named = select(study_patient.c.study_instance_uid).where(study_patient.c.patient_key.in_(patients))
    statement = select(stored_object.c.object_key).where(
        uid.in_(named), uid != without_study, stored_object.c.stored_at.is_not(None)
    )
    return list(connection.scalars(statement.order_by(stored_object.c.object_key)))


def make_patients_anew(
    connection: Connection, patients: Collection[int], read: Mapping[str, IndexedObject | None], now: datetime
) -> None:
    """Make the rows of patients from their objects alone.

    Args:
        connection: a transaction that writes, and has the patients locked.
        patients: their `patient_key`s; those that are gone are passed over.
        read: their objects by key; None for one that can never be read, which says nothing.
        now: the time.

    Raises:
        PermanentError: an object names another patient than it was indexed under.
        UnreadObjectsError: objects of theirs are not among them.
    """
    keys = objects_of_patients(connection, patients)
    if unread := [key for key in keys if key not in read]:
        raise UnreadObjectsError(unread)
    objects = [each for key in keys if (each := read[key]) is not None]
    claims = (
        select(study_patient.c.study_instance_uid, *_IDENTITY, patient.c.patient_key)
        .join(patient, patient.c.patient_key == study_patient.c.patient_key)
        .where(
            study_patient.c.study_instance_uid.in_(
                select(study_patient.c.study_instance_uid).where(study_patient.c.patient_key.in_(patients))
            )
        )
    )
    known = {tuple(row[:4]): row.patient_key for row in connection.execute(claims)}
    named = {known.get((each.values["StudyInstanceUID"], *identity_of(each))) for each in objects}
    if None in named:
        raise PermanentError(
            "objects name other patients than they were indexed under: set DICOMFLOW_ISSUERS as the pipeline has it"
        )
    anew = [key for key in patients if key in named]
    for table in (patient_word, patient_history):
        connection.execute(delete(table).where(table.c.patient_key.in_(anew)))
    connection.execute(update(patient).where(patient.c.patient_key.in_(anew)).values(_SAYS_NOTHING))
    upsert_objects(connection, objects, now)
