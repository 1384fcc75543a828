"""Queries answered by a DICOMweb origin (QIDO-RS, PS3.18 10.6): page by page until there is no more.

A page that cannot be had ends the answer with its error. What an origin sends beside what is asked for is left out, and
what it sends twice, since pages shift when something is stored meanwhile, is told once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.query import Answers, Question, Value
from dicomflow.archive.remote.client import OriginClient
from dicomflow.archive.remote.origin import Kind
from dicomflow.archive.remote.plan import UNIQUE, Moment, Plan, Search, plan_of
from dicomflow.dicom.attributes import Level
from dicomflow.dicom.json import json_values
from dicomflow.dicom.moments import parse_date, parse_time
from dicomflow.errors import PermanentError, TransientError

__all__ = ["RemoteQuery"]

_PAGE_ROWS: Final = 1000
"""The most that HealthImaging gives at once."""
_FIRST_PAGE_ROWS: Final = 100
"""So that the first answers of many come soon."""
_MOST_FIELDS: Final = 50  # that HealthImaging takes
_CUT_AT: Final = 10_000  # where older texts of HealthImaging's guide end a list
_INSTANCES: Final = re.compile(r"/studies/([0-9.]+)(?:/series/([0-9.]+))?/instances")
_OF_STUDY, _OF_SERIES = 0x00201208, 0x00201209
_INTEGERS: Final = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_DECIMALS: Final = frozenset({"FD", "FL"})

Row = Mapping[str, Any]
Rows = list[tuple[Value, ...]]


class RemoteQuery:
    """Answers questions from an origin, in its order. Threads: any."""

    def __init__(self, client: OriginClient) -> None:
        self._client = client

    def ask(self, question: Question) -> Answers:
        """Begin to answer; the first page is read at once, so that an origin that is away is told of now."""
        plan = plan_of(question, self._client.origin)
        pages = self._pages(plan, question)
        first = next(pages, [])
        return Answers(plan.fields, _joined(first, pages), plan.unmatched, plan.unknown)

    def count(self, question: Question, most: int) -> int:
        """Return how many rows there are behind the question's offset, or `most`; its limit is not looked at."""
        asked = replace(question, returned=frozenset(), limit=most)
        return sum(len(batch) for batch in self.ask(asked).batches)

    def _pages(self, plan: Plan, question: Question) -> Iterator[Rows]:
        """Yield the rows that are meant, some at a time."""
        skipped, left = question.offset, question.limit
        seen: set[Any] = set()
        for search in plan.searches:
            for page in self._read(plan, search):
                rows = []
                for row in page:
                    uid = _identity(plan, row)
                    if uid not in seen and _is_meant(plan, row):
                        seen.add(uid)
                        rows.append(tuple(_value(row, field.tag, field.vr) for field in plan.fields))
                if skipped:
                    rows, skipped = rows[skipped:], max(0, skipped - len(rows))
                if left is not None:
                    rows = rows[:left]
                    left -= len(rows)
                yield rows
                if left == 0:
                    return

    def _read(self, plan: Plan, search: Search) -> Iterator[list[Row]]:
        """Yield the pages of one search.

        Raises:
            TransientError: the origin may have cut the list, and does not count as many instances either.
        """
        fields = [("includefield", f"{tag:08X}") for tag in plan.included[:_MOST_FIELDS]]
        at, size = 0, _FIRST_PAGE_ROWS
        while True:
            part = [("limit", str(size)), ("offset", str(at))]
            page, has_more = self._page(search, [*search.parameters, *fields, *part])
            yield page
            at += len(page)
            if not page or (len(page) < size and not has_more):
                break
            size = _PAGE_ROWS
        if at == _CUT_AT and self._client.origin.kind is Kind.HEALTHIMAGING and self._count_of(search) != at:
            raise TransientError(f"the origin ends a list at exactly {_CUT_AT:,} rows, where it may cut it")

    def _count_of(self, search: Search) -> int | None:
        """Return how many instances an origin counts in the series or study of a search; None where it is no answer."""
        found = _INSTANCES.fullmatch(search.path)
        if found is None or search.parameters:
            return None
        study, series = found.groups()
        path, level, uid, tag = ("/studies", Level.STUDY, study, _OF_STUDY)
        if series:
            path, level, uid, tag = f"/studies/{study}/series", Level.SERIES, series, _OF_SERIES
        unique = UNIQUE[level]
        rows, _ = self._client.search(path, [(f"{unique:08X}", uid), ("includefield", f"{tag:08X}")])
        counts = [_value(row, tag, "US") for row in rows if _value(row, unique, "UI") == uid]
        return counts[0] if len(counts) == 1 else None

    def _page(self, search: Search, query: list[tuple[str, str]]) -> tuple[list[Row], bool]:
        """Return a page; none where the study or series of the path is not there.

        Raises:
            PermanentError: nothing is there: the origin's address is wrong.
        """
        try:
            return self._client.search(search.path, query)
        except NotHeldError:
            # The parent may be none, or the address no origin's: an origin has studies, be they none.
            if search.path.count("/") > 1:
                try:
                    self._client.search("/studies", [("limit", "1")])
                except NotHeldError as error:
                    raise PermanentError("the origin has no /studies: is archive.dicomweb_url right?") from error
                return [], False
            raise PermanentError(f"the origin has no {search.path}: is archive.dicomweb_url right?") from None


def _identity(plan: Plan, row: Row) -> tuple[Any, ...]:
    """Return what tells a row from the others; without a Patient ID each study is of a patient of its own."""
    found = tuple(_value(row, tag, "UI") for tag in plan.identity)
    return found if found[0] else (*found, _value(row, UNIQUE[Level.STUDY], "UI"))


def _is_meant(plan: Plan, row: Row) -> bool:
    return plan.match.is_in(row) and all(_is_within(row, moment) for moment in plan.moments)


def _is_within(row: Row, moment: Moment) -> bool:
    day, time, match = moment
    told = ((parse_date, _value(row, day, "DA")), (parse_time, _value(row, time, "TM")))
    days, times = (parse(text) if isinstance(text, str) else None for parse, text in told)
    return match.accepts((days and days.first, times and times.first))


def _value(row: Row, tag: int, vr: str) -> Any:
    """Return an attribute of a row as answers have it."""
    element = row.get(f"{tag:08X}")
    values = json_values(vr, element) if isinstance(element, Mapping) else []
    if vr == "SQ":
        return values or None
    typed = [_typed(vr, value) for value in values]
    return None if not typed else typed[0] if len(typed) == 1 else typed


def _typed(vr: str, value: Any) -> Any:
    """Return a value of a number's VR as one, also where it is written as text (PS3.18 F.2.3)."""
    if not isinstance(value, str) or vr not in _INTEGERS | _DECIMALS:
        return value
    try:
        return (int if vr in _INTEGERS else float)(value)
    except ValueError:
        return None


def _joined(first: Rows, rest: Iterator[Rows]) -> Iterator[Rows]:
    yield first
    yield from rest
