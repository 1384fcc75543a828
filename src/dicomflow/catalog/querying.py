"""Questions to the index in DICOM's terms: rows of a level, the newest study first, page by page, and what is counted.

What SQL cannot tell as the standard does it narrows down, and says so; whoever asks compares again. This module only
reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, false, func, literal, or_, select, tuple_

from dicomflow.catalog.tables import instance, patient, patient_word, series, study
from dicomflow.dicom.attributes import Attribute, Level, ValueType
from dicomflow.dicom.matching import AnyOf, Empty, EveryOf, Exact, Match, Name, Pattern, Range, Words
from dicomflow.dicom.names import MAX_WORD_CHARACTERS, fold_words

__all__ = [
    "COUNTS",
    "LEVELS",
    "Narrowed",
    "column_of",
    "count_rows",
    "modalities_of",
    "narrow",
    "narrow_classes_in_study",
    "narrow_modalities_in_study",
    "order_of",
    "page_of_rows",
    "sop_classes_of",
    "transfer_syntaxes_of",
]

LEVELS: Final = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
"""From the top of the hierarchy down."""

_TABLES: Final = {Level.PATIENT: patient, Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}
_LAST_CHARACTER: Final = "\U0010ffff"
_MAX_INTEGER: Final = 2**63 - 1
_ESCAPE: Final = "!"


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A condition that holds for each row that is meant; with `is_exact` for no other."""

    condition: ColumnElement[bool]
    is_exact: bool


def column_of(attribute: Attribute) -> Column[Any]:
    """Return the column of an attribute."""
    return _TABLES[attribute.level].c[attribute.column]


def order_of(level: Level) -> tuple[Column[Any], ...]:
    """Return what the rows of a level are sorted by, descending; it tells each row from the others."""
    if level is Level.PATIENT:
        return (patient.c.patient_key,)
    keys = (study.c.sort_at, study.c.study_key, series.c.series_key, instance.c.instance_key)
    return keys[: LEVELS.index(level) + 1]


def page_of_rows(
    connection: Connection,
    level: Level,
    columns: Sequence[Column[Any]],
    conditions: Sequence[ColumnElement[bool]],
    *,
    after: Sequence[Any] | None,
    offset: int,
    limit: int,
) -> Sequence[Row[Any]]:
    """Return one page of rows.

    Args:
        connection: the caller's transaction.
        level: of what each row is.
        columns: of this level or those above it.
        conditions: on columns of this level or those above it, or on their keys.
        after: the values of `order_of` in the last row of the page before.
        offset: how many rows to leave out.
        limit: at most so many.
    """
    order = order_of(level)
    statement = _of_level(select(*columns), level, {column.table.name for column in columns}, conditions)
    if after is not None:
        keys = [literal(value) for value in after]
        statement = statement.where(tuple_(*order) < tuple_(*keys))
        if len(order) > 1:
            statement = statement.where(order[0] <= keys[0])  # of the first table alone, whose index has it
    statement = statement.order_by(*(column.desc() for column in order)).limit(limit)
    return connection.execute(statement.offset(offset) if offset else statement).all()


def count_rows(
    connection: Connection, level: Level, conditions: Sequence[ColumnElement[bool]], *, offset: int, most: int
) -> int:
    """Return how many rows there are behind `offset`, or `most` where there are at least so many."""
    found = _of_level(select(order_of(level)[-1]), level, set(), conditions).offset(offset).limit(most)
    return connection.execute(select(func.count()).select_from(found.subquery())).scalar_one()


def _of_level(
    statement: Select[Any], level: Level, tables: set[str], conditions: Sequence[ColumnElement[bool]]
) -> Select[Any]:
    """Join what a level's rows are made of: the tables between it and the study, the patient's where it is needed."""
    if level is Level.PATIENT:
        return statement.select_from(patient).where(*conditions)
    of_conditions = {table for condition in conditions for table in condition._from_objects}  # noqa: SLF001  # what it is about
    joined: Any = study
    if level is not Level.STUDY:
        joined = joined.join(series, series.c.study_key == study.c.study_key)
    if level is Level.INSTANCE:
        joined = joined.join(instance, instance.c.series_key == series.c.series_key)
    if patient.name in tables or patient in of_conditions:
        joined = joined.join(patient, patient.c.patient_key == study.c.patient_key)
    return statement.select_from(joined).where(*conditions)


