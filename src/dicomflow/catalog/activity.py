"""How much went through in the last while, and what waits: the console's charts and its list of what needs attention.

Every statement reads from an index, whatever the size of the tables. Transactions are the caller's; this module only
reads, and shows no patient data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, func, select

from dicomflow.catalog.queue import DEAD_SUFFIX
from dicomflow.catalog.states import UNSETTLED, SeriesState
from dicomflow.catalog.tables import delivery, queue_message, series_import, start_pause, stored_object

__all__ = ["Activity", "Backlog", "activity_since", "count_states", "read_backlog"]

_MINUTE: Final = "minute"
_DONE: Final = (SeriesState.COMPLETED, SeriesState.HIDDEN, SeriesState.PARTIAL)


@dataclass(frozen=True, slots=True)
class Activity:
    """Instances a minute, from the minute of `first` on, one number each: delivered, indexed and imported."""

    first: datetime
    delivered: tuple[int, ...]
    delivered_bytes: tuple[int, ...]
    indexed: tuple[int, ...]
    imported: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits. Messages are those of the local queue; a deployment's are in SQS and not counted."""

    objects_to_index: int
    series_queued: int
    instances_queued: int
    oldest_queued_at: datetime | None
    series_in_progress: int
    instances_in_progress: int
    messages: int
    dead_messages: Mapping[str, int]
    paused_until: datetime | None


def activity_since(connection: Connection, now: datetime, minutes: int) -> Activity:
    """Count what was delivered, indexed and imported in each of the last minutes, the present one included."""
    first = now.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes - 1)
    is_done = series_import.c.state.in_(_DONE)
    counted = (
        _by_minute(connection, delivery.c.closed_at, first, func.sum(delivery.c.instance_count)),
        _by_minute(connection, delivery.c.closed_at, first, func.sum(delivery.c.bytes)),
        _by_minute(connection, stored_object.c.indexed_at, first, func.count()),
        _by_minute(connection, series_import.c.updated_at, first, func.sum(series_import.c.object_count), is_done),
    )
    wanted = [first + timedelta(minutes=number) for number in range(minutes)]
    return Activity(first, *(tuple(found.get(at, 0) for at in wanted) for found in counted))


def read_backlog(connection: Connection, now: datetime) -> Backlog:
    """Count what waits to be indexed and imported, and messages that nobody could work on."""
    to_index = select(func.count()).where(stored_object.c.indexed_at.is_(None), stored_object.c.problem.is_(None))
    waiting = {
        row.state: row
        for row in connection.execute(
            select(
                series_import.c.state,
                func.count().label("series"),
                func.sum(series_import.c.object_count).label("instances"),
                func.min(series_import.c.created_at).label("oldest_at"),
            )
            .where(series_import.c.state.in_(UNSETTLED))
            .group_by(series_import.c.state)
        )
    }
    per_queue = select(queue_message.c.queue, func.count()).group_by(queue_message.c.queue)
    messages = {row[0]: row[1] for row in connection.execute(per_queue)}
    pause = select(func.max(start_pause.c.until_at)).where(start_pause.c.until_at > now)
    queued, running = waiting.get(SeriesState.QUEUED), waiting.get(SeriesState.IN_PROGRESS)
    return Backlog(
        objects_to_index=connection.execute(to_index).scalar_one(),
        series_queued=queued.series if queued else 0,
        instances_queued=int(queued.instances) if queued else 0,
        oldest_queued_at=queued.oldest_at if queued else None,
        series_in_progress=running.series if running else 0,
        instances_in_progress=int(running.instances) if running else 0,
        messages=sum(count for name, count in messages.items() if not name.endswith(DEAD_SUFFIX)),
        dead_messages={
            name.removesuffix(DEAD_SUFFIX): count for name, count in messages.items() if name.endswith(DEAD_SUFFIX)
        },
        paused_until=connection.execute(pause).scalar_one(),
    )


def count_states(connection: Connection) -> dict[str, int]:
    """Count the series of the import queue in each state."""
    statement = select(series_import.c.state, func.count()).group_by(series_import.c.state)
    return {row[0]: row[1] for row in connection.execute(statement)}


def _by_minute(
    connection: Connection, moment: Column[Any], first: datetime, amount: ColumnElement[Any], *conditions: Any
) -> dict[datetime, int]:
    """Sum over the rows of each minute from `first` on."""
    if connection.dialect.name == "sqlite":
        minute: ColumnElement[Any] = func.strftime("%Y-%m-%dT%H:%M", moment)
    else:
        minute = func.date_trunc(_MINUTE, moment)
    statement = select(minute, amount).where(moment >= first, *conditions).group_by(minute)
    return {_utc(row[0]): int(row[1]) for row in connection.execute(statement)}


def _utc(minute: str | datetime) -> datetime:
    if isinstance(minute, str):
        return datetime.fromisoformat(minute).replace(tzinfo=UTC)
    return minute.astimezone(UTC)
