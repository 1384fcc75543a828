"""Statements that gather, from what is indexed, what decides whether the service will take a series as it is.

Transactions are the caller's. This module must not know the service's limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, String, case, cast, func, literal, select, union_all

from dicomflow.catalog.tables import instance, patient, series, stored_object, study

__all__ = ["SeriesFacts", "facts_of_series"]

_ELEMENTS: Final[Mapping[str, ColumnElement[Any]]] = {
    "PatientName": patient.c.patient_name,
    "PatientID": patient.c.patient_id,
    "PatientSex": patient.c.patient_sex,
    "StudyInstanceUID": study.c.study_instance_uid,
    "StudyID": study.c.study_id,
    "StudyDescription": study.c.study_description,
    "AccessionNumber": study.c.accession_number,
    "SeriesInstanceUID": series.c.series_instance_uid,
    "SOPInstanceUID": instance.c.sop_instance_uid,
}


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What the catalog knows of a delivered series: no values, only lengths and counts."""

    lengths: Mapping[str, int]  # the longest value of each element, in characters
    transfer_syntaxes: frozenset[str]
    largest_bytes: int
    unreadable: int
    not_indexed: int


def facts_of_series(connection: Connection, row: Row[Any]) -> SeriesFacts:
    """Gather the facts of one row of `series_import`."""
    of_series = (
        stored_object.c.delivery_id == row.delivery_id,
        stored_object.c.study_instance_uid == row.study_instance_uid,
        stored_object.c.series_instance_uid == row.series_instance_uid,
    )
    counts = connection.execute(
        select(
            func.coalesce(func.max(stored_object.c.bytes), 0),
            func.count(case((stored_object.c.indexed_at.is_(None), stored_object.c.problem))),
            func.count() - func.count(stored_object.c.indexed_at),
        ).where(*of_series)
    ).one()
    joined = (
        stored_object.join(instance, instance.c.sop_instance_uid == stored_object.c.sop_instance_uid)
        .join(series, series.c.series_key == instance.c.series_key)
        .join(study, study.c.study_key == series.c.study_key)
        .join(patient, patient.c.patient_key == study.c.patient_key)
    )
    longest = [
        select(literal(keyword), func.coalesce(func.max(func.length(cast(column, String))), 0))
        .select_from(joined)
        .where(*of_series)
        for keyword, column in _ELEMENTS.items()
    ]
    lengths = {found[0]: found[1] for found in connection.execute(union_all(*longest))}
    syntaxes = connection.execute(
        select(instance.c.transfer_syntax_uid).select_from(joined).where(*of_series).distinct()
    )
    found = frozenset(uid for uid in syntaxes.scalars() if uid)
    return SeriesFacts(lengths, found, counts[0], counts[1], max(counts[2] - counts[1], 0))
