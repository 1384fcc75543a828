"""The import queue page by page, with the reasons of what failed. Transactions are the caller's; it only reads."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, Connection, Row, func, literal, or_, select, tuple_

from dicomflow.catalog.search import StudyFilter, page_statement
from dicomflow.catalog.states import RETRIED, InstanceState, SeriesState
from dicomflow.catalog.tables import delivery_association, import_job, import_outcome, patient, series_import, study
from dicomflow.catalog.types import UtcDateTime
from dicomflow.dicom.names import fold_words

__all__ = [
    "ImportKey",
    "ImportPage",
    "about_studies",
    "count_reasons",
    "failed_for",
    "jobs_of_series",
    "page_of_imports",
    "reasons_of_imports",
    "senders_of_deliveries",
]

_MOST_STUDIES: Final = 1000

ImportKey = tuple[datetime, int]
"""Where a page ends: `updated_at` and `series_import_id` of its last row."""


@dataclass(frozen=True, slots=True)
class ImportPage:
    """Rows of `series_import`, the latest change first, and the key of the page after; None when this is the last."""

    rows: tuple[Row[Any], ...]
    next_key: ImportKey | None


def page_of_imports(
    connection: Connection,
    states: Collection[SeriesState] | None,
    *,
    text: str = "",
    after: ImportKey | None = None,
    limit: int = 50,
) -> ImportPage:
    """Return one page of the series in these states, in any with None.

    `text` is a UID, a Patient ID, an accession number, a calling AE title, or words of a patient's name.
    """
    columns = (series_import.c.updated_at, series_import.c.series_import_id)
    statement = select(series_import).order_by(*(column.desc() for column in columns)).limit(limit + 1)
    if states is not None:
        statement = statement.where(series_import.c.state.in_(states))
    if after is not None:
        statement = statement.where(tuple_(*columns) < tuple_(literal(after[0], UtcDateTime()), literal(after[1])))
    if text:
        statement = statement.where(_of(text))
    rows = connection.execute(statement).all()
    shown = tuple(rows[:limit])
    return ImportPage(shown, None if len(rows) <= limit else (shown[-1].updated_at, shown[-1].series_import_id))


def _of(text: str) -> ColumnElement[bool]:
    """Return what an import is found by; each has an index."""
    of_patient = StudyFilter(patient_name=text)
    named = page_statement(of_patient, after=None, limit=_MOST_STUDIES).subquery()
    known = (
        select(study.c.study_instance_uid)
        .join_from(study, patient, patient.c.patient_key == study.c.patient_key)
        .where(or_(patient.c.patient_id == text, study.c.accession_number == text))
    )
    sent = select(delivery_association.c.delivery_id).where(delivery_association.c.calling_ae_title == text)
    ways = [
        series_import.c.study_instance_uid == text,
        series_import.c.series_instance_uid == text,
        series_import.c.study_instance_uid.in_(known),
        series_import.c.delivery_id.in_(sent),
    ]
    if fold_words(text):
        ways.append(series_import.c.study_instance_uid.in_(select(named.c.study_instance_uid)))
    return or_(*ways)


def about_studies(connection: Connection, study_uids: Collection[str]) -> dict[str, Any]:  # rows of several types
    """Return whose studies these are, and what they are called; of one that is not indexed nothing."""
    columns = (
        *(study.c.study_instance_uid, study.c.study_description, study.c.study_date, study.c.accession_number),
        *(patient.c.patient_name, patient.c.patient_id),
    )
    statement = select(*columns).join_from(study, patient, patient.c.patient_key == study.c.patient_key)
    found = connection.execute(statement.where(study.c.study_instance_uid.in_(study_uids)))
    return {row.study_instance_uid: row for row in found}


def senders_of_deliveries(connection: Connection, delivery_ids: Collection[str]) -> dict[str, list[str]]:
    """Return the calling AE titles that brought each delivery."""
    statement = (
        select(delivery_association.c.delivery_id, delivery_association.c.calling_ae_title)
        .where(delivery_association.c.delivery_id.in_(delivery_ids))
        .distinct()
        .order_by(delivery_association.c.calling_ae_title)
    )
    found: dict[str, list[str]] = {}
    for number, title in connection.execute(statement):
        found.setdefault(number, []).append(title)
    return found


def count_reasons(connection: Connection, limit: int = 10) -> list[tuple[str, int]]:
    """Return why series that can be tried again failed, and how many for each reason, the most frequent first."""
    each = _reasons().subquery()
    statement = (
        select(each.c.reason, func.count(each.c.series_import_id.distinct()))
        .group_by(each.c.reason)
        .order_by(func.count(each.c.series_import_id.distinct()).desc(), each.c.reason)
    )
    return [(reason, count) for reason, count in connection.execute(statement.limit(limit))]


def failed_for(connection: Connection, reason: str) -> list[int]:
    """Return the imports that can be tried again and failed for this reason, for some instance or as a whole."""
    each = _reasons().subquery()
    return sorted(set(connection.scalars(select(each.c.series_import_id).where(each.c.reason == reason))))


def _reasons() -> CompoundSelect[Any]:
    of_series = select(series_import.c.series_import_id, series_import.c.message.label("reason")).where(
        series_import.c.state.in_(RETRIED), series_import.c.message.is_not(None)
    )
    of_instances = (
        select(series_import.c.series_import_id, import_outcome.c.reason)
        .join_from(series_import, import_outcome, import_outcome.c.series_import_id == series_import.c.series_import_id)
        .where(
            series_import.c.state.in_(RETRIED),
            import_outcome.c.outcome == InstanceState.FAILED,
            import_outcome.c.reason.is_not(None),
        )
    )
    return of_series.union(of_instances)


def reasons_of_imports(connection: Connection, series_import_ids: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
    """Return why instances of these series failed, and how many for each reason, the most frequent first."""
    statement = (
        select(import_outcome.c.series_import_id, import_outcome.c.reason, func.count())
        .where(
            import_outcome.c.series_import_id.in_(series_import_ids), import_outcome.c.outcome == InstanceState.FAILED
        )
        .group_by(import_outcome.c.series_import_id, import_outcome.c.reason)
        .order_by(func.count().desc(), import_outcome.c.reason)
    )
    found: dict[int, list[tuple[str, int]]] = {}
    for number, reason, count in connection.execute(statement):
        found.setdefault(number, []).append((reason or "no reason given", count))
    return found


def jobs_of_series(connection: Connection, series_import_id: int) -> list[Row[Any]]:
    """Return the jobs that took a series, the latest first."""
    of_series = select(import_outcome.c.import_job_id).where(import_outcome.c.series_import_id == series_import_id)
    current = select(series_import.c.import_job_id).where(series_import.c.series_import_id == series_import_id)
    statement = select(import_job).where(import_job.c.import_job_id.in_(of_series.union(current)))
    return list(connection.execute(statement.order_by(import_job.c.import_job_id.desc())))
