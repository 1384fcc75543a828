"""A question as the index can answer it: which columns are read, what SQL narrows, what is compared again.

A key that no column holds is told of as unmatched; one that is computed (`computed`) is compared as any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Final, cast

from sqlalchemy import Column, ColumnElement

from dicomflow.archive.catalog.computed import COMPUTED, Computed
from dicomflow.archive.errors import BadQueryError
from dicomflow.archive.items import ItemMatch
from dicomflow.archive.query import Field, Keys, Question, Value
from dicomflow.catalog import querying
from dicomflow.catalog.querying import LEVELS, column_of, order_of
from dicomflow.catalog.tables import instance, patient, series, study
from dicomflow.dicom.attributes import ATTRIBUTES, BY_TAG, Attribute, Level, ValueType
from dicomflow.dicom.matching import Empty, Match, MatchError, accepts_any, match_of, same_moment
from dicomflow.dicom.moments import parse_datetime

__all__ = ["KEYS", "Plan", "Row", "plan_of"]

Row = Mapping[Column[Any], Any]
"""What was read of one row."""

_UNIQUE: Final = {
    Level.PATIENT: 0x00100020,
    Level.STUDY: 0x0020000D,
    Level.SERIES: 0x0020000E,
    Level.INSTANCE: 0x00080018,
}
_LEVEL_KEY: Final = 0x00080052
_CHARACTER_SET: Final = 0x00080005
_TIME_ZONE: Final = 0x00080201
# Of these the catalog has values that say nothing of a row: how the identifier or the file is encoded.
_NO_KEYS: Final = frozenset({_CHARACTER_SET, 0x00020010})
# They tell of the identifier itself, and are matched nowhere (PS3.4 C.2.2.2).
_OF_THE_IDENTIFIER: Final = frozenset({_CHARACTER_SET, _LEVEL_KEY, _TIME_ZONE})
_PAIRS: Final = (
    (0x00080020, 0x00080030),
    (0x00080021, 0x00080031),
    (0x00080022, 0x00080032),
    (0x00080012, 0x00080013),
)
_MODALITY: Final = 0x00080060
_MODALITIES_IN_STUDY: Final = 0x00080061
# Whose text the index may hold beside its column, too long for it or with an offset from UTC.
_KEPT_RAW: Final = frozenset(
    {"AccessionNumber", "Modality", "PatientID", "IssuerOfPatientID"}
    | {attribute.keyword for attribute in ATTRIBUTES if attribute.vr == "DT"}
)
_RAW: Final = {
    Level.PATIENT: patient.c.raw_values,
    Level.STUDY: study.c.raw_values,
    Level.SERIES: series.c.raw_values,
    Level.INSTANCE: instance.c.raw_values,
}
KEYS: Final = {
    Level.PATIENT: patient.c.patient_key,
    Level.STUDY: study.c.study_key,
    Level.SERIES: series.c.series_key,
    Level.INSTANCE: instance.c.instance_key,
}
"""What tells the rows of a level from each other."""

Accepts = Callable[[Row], bool]
Get = Callable[[Row], Value]


@dataclass(slots=True)
class Plan:
    """How one question is answered; `columns` are read, and `computed` for the rows of a page at once."""

    level: Level
    columns: dict[Column[Any], None] = field(default_factory=dict)
    conditions: list[ColumnElement[bool]] = field(default_factory=list)
    checks: list[Accepts] = field(default_factory=list)
    computed: dict[int, Computed] = field(default_factory=dict)
    computed_checks: list[tuple[int, Match]] = field(default_factory=list)
    fields: list[tuple[Field, Get | None]] = field(default_factory=list)
    unmatched: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)

    @property
    def is_exact(self) -> bool:
        """Whether SQL gives the rows that are meant and no other."""
        return not self.checks and not self.computed_checks

    def add_key(self, match: Match | ItemMatch, attribute: Attribute) -> None:
        """Take a key whose attribute is in a column."""
        column = column_of(attribute)
        if isinstance(match, ItemMatch):
            self.conditions.append(column.is_not(None))
            self.checks.append(self._check(attribute, match.accepts))
            return
        narrowed = querying.narrow(attribute, match)
        if narrowed is not None:
            self.conditions.append(narrowed.condition)
        if narrowed is None or not narrowed.is_exact:
            self.checks.append(self._check(attribute, _accepts(attribute, match)))

    def add_pair(self, match: Match, days: Attribute, times: Attribute) -> None:
        """Take the range of a date and its time as one."""
        first, second = column_of(days), column_of(times)
        self.columns |= {first: None, second: None}
        self.checks.append(lambda row: match.accepts((row[first], row[second])))

    def add_field(self, attribute: Attribute) -> None:
        """Have an attribute returned."""
        column = column_of(attribute)
        self.columns[column] = None
        convert = _CONVERT.get(attribute.type)
        raw = _RAW[attribute.level] if attribute.keyword in _KEPT_RAW else None
        if raw is not None:
            self.columns[raw] = None

        def get(row: Row) -> Value:
            value = row[column]
            if raw is not None and (kept := (row[raw] or {}).get(attribute.keyword)):
                return cast("str", kept) if value is None or attribute.vr == "DT" else value
            return value if convert is None or value is None else convert(value)

        self.fields.append((Field(attribute.tag, attribute.vr, attribute.keyword), get))

    def add_computed(self, each: Computed) -> None:
        """Have a computed value, for the rows of a page at once."""
        self.computed[each.tag] = each
        self.columns[KEYS[each.level]] = None

    def _check(self, attribute: Attribute, accepts: Callable[[Any], bool]) -> Accepts:
        column = column_of(attribute)
        self.columns[column] = None
        if attribute.vr != "DT":
            return lambda row: accepts(row[column])
        raw, keyword = _RAW[attribute.level], attribute.keyword
        self.columns[raw] = None
        return lambda row: accepts(_with_offset(row[column], (row[raw] or {}).get(keyword)))


def plan_of(question: Question) -> Plan:
    """Return how to answer a question.

    Raises:
        BadQueryError: a key's value cannot be matched.
    """
    plan = Plan(question.level, dict.fromkeys(order_of(question.level)))
    matches = _matches(question, plan)
    for days, times in _PAIRS if question.combines_date_and_time else ():
        joined = same_moment(cast("Match", matches.get(days)), cast("Match", matches.get(times)))
        if joined is not None:
            plan.add_pair(joined, BY_TAG[days], BY_TAG[times])
            del matches[times]
    for tag, match in matches.items():
        _add_match(plan, tag, match)
    _add_fields(question, plan)
    return plan


def _matches(question: Question, plan: Plan) -> dict[int, Match | ItemMatch]:
    found: dict[int, Match | ItemMatch] = {}
    for tag, value in question.keys.items():
        if tag in _OF_THE_IDENTIFIER:
            continue
        asked = _as_in_study(tag, question.level)
        match = _match(question, asked, value)
        if match is None:
            continue
        if _is_known(asked, question.level, is_key=True):
            found[asked] = match
        else:
            plan.unmatched.add(tag)
    return found


def _as_in_study(tag: int, level: Level) -> int:
    """Take a Modality that is asked for above its level for the study's, as many requestors mean it."""
    return _MODALITIES_IN_STUDY if tag == _MODALITY and level is Level.STUDY else tag


