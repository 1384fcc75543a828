"""Statements of the import queue: the series of deliveries, and what became of each.

A change of state names the old one, so that of two callers at once one changes the row and the other gets None or
False. Two jobs never run over one series at once. Transactions are the caller's. This module must not know
HealthImaging.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, TextClause, exists, func, or_, select, text, update
from sqlalchemy.sql.dml import Update

from dicomflow.catalog.outgoing import tell_series_settled
from dicomflow.catalog.states import RETRIED, RETRYABLE, UNSETTLED, SeriesState
from dicomflow.catalog.tables import delivery, series_import

__all__ = [
    "CLOCK_TOLERANCE",
    "LONGEST_PUT_OFF",
    "UNCHANGED",
    "complete_series",
    "count_backlog",
    "count_ready_series",
    "find_series",
    "finish_series",
    "has_come",
    "list_series",
    "move_series",
    "next_ready_series",
    "next_series_due",
    "note_trouble",
    "put_off_series",
    "refuse_series",
    "requeue_series",
    "retry_series",
    "series_at",
    "series_of_job",
    "series_state",
    "show_series",
]

LONGEST_PUT_OFF: Final = timedelta(seconds=300)
"""Nothing of the imports is put off for longer: see `has_come`."""
CLOCK_TOLERANCE: Final = timedelta(seconds=60)
UNCHANGED: Final = "unchanged: every instance was in already"


def series_state(state: SeriesState, now: datetime) -> dict[str, Any]:
    """Return the columns of a state of `series_import`, with the seed's number."""
    return {"state": state, "status": state.status, "updated_at": now}


def move_series(of: Collection[SeriesState], to: SeriesState, now: datetime) -> Update:
    """Return the statement that moves series from one of these states to another."""
    return update(series_import).where(series_import.c.state.in_(of)).values(series_state(to, now))


def has_come(moment: Any, now: datetime) -> ColumnElement[bool]:
    """Tell times that are past, or further away than anything is ever put off: these are of a clock that was wrong."""
    return or_(moment <= now, moment > now + LONGEST_PUT_OFF + CLOCK_TOLERANCE)


def count_ready_series(connection: Connection, now: datetime, at_most: int) -> int:
    """Count the series that could be started now, up to a number."""
    ready = select(series_import.c.series_import_id).where(*_ready(now)).limit(at_most).subquery()
    return connection.execute(select(func.count()).select_from(ready)).scalar_one()


def count_backlog(connection: Connection) -> int:
    """Count the series that are queued or in progress."""
    statement = select(func.count()).where(series_import.c.state.in_(UNSETTLED))
    return connection.execute(statement).scalar_one()


def next_ready_series(
    connection: Connection, now: datetime, *, max_files: int, max_bytes: int, together_before: datetime
) -> tuple[str, list[Row[Any]]] | None:
    """Return the input prefix and the rows of the next job, or None when nothing is ready.

    The greatest priority comes first; then those with the fewest attempts, so that one that always fails delays
    nobody; then the oldest.

    Args:
        connection: the caller's transaction.
        now: the time.
        max_files: the service's limit of files in a job.
        max_bytes: the service's limit of a job's size.
        together_before: a series queued before this takes all series of its study in this delivery with it, if they
            fit in one job.
    """
    first = connection.execute(
        select(series_import)
        .where(*_ready(now))
        .order_by(series_import.c.priority.desc(), series_import.c.attempts, series_import.c.series_import_id)
        .limit(1)
    ).first()
    if first is None:
        return None
    if first.created_at <= together_before and first.attempts == 0:
        of_study = (
            series_import.c.delivery_id == first.delivery_id,
            series_import.c.study_instance_uid == first.study_instance_uid,
        )
        total = connection.execute(select(func.count()).select_from(series_import).where(*of_study)).scalar_one()
        rows = connection.execute(
            select(series_import).where(*of_study, *_ready(now), series_import.c.attempts == 0)
        ).all()
        study_prefix = _parent(first.input_prefix)
        fits = sum(row.object_count for row in rows) <= max_files and sum(row.bytes for row in rows) <= max_bytes
        if fits and len(rows) == total and all(_parent(row.input_prefix) == study_prefix for row in rows):
            return study_prefix, list(rows)
    return first.input_prefix, [first]


def series_of_job(connection: Connection, import_job_id: int) -> list[Row[Any]]:
    """Return the series a job was started for."""
    statement = select(series_import).where(series_import.c.import_job_id == import_job_id)
    return list(connection.execute(statement.order_by(series_import.c.series_import_id)))


def series_at(connection: Connection, delivery_ids: Collection[str], input_prefixes: Iterable[str]) -> list[Row[Any]]:
    """Return the series of these deliveries whose objects lie under these prefixes."""
    wanted = set(input_prefixes)
    statement = select(series_import).where(series_import.c.delivery_id.in_(delivery_ids))
    return [row for row in connection.execute(statement) if row.input_prefix in wanted]


def finish_series(
    connection: Connection,
    series_import_id: int,
    import_job_id: int,
    state: SeriesState,
    message: str | None,
    now: datetime,
) -> bool:
    """End a series of a job: in_progress → completed | hidden | partial | failed."""
    statement = move_series([SeriesState.IN_PROGRESS], state, now).where(
        series_import.c.series_import_id == series_import_id, series_import.c.import_job_id == import_job_id
    )
    return _settle(connection, statement, message)


def complete_series(
    connection: Connection, series_import_id: int, state: SeriesState, message: str | None, now: datetime
) -> bool:
    """End a series that is in without a job of its own: queued | failed | partial → completed | hidden."""
    statement = move_series([SeriesState.QUEUED, *RETRIED], state, now)
    return _settle(connection, statement.where(series_import.c.series_import_id == series_import_id), message)