def narrow(attribute: Attribute, match: Match) -> Narrowed | None:
    """Return what a match says of an attribute's column; None where it says nothing that SQL knows."""
    column = column_of(attribute)
    if isinstance(match, AnyOf | EveryOf):
        parts = [narrow(attribute, each) for each in match.matches]
        if any(part is None for part in parts):
            return None
        found = [part for part in parts if part is not None]
        joined = (or_ if isinstance(match, AnyOf) else and_)(*(part.condition for part in found))
        return Narrowed(joined, all(part.is_exact for part in found))
    if isinstance(match, Empty):
        return Narrowed(_is_empty(attribute, column), is_exact=attribute.type is not ValueType.JSON)
    if attribute.type is ValueType.JSON:
        return Narrowed(column.is_not(None), is_exact=False)
    match match:
        case Exact():
            return _one_of(attribute, column, match)
        case Range() if attribute.type is not ValueType.DATETIME:
            return _between(attribute, column, match)
        case Pattern():
            return Narrowed(column.like(_like(match.text), escape=_ESCAPE), is_exact=False)
        case Name() | Words() if attribute.keyword == "PatientName":
            return Narrowed(_has_words(match), is_exact=False)
    return Narrowed(column.is_not(None), is_exact=False)


def narrow_modalities_in_study(attribute: Attribute, match: Match) -> Narrowed:
    """Return the studies that have a series of a modality; `attribute` is the series' Modality."""
    return _of_studies(select(series.c.study_key), attribute, match)


def narrow_classes_in_study(attribute: Attribute, match: Match) -> Narrowed:
    """Return the studies that have an instance of a SOP class; `attribute` is the instance's SOP Class UID."""
    joined = select(series.c.study_key).join_from(series, instance, instance.c.series_key == series.c.series_key)
    return _of_studies(joined, attribute, match)


def _of_studies(studies: Select[Any], attribute: Attribute, match: Match) -> Narrowed:
    if isinstance(match, EveryOf):
        each = [_of_studies(studies, attribute, part) for part in match.matches]
        return Narrowed(and_(*(part.condition for part in each)), all(part.is_exact for part in each))
    found = narrow(attribute, match)
    if isinstance(match, Empty):
        has_one = _TABLES[attribute.level].c[attribute.column].is_not(None)
        return Narrowed(study.c.study_key.not_in(studies.where(has_one)), is_exact=True)
    if found is None:
        return Narrowed(study.c.study_key.in_(studies), is_exact=False)
    return Narrowed(study.c.study_key.in_(studies.where(found.condition)), found.is_exact)


def _is_empty(attribute: Attribute, column: Column[Any]) -> ColumnElement[bool]:
    if attribute.type in {ValueType.TEXT, ValueType.UID}:
        return or_(column.is_(None), column == "")
    return column.is_(None)


def _one_of(attribute: Attribute, column: Column[Any], match: Exact) -> Narrowed:
    values = match.values
    if attribute.type is ValueType.INTEGER:
        values = frozenset(value for value in values if abs(value) <= _MAX_INTEGER)
        if not values:
            return Narrowed(false(), is_exact=True)
    if attribute.keyword == "StudyDate" and len(values) == 1:
        (day,) = values
        return _between(attribute, column, Range(day, day))
    if len(values) == 1:
        (value,) = values
        return Narrowed(column == value, is_exact=True)
    return Narrowed(column.in_(sorted(values)), is_exact=True)


def _between(attribute: Attribute, column: Column[Any], match: Range) -> Narrowed:
    conditions: list[ColumnElement[bool]] = [column.is_not(None)]
    if match.first is not None:
        conditions.append(column >= match.first)
    if match.last is not None:
        conditions.append(column <= match.last)
    if attribute.keyword == "StudyDate":  # which `sort_at` begins with, and that has an index
        if match.first is not None:
            conditions.append(study.c.sort_at >= match.first.isoformat())
        if match.last is not None and match.last < date.max:
            conditions.append(study.c.sort_at < (match.last + timedelta(days=1)).isoformat())
    return Narrowed(and_(*conditions), is_exact=True)


def _like(pattern: str) -> str:
    escaped = "".join(_ESCAPE + each if each in "%_" + _ESCAPE else each for each in pattern)
    return escaped.replace("*", "%").replace("?", "_")