def _match(question: Question, tag: int, value: "str | Keys") -> Match | ItemMatch | None:
    attribute = BY_TAG.get(tag)
    vr = attribute.vr if attribute is not None else COMPUTED[tag].vr if tag in COMPUTED else "LO"
    try:
        if not isinstance(value, str):
            item = ItemMatch.of(value, is_fuzzy=question.is_fuzzy)
            return item if item.keys else None
        if vr == "SQ":
            if question.matches_empty and value == '""':
                return Empty()
            if value.strip(" "):
                raise MatchError("a sequence is asked for by a value")  # noqa: TRY301  # as what the others raise
            return None
        return match_of(
            vr,
            value,
            is_fuzzy=question.is_fuzzy,
            matches_empty=question.matches_empty,
            matches_all=question.matches_all_values,
        )
    except MatchError as error:
        raise BadQueryError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}): {error}") from error


def _is_known(tag: int, level: Level, *, is_key: bool) -> bool:
    """Tell whether an attribute is there for the rows of a level: its own or one above it has it."""
    if tag in COMPUTED:
        return COMPUTED[tag].is_of(level) and (COMPUTED[tag].is_matched or not is_key)
    attribute = BY_TAG.get(tag)
    return attribute is not None and tag not in _NO_KEYS and LEVELS.index(attribute.level) <= LEVELS.index(level)


def _add_match(plan: Plan, tag: int, match: Match | ItemMatch) -> None:
    if tag not in COMPUTED:
        attribute = BY_TAG[tag]
        if not isinstance(match, Empty) and isinstance(match, ItemMatch) != (attribute.vr == "SQ"):
            raise BadQueryError(f"{attribute.keyword} is {'a' if attribute.vr == 'SQ' else 'no'} sequence")
        plan.add_key(match, attribute)
        return
    computed = COMPUTED[tag]
    if isinstance(match, ItemMatch):
        raise BadQueryError(f"{computed.keyword} is no sequence")
    narrowed = computed.narrow(match) if computed.narrow is not None else None
    if narrowed is not None:
        plan.conditions.append(narrowed.condition)
    if narrowed is None or not narrowed.is_exact:
        plan.add_computed(computed)
        plan.computed_checks.append((tag, match))


def _add_fields(question: Question, plan: Plan) -> None:
    """Take what is wanted, and the unique keys of the level and of those above it (PS3.4 C.4.1.1.3.2)."""
    at = LEVELS.index(question.level)
    wanted = set(question.returned) | {_UNIQUE[level] for level in LEVELS[1 : at + 1] or LEVELS[:1]}
    for tag in sorted(wanted - _OF_THE_IDENTIFIER):
        if not _is_known(tag, question.level, is_key=False):
            plan.unknown.add(tag)
        elif tag in COMPUTED:
            each = COMPUTED[tag]
            plan.add_computed(each)
            plan.fields.append((Field(tag, each.vr, each.keyword), None))
        else:
            plan.add_field(BY_TAG[tag])


def _accepts(attribute: Attribute, match: Match) -> Callable[[Any], bool]:
    if not attribute.many:
        return match.accepts
    return lambda value: accepts_any(match, value if isinstance(value, list) and value else [None])


def _with_offset(value: datetime | None, raw: str | None) -> Any:
    """Return a wall clock's time with the offset that the object wrote, where it did."""
    span = parse_datetime(raw) if raw else None
    return value if span is None or span.offset is None or value is None else (value, span.offset)


def _date(value: date) -> str:
    return f"{value.year:04}{value.month:02}{value.day:02}"


def _time(value: time) -> str:
    clock = f"{value.hour:02}{value.minute:02}{value.second:02}"
    return f"{clock}.{value.microsecond:06}" if value.microsecond else clock


def _date_time(value: datetime) -> str:
    return _date(value) + _time(value.time())


_CONVERT: Final[Mapping[ValueType, Callable[[Any], Value]]] = {
    ValueType.DATE: _date,
    ValueType.TIME: _time,
    ValueType.DATETIME: _date_time,
}
