"""Finding studies: by patient, date, modality, accession number and state of import, page by page.

Each filter has an index that a page can be read from, whatever the size of the tables. This module only reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal, select, tuple_

from dicomflow.catalog.states import SHOWN, SeriesState, shown_as
from dicomflow.catalog.tables import instance, patient, patient_word, series, series_import, study
from dicomflow.dicom.names import fold_words

__all__ = ["FoundStudy", "PageKey", "StudyFilter", "StudyPage", "page_statement", "search_studies"]

PageKey = tuple[str, int]
"""Where a page ends, to ask for the next: `sort_at` and `study_key` of its last study."""

_LAST_CHARACTER: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """What is asked for; None asks for all.

    `patient_name` is words of a name in any order, each by its beginning, in any case, with or without accents.
    """

    patient_name: str | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    modality: str | None = None
    first_date: date | None = None
    last_date: date | None = None
    status: SeriesState | None = None


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """One study as a list shows it; `imports` counts its series' imports by status."""

    study_key: int
    study_instance_uid: str
    study_date: date | None
    study_time: time | None
    accession_number: str | None
    study_description: str | None
    patient_key: int
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str | None
    modalities: tuple[str, ...]
    series_count: int
    instance_count: int
    imports: dict[str, int]


@dataclass(frozen=True, slots=True)
class StudyPage:
    """Studies, the latest first, and the key of the page after; None when this is the last."""

    studies: tuple[FoundStudy, ...]
    next_key: PageKey | None


def search_studies(
    connection: Connection, wanted: StudyFilter, *, after: PageKey | None = None, limit: int = 25
) -> StudyPage:
    """Return one page of the studies that a filter lets through, the latest first."""
    rows = connection.execute(page_statement(wanted, after=after, limit=limit + 1)).all()
    shown = rows[:limit]
    keys = [row.study_key for row in shown]
    by_series = _series_of(connection, keys)
    instances = _instances_of(connection, keys)
    imports = _imports_of(connection, [row.study_instance_uid for row in shown])
    studies = tuple(
        FoundStudy(
            study_key=row.study_key,
            study_instance_uid=row.study_instance_uid,
            study_date=row.study_date,
            study_time=row.study_time,
            accession_number=row.accession_number,
            study_description=row.study_description,
            patient_key=row.patient_key,
            patient_id=row.patient_id,
            issuer_of_patient_id=row.issuer_of_patient_id,
            patient_name=row.patient_name,
            modalities=tuple(sorted(modality for modality in by_series.get(row.study_key, {}) if modality)),
            series_count=sum(by_series.get(row.study_key, {}).values()),
            instance_count=instances.get(row.study_key, 0),
            imports=imports.get(row.study_instance_uid, {}),
        )
        for row in shown
    )
    is_last = len(rows) <= limit
    return StudyPage(studies, None if is_last else (shown[-1].sort_at, shown[-1].study_key))


def page_statement(wanted: StudyFilter, *, after: PageKey | None, limit: int) -> Select[Any]:
    """Return the statement that finds a page's studies."""
    conditions = [*_of_patient(wanted), *_of_study(wanted)]
    if after is not None:
        conditions.append(tuple_(study.c.sort_at, study.c.study_key) < tuple_(literal(after[0]), literal(after[1])))
    shown = (study.c.study_instance_uid, study.c.study_date, study.c.study_time, study.c.accession_number)
    page = (
        select(study.c.sort_at, study.c.study_key, study.c.patient_key, *shown, study.c.study_description)
        .where(*conditions)
        .order_by(study.c.sort_at.desc(), study.c.study_key.desc())
        .limit(limit)
        .subquery("page")
    )
    return (
        select(page, patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.patient_name)
        .join_from(page, patient, patient.c.patient_key == page.c.patient_key)
        .order_by(page.c.sort_at.desc(), page.c.study_key.desc())
    )


def _of_patient(wanted: StudyFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for word in fold_words(wanted.patient_name or ""):
        begins = and_(patient_word.c.word >= word, patient_word.c.word < word + _LAST_CHARACTER)
        conditions.append(study.c.patient_key.in_(select(patient_word.c.patient_key).where(begins)))
    if wanted.patient_id is not None:
        named = select(patient.c.patient_key).where(patient.c.patient_id == wanted.patient_id)
        conditions.append(study.c.patient_key.in_(named))
    return conditions


def _of_study(wanted: StudyFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.accession_number is not None:
        conditions.append(study.c.accession_number == wanted.accession_number)
    if wanted.study_instance_uid is not None:
        conditions.append(study.c.study_instance_uid == wanted.study_instance_uid)
    if wanted.first_date is not None:
        conditions.append(study.c.sort_at >= wanted.first_date.isoformat())
    if wanted.last_date is not None:
        conditions.append(study.c.sort_at < (wanted.last_date + timedelta(days=1)).isoformat())
        conditions.append(study.c.sort_at != "")
    if wanted.modality is not None:
        of_modality = select(series.c.study_key).where(series.c.modality == wanted.modality)
        conditions.append(study.c.study_key.in_(of_modality))
    if wanted.status is not None:
        in_state = select(series_import.c.study_instance_uid).where(
            series_import.c.status == wanted.status.status,  # as the index has it
            series_import.c.state.in_(SHOWN[wanted.status]),
        )
        conditions.append(study.c.study_instance_uid.in_(in_state))
    return conditions


def _series_of(connection: Connection, study_keys: Sequence[int]) -> dict[int, dict[str | None, int]]:
    """Count the series of each modality of each study."""
    statement = (
        select(series.c.study_key, series.c.modality, func.count())
        .where(series.c.study_key.in_(study_keys))
        .group_by(series.c.study_key, series.c.modality)
    )
    found: dict[int, dict[str | None, int]] = {}
    for key, modality, count in connection.execute(statement):
        found.setdefault(key, {})[modality] = count
    return found


def _instances_of(connection: Connection, study_keys: Sequence[int]) -> dict[int, int]:
    statement = (
        select(series.c.study_key, func.count())
        .join_from(series, instance, instance.c.series_key == series.c.series_key)
        .where(series.c.study_key.in_(study_keys))
        .group_by(series.c.study_key)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def _imports_of(connection: Connection, study_uids: Sequence[str]) -> dict[str, dict[str, int]]:
    statement = (
        select(series_import.c.study_instance_uid, series_import.c.state, func.count())
        .where(series_import.c.study_instance_uid.in_(study_uids))
        .group_by(series_import.c.study_instance_uid, series_import.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for uid, state, count in connection.execute(statement):
        of_study, name = found.setdefault(uid, {}), shown_as(state)
        of_study[name] = of_study.get(name, 0) + count
    return found