def show_series(connection: Connection, series_import_id: int, now: datetime) -> bool:
    """End a series of which nothing is hidden any more: hidden → completed."""
    statement = move_series([SeriesState.HIDDEN], SeriesState.COMPLETED, now)
    return _settle(connection, statement.where(series_import.c.series_import_id == series_import_id), None)


def refuse_series(connection: Connection, series_import_id: int, message: str, now: datetime) -> bool:
    """End a series that no job can take: queued → failed."""
    statement = move_series([SeriesState.QUEUED], SeriesState.FAILED, now)
    return _settle(connection, statement.where(series_import.c.series_import_id == series_import_id), message)


def put_off_series(
    connection: Connection, series_import_ids: Collection[int], not_before: datetime, message: str, now: datetime
) -> None:
    """Let queued series wait that could not be claimed, and count the attempt: others go first then."""
    connection.execute(
        update(series_import)
        .where(series_import.c.series_import_id.in_(series_import_ids), series_import.c.state == SeriesState.QUEUED)
        .values(not_before=not_before, message=message, updated_at=now, attempts=series_import.c.attempts + 1)
    )


def note_trouble(connection: Connection, import_job_id: int, message: str, now: datetime) -> None:
    """Show, with each series of a job, what the job waits for."""
    connection.execute(
        update(series_import)
        .where(series_import.c.import_job_id == import_job_id, series_import.c.state == SeriesState.IN_PROGRESS)
        .values(message=message, updated_at=now)
    )


def requeue_series(
    connection: Connection,
    series_import_id: int,
    import_job_id: int,
    not_before: datetime,
    message: str | None,
    now: datetime,
) -> bool:
    """Put a series back after its job failed: in_progress → queued; its next job has another token."""
    changed = connection.execute(
        move_series([SeriesState.IN_PROGRESS], SeriesState.QUEUED, now)
        .where(series_import.c.series_import_id == series_import_id, series_import.c.import_job_id == import_job_id)
        .values(not_before=not_before, message=message)
        .returning(series_import.c.series_import_id)
    ).first()
    return changed is not None


def retry_series(
    connection: Connection,
    now: datetime,
    states: Collection[SeriesState] = RETRIED,
    series_import_ids: Collection[int] | None = None,
) -> list[int]:
    """Queue again what an operator wants: failed | partial | disabled → queued; return the series that were.

    Args:
        connection: the caller's transaction.
        now: the time.
        states: only series in these of `RETRYABLE`.
        series_import_ids: only these; None takes all.
    """
    statement = move_series(set(RETRYABLE).intersection(states), SeriesState.QUEUED, now).values(not_before=None)
    if series_import_ids is not None:
        statement = statement.where(series_import.c.series_import_id.in_(series_import_ids))
    return sorted(connection.scalars(statement.returning(series_import.c.series_import_id)))


def next_series_due(connection: Connection, now: datetime) -> datetime | None:
    """Return when the next queued series that waits for its time can be started; None when none waits."""
    statement = select(func.min(series_import.c.not_before)).where(
        series_import.c.state == SeriesState.QUEUED, ~has_come(series_import.c.not_before, now)
    )
    due_at: datetime | None = connection.execute(statement).scalar_one()
    return due_at


def list_series(connection: Connection, states: Collection[SeriesState] | None, limit: int) -> list[Row[Any]]:
    """Return series in these states, in any with None, the latest change first."""
    statement = select(series_import).order_by(
        series_import.c.updated_at.desc(), series_import.c.series_import_id.desc()
    )
    if states is not None:
        statement = statement.where(series_import.c.state.in_(states))
    return list(connection.execute(statement.limit(limit)))


def find_series(connection: Connection, name: str) -> list[Row[Any]]:
    """Return the series with this number, or those with this Series or Study Instance UID."""
    statement = select(series_import).order_by(series_import.c.series_import_id)
    matches: ColumnElement[bool] = or_(
        series_import.c.series_instance_uid == name, series_import.c.study_instance_uid == name
    )
    if name.isdecimal() and len(name) < 19:  # what fits in a key column
        matches = series_import.c.series_import_id == int(name)
    return list(connection.execute(statement.where(matches)))


def _settle(connection: Connection, statement: Update, message: str | None) -> bool:
    """End a series, count it among the changes its edge is told, and tell who else asked."""
    changed = connection.execute(
        statement.values(message=message, not_before=None).returning(
            series_import.c.delivery_id, series_import.c.series_import_id, series_import.c.updated_at
        )
    ).first()
    if changed is None:
        return False
    change = connection.execute(
        update(delivery)
        .where(delivery.c.delivery_id == changed.delivery_id)
        .values(series_changes=delivery.c.series_changes + 1)
        .returning(delivery.c.series_changes)
    ).scalar_one()
    tell_series_settled(connection, changed.series_import_id, change, changed.updated_at)
    return True


def _ready(now: datetime) -> tuple[ColumnElement[bool] | TextClause, ...]:
    running = series_import.alias("running")
    return (
        text(f"series_import.state = '{SeriesState.QUEUED}'"),  # as it stands in the index of the queue's order
        or_(series_import.c.not_before.is_(None), has_come(series_import.c.not_before, now)),
        ~exists().where(
            running.c.study_instance_uid == series_import.c.study_instance_uid,
            running.c.series_instance_uid == series_import.c.series_instance_uid,
            running.c.state == SeriesState.IN_PROGRESS,
        ),
    )


def _parent(prefix: str) -> str:
    return prefix.rstrip("/").rpartition("/")[0] + "/"