def _has_words(match: Name | Words) -> ColumnElement[bool]:
    """Return a condition on the words that a patient is found by, which are more than those of the present name."""
    conditions: list[ColumnElement[bool]] = []
    for word, is_beginning in _words_of(match):
        if is_beginning:
            found = and_(patient_word.c.word >= word, patient_word.c.word < word + _LAST_CHARACTER)
        else:
            found = patient_word.c.word.like(f"%{_like(word)}%", escape=_ESCAPE)
        conditions.append(patient.c.patient_key.in_(select(patient_word.c.patient_key).where(found)))
    return and_(*conditions) if conditions else patient.c.patient_name.is_not(None)


def _words_of(match: Name | Words) -> Iterable[tuple[str, bool]]:
    """Yield parts of words that a name must have, and whether a word begins with each."""
    if isinstance(match, Words):
        yield from ((word, not match.anywhere) for word in match.words)
        return
    for group in match.groups:
        # The words before a wild card begin where they stand; behind one the first may be the end of another.
        for number, piece in enumerate(group.replace("?", "*").split("*")):
            yield from ((word, number == 0) for word in fold_words(piece) if len(word) < MAX_WORD_CHARACTERS)


def modalities_of(connection: Connection, study_keys: Sequence[int]) -> dict[int, list[str]]:
    """Return the modalities of studies, sorted."""
    statement = select(series.c.study_key, series.c.modality).where(
        series.c.study_key.in_(study_keys), series.c.modality.is_not(None)
    )
    return _sorted_by_key(connection, statement.distinct())


def sop_classes_of(connection: Connection, study_keys: Sequence[int]) -> dict[int, list[str]]:
    """Return the SOP classes of studies, sorted."""
    joined = select(series.c.study_key, instance.c.sop_class_uid).join_from(
        series, instance, instance.c.series_key == series.c.series_key
    )
    return _sorted_by_key(connection, joined.where(series.c.study_key.in_(study_keys)).distinct())


def transfer_syntaxes_of(connection: Connection, instance_keys: Sequence[int]) -> dict[int, list[str]]:
    """Return the one transfer syntax in which each instance is stored."""
    statement = select(instance.c.instance_key, instance.c.transfer_syntax_uid).where(
        instance.c.instance_key.in_(instance_keys), instance.c.transfer_syntax_uid.is_not(None)
    )
    return _sorted_by_key(connection, statement)


def _sorted_by_key(connection: Connection, statement: Select[Any]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for key, value in connection.execute(statement):
        found.setdefault(key, []).append(value)
    return {key: sorted(values) for key, values in found.items()}


def _count(statement: Select[Any], key: Column[Any]) -> Callable[[Connection, Sequence[int]], dict[int, int]]:
    def count(connection: Connection, keys: Sequence[int]) -> dict[int, int]:
        rows = connection.execute(statement.where(key.in_(keys)).group_by(key))
        return {row[0]: row[1] for row in rows}

    return count


_of_series = instance.c.series_key == series.c.series_key
_of_study = series.c.study_key == study.c.study_key
_patients_series = study.join(series, _of_study)

COUNTS: Final[Mapping[tuple[Level, Level], Callable[[Connection, Sequence[int]], dict[int, int]]]] = {
    (Level.PATIENT, Level.STUDY): _count(select(study.c.patient_key, func.count()), study.c.patient_key),
    (Level.PATIENT, Level.SERIES): _count(
        select(study.c.patient_key, func.count()).select_from(_patients_series), study.c.patient_key
    ),
    (Level.PATIENT, Level.INSTANCE): _count(
        select(study.c.patient_key, func.count()).select_from(_patients_series.join(instance, _of_series)),
        study.c.patient_key,
    ),
    (Level.STUDY, Level.SERIES): _count(select(series.c.study_key, func.count()), series.c.study_key),
    (Level.STUDY, Level.INSTANCE): _count(
        select(series.c.study_key, func.count()).select_from(series.join(instance, _of_series)), series.c.study_key
    ),
    (Level.SERIES, Level.INSTANCE): _count(select(instance.c.series_key, func.count()), instance.c.series_key),
}
"""Counts rows of the lower level for each key of the upper; keys without any are left out."""
