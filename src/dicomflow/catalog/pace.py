"""Statements of the pace: when the next job may be started, and when the driver is woken for it.

The service allows so many calls a second and so many jobs at once, and may say that it is too much. Transactions are
the caller's. This module must not know what a job does.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, func, select

from dicomflow.catalog.imports import CLOCK_TOLERANCE, LONGEST_PUT_OFF
from dicomflow.catalog.states import UNFINISHED, JobState
from dicomflow.catalog.tables import import_job, start_pause, wake_up
from dicomflow.catalog.upsert import dialect_insert
from dicomflow.errors import pause_after

__all__ = [
    "clear_pause",
    "count_unfinished_jobs",
    "lock_claims",
    "next_call_at",
    "pause_starts",
    "schedule_wake_up",
    "scheduled_wake_up",
]

START_BURST: Final = 2
_CLAIM_LOCK: Final = 0x64_66_69_6D_70  # "dfimp": any constant serves, if no other program on the server uses it


def lock_claims(connection: Connection) -> None:
    """Let one driver at a time decide what to start; the limits of rate and concurrency rest on it.

    On SQLite a transaction that writes is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))


def next_call_at(connection: Connection, datastore_id: str, start_rate: float, now: datetime) -> datetime:
    """Return when the next call to start a job is within the rate (calls a second), and not in a pause.

    The rate: at most a burst of calls in the time a burst takes to refill.
    """
    calls = _recent_calls(connection, datastore_id, now)
    next_at = now if len(calls) < START_BURST else calls[-1] + timedelta(seconds=START_BURST / start_rate)
    return max(next_at, _paused_until(connection, datastore_id, now) or next_at)


def count_unfinished_jobs(connection: Connection, datastore_id: str) -> int:
    """Count the jobs that hold a slot of the service's concurrency.

    One that has ended there and is to be settled yet holds none, nor does one whose start has failed and waits.
    """
    holds_slot = and_(import_job.c.state.in_(UNFINISHED), import_job.c.ended_at.is_(None))
    is_waiting = and_(import_job.c.state == JobState.CLAIMED, import_job.c.attempts > 0)
    statement = select(func.count()).where(import_job.c.datastore_id == datastore_id, holds_slot, ~is_waiting)
    return connection.execute(statement).scalar_one()


def pause_starts(
    connection: Connection, datastore_id: str, now: datetime, first: timedelta, longest: timedelta
) -> datetime:
    """Let no job be started for a while, twice as long as the time before; return until when.

    Call it under `lock_claims`: of several refusals at once each would double the pause.
    """
    statement = select(start_pause).where(start_pause.c.datastore_id == datastore_id)
    known = connection.execute(statement).first()
    if known is not None and now < known.until_at <= now + longest:
        until: datetime = known.until_at
        return until
    attempts = known.attempts if known is not None else 0
    until = now + pause_after(attempts + 1, first, longest)
    new = dialect_insert(connection, start_pause).values(
        datastore_id=datastore_id, until_at=until, attempts=attempts + 1
    )
    connection.execute(
        new.on_conflict_do_update(
            index_elements=["datastore_id"],
            set_={"until_at": new.excluded.until_at, "attempts": new.excluded.attempts},
        )
    )
    return until


def clear_pause(connection: Connection, datastore_id: str) -> None:
    """Forget the pause: a start was accepted."""
    connection.execute(delete(start_pause).where(start_pause.c.datastore_id == datastore_id))


def scheduled_wake_up(connection: Connection, queue: str) -> datetime | None:
    """Return when the delayed message that is under way to a queue arrives."""
    return connection.execute(select(wake_up.c.due_at).where(wake_up.c.queue == queue)).scalar_one_or_none()


def schedule_wake_up(connection: Connection, queue: str, due_at: datetime | None) -> None:
    """Remember the delayed message that was sent, or with None that it has arrived."""
    statement = dialect_insert(connection, wake_up).values(queue=queue, due_at=due_at)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["queue"], set_={"due_at": statement.excluded.due_at})
    )


def _recent_calls(connection: Connection, datastore_id: str, now: datetime) -> list[datetime]:
    """Return the times of the calls of the last burst, newest first; no times of a clock that was wrong."""
    statement = (
        select(import_job.c.called_at)
        .where(import_job.c.datastore_id == datastore_id, import_job.c.called_at <= now + CLOCK_TOLERANCE)
        .order_by(import_job.c.called_at.desc())
        .limit(START_BURST)
    )
    return list(connection.execute(statement).scalars())


def _paused_until(connection: Connection, datastore_id: str, now: datetime) -> datetime | None:
    """Return until when no job is started; None without a pause, or with one longer than any."""
    statement = select(start_pause.c.until_at).where(
        start_pause.c.datastore_id == datastore_id, start_pause.c.until_at <= now + LONGEST_PUT_OFF + CLOCK_TOLERANCE
    )
    return connection.execute(statement).scalar_one_or_none()
