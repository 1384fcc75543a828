"""Queries answered by the catalog: page by page, each page a short transaction of its own.

No transaction stays open while a client reads its answer, and memory holds one page. What is added or changes meanwhile
may be in the rows that follow; no row comes twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dicomflow.archive.catalog.computed import Computed
from dicomflow.archive.catalog.plan import KEYS, Plan, plan_of
from dicomflow.archive.query import Answers, Question, Value
from dicomflow.catalog.engine import begin_read, is_of_a_value
from dicomflow.catalog.querying import count_rows, order_of, page_of_rows
from dicomflow.dicom.matching import accepts_any
from dicomflow.errors import TransientError

__all__ = ["CatalogQuery"]

_PAGE_ROWS: Final = 500
_FIRST_PAGE_ROWS: Final = 100
"""So that the first answers of many come soon."""

Rows = list[tuple[Value, ...]]


class CatalogQuery:
    """Answers questions from a catalog. Threads: any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, question: Question) -> Answers:
        """Begin to answer; the first page is read at once, so that a catalog that is away is told of now."""
        plan = plan_of(question)
        pages = self._pages(plan, question)
        first = next(pages, None)
        fields = tuple(field for field, _ in plan.fields)
        batches = _joined(first, pages)
        return Answers(fields, batches, frozenset(plan.unmatched), frozenset(plan.unknown))

    def count(self, question: Question, most: int) -> int:
        """Return how many rows there are behind the question's offset, or `most`; its limit is not looked at."""
        plan = plan_of(question)
        if plan.is_exact:
            with self._reading() as connection:
                return count_rows(connection, plan.level, plan.conditions, offset=question.offset, most=most)
        found = 0
        for page in self._pages(plan, Question(question.level, question.keys, offset=question.offset, limit=most)):
            found += len(page)
        return found

    def _pages(self, plan: Plan, question: Question) -> Iterator[Rows]:
        """Yield the rows that are meant, some at a time."""
        columns = list(plan.columns)
        order = [columns.index(column) for column in order_of(plan.level)]
        left = question.limit
        skipped = 0 if plan.is_exact else question.offset
        after: Sequence[Any] | None = None
        size = _FIRST_PAGE_ROWS
        while left is None or left > 0:
            wanted = size if left is None or not plan.is_exact else min(size, left)
            with self._reading() as connection:
                read = page_of_rows(
                    connection,
                    plan.level,
                    columns,
                    plan.conditions,
                    after=after,
                    offset=question.offset if plan.is_exact and after is None else 0,
                    limit=wanted,
                )
                rows = self._meant(connection, plan, [dict(zip(columns, row, strict=True)) for row in read])
            if skipped:
                rows, skipped = rows[skipped:], max(0, skipped - len(rows))
            if left is not None:
                rows = rows[:left]
                left -= len(rows)
            yield rows
            if len(read) < wanted:
                return
            after = [read[-1][index] for index in order]
            size = _PAGE_ROWS

    def _meant(self, connection: Connection, plan: Plan, read: list[dict[Any, Any]]) -> Rows:
        """Return the values of the rows that are meant."""
        rows = [row for row in read if all(check(row) for check in plan.checks)] if plan.checks else read
        computed = {tag: _Found(connection, each, rows) for tag, each in plan.computed.items()} if rows else {}
        for tag, match in plan.computed_checks:
            rows = [row for row in rows if accepts_any(match, _values(computed[tag].of(row)))]
        getters = [(field.tag, get) for field, get in plan.fields]
        return [tuple(computed[tag].of(row) if get is None else get(row) for tag, get in getters) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            TransientError: the catalog does not answer.
        """
        try:
            with begin_read(self._engine) as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError) as error:
            if is_of_a_value(error) and not isinstance(error, PoolTimeoutError):
                raise
            raise TransientError(f"the catalog does not answer: {type(error).__name__}") from error


class _Found:
    """The values of one computed attribute for the rows of a page."""

    def __init__(self, connection: Connection, computed: Computed, rows: Sequence[Mapping[Any, Any]]) -> None:
        self._key = KEYS[computed.level]
        self._default = computed.default
        self._values = computed.find(connection, sorted({row[self._key] for row in rows}))

    def of(self, row: Mapping[Any, Any]) -> Any:
        return self._values.get(row[self._key], self._default)


def _values(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) and value else [value] if value is not None else [None]


def _joined(first: Rows | None, rest: Iterator[Rows]) -> Iterator[Rows]:
    if first is not None:
        yield first
        yield from rest
