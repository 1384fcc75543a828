"""The import queue page by page, with the reasons of what failed. Transactions are the caller's; it only reads."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select, tuple_

from dicomflow.catalog.states import InstanceState, SeriesState
from dicomflow.catalog.tables import import_job, import_outcome, series_import
from dicomflow.catalog.types import UtcDateTime

__all__ = ["ImportKey", "ImportPage", "jobs_of_series", "page_of_imports", "reasons_of_imports"]

ImportKey = tuple[datetime, int]
"""Where a page ends: `updated_at` and `series_import_id` of its last row."""


@dataclass(frozen=True, slots=True)
class ImportPage:
    """Rows of `series_import`, the latest change first, and the key of the page after; None when this is the last."""

    rows: tuple[Row[Any], ...]
    next_key: ImportKey | None


def page_of_imports(
    connection: Connection, states: Collection[SeriesState] | None, *, after: ImportKey | None = None, limit: int = 50
) -> ImportPage:
    """Return one page of the series in these states, in any with None."""
    columns = (series_import.c.updated_at, series_import.c.series_import_id)
    statement = select(series_import).order_by(*(column.desc() for column in columns)).limit(limit + 1)
    if states is not None:
        statement = statement.where(series_import.c.state.in_(states))
    if after is not None:
        statement = statement.where(tuple_(*columns) < tuple_(literal(after[0], UtcDateTime()), literal(after[1])))
    rows = connection.execute(statement).all()
    shown = tuple(rows[:limit])
    return ImportPage(shown, None if len(rows) <= limit else (shown[-1].updated_at, shown[-1].series_import_id))


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
