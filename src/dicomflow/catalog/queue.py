"""The local queue in SQS's terms: a table in the catalog in the place of the service.

A received message is hidden for a visibility timeout and comes back unless it is deleted; after a number of receives it
moves to the dead-letter queue `<name>-dead`. A time that no send and no receive can have set is of a clock that was
wrong, and hides nothing. Each statement works on SQLite and PostgreSQL with several consumers at
once: who changes a row names the state it saw, so only one of them gets it. This module must not know what is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, literal, or_, select, update

from dicomflow.catalog.tables import queue_message
from dicomflow.catalog.types import UtcDateTime
from dicomflow.errors import PermanentError

__all__ = [
    "DEAD_SUFFIX",
    "MAX_DELAY_SECONDS",
    "MAX_RECEIVES",
    "Counts",
    "Message",
    "bodies",
    "change_visibility",
    "count",
    "delete_message",
    "receive",
    "redrive",
    "send",
    "send_many",
]

DEAD_SUFFIX: Final = "-dead"
MAX_RECEIVES: Final = 5
MAX_DELAY_SECONDS: Final = 900
"""SQS's longest DelaySeconds; the local queue refuses more, so that nothing works here only."""
_CLOCK_TOLERANCE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Message:
    """One receive of a message: `receipt` is good for this receive only."""

    message_id: str
    receipt: str
    body: str
    receive_count: int
    enqueued_at: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a queue can be received, are being worked on, wait for their delay, and are dead."""

    visible: int
    in_flight: int
    delayed: int
    dead: int


def send(connection: Connection, queue: str, body: str, now: datetime, delay_seconds: int = 0) -> str:
    """Add a message and return its id; it cannot be received before the delay is over."""
    return send_many(connection, queue, [body], now, delay_seconds)[0]


def send_many(
    connection: Connection, queue: str, bodies: Sequence[str], now: datetime, delay_seconds: int = 0
) -> list[str]:
    """Add messages in one statement and return their ids.

    Raises:
        PermanentError: the delay is longer than SQS would take.
    """
    if not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
        raise PermanentError(f"delay of {delay_seconds} s is not within 0 to {MAX_DELAY_SECONDS}")
    visible_at = now + timedelta(seconds=delay_seconds)
    common = {"queue": queue, "visible_at": visible_at, "enqueued_at": now}
    message_ids = [str(uuid4()) for _ in bodies]
    if bodies:
        rows = [{"message_id": key, "body": body, **common} for key, body in zip(message_ids, bodies, strict=True)]
        connection.execute(insert(queue_message), rows)
    return message_ids


def receive(
    connection: Connection,
    queue: str,
    now: datetime,
    *,
    max_messages: int = 10,
    visibility_timeout_seconds: float = 60,
    max_receives: int = MAX_RECEIVES,
) -> list[Message]:
    """Take up to `max_messages` visible messages, hide them for the timeout, and return them, oldest first.

    Messages that were received `max_receives` times already move to the dead-letter queue instead.
    """
    is_visible = _is_visible(now, visibility_timeout_seconds)
    _bury(connection, queue, is_visible, now, max_receives)
    # SKIP LOCKED spares PostgreSQL's consumers the wait for each other; the old `visible_at` in WHERE makes it right.
    candidates = (
        select(queue_message.c.message_id)
        .where(queue_message.c.queue == queue, is_visible)
        .order_by(queue_message.c.visible_at, queue_message.c.message_id)
        .limit(max_messages)
        .with_for_update(skip_locked=True)
        .cte("candidates")  # a plain subquery may be run once for each row, and take more than the limit
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    taken = connection.execute(
        update(queue_message)
        .where(
            queue_message.c.message_id.in_(select(candidates.c.message_id)),
            queue_message.c.queue == queue,
            is_visible,
        )
        .values(
            visible_at=now + timedelta(seconds=visibility_timeout_seconds),
            enqueued_at=case((queue_message.c.enqueued_at > now, _moment(now)), else_=queue_message.c.enqueued_at),
            receive_count=queue_message.c.receive_count + 1,
            receipt=str(uuid4()),
        )
        .returning(
            queue_message.c.message_id,
            queue_message.c.receipt,
            queue_message.c.body,
            queue_message.c.receive_count,
            queue_message.c.enqueued_at,
        )
    )
    return sorted((Message(*row) for row in taken), key=lambda message: (message.enqueued_at, message.message_id))


def delete_message(connection: Connection, queue: str, message_id: str, receipt: str) -> bool:
    """Remove a message that was worked on; False when it has been received by another since, and stays."""
    deleted = connection.execute(delete(queue_message).where(*_held(queue, message_id, receipt)))
    return deleted.rowcount == 1


def change_visibility(
    connection: Connection, queue: str, message_id: str, receipt: str, now: datetime, timeout_seconds: float
) -> bool:
    """Hide a received message for `timeout_seconds` from now, 0 to give it back; False when it is no longer ours."""
    changed = connection.execute(
        update(queue_message)
        .where(*_held(queue, message_id, receipt))
        .values(visible_at=now + timedelta(seconds=timeout_seconds))
    )
    return changed.rowcount == 1


def redrive(connection: Connection, queue: str, now: datetime) -> int:
    """Move all dead letters of a queue back into it, as if sent anew; return how many."""
    moved = connection.execute(
        update(queue_message)
        .where(queue_message.c.queue == queue + DEAD_SUFFIX)
        .values(queue=queue, receive_count=0, receipt=None, visible_at=now)
    )
    return moved.rowcount


def count(connection: Connection, queue: str, now: datetime) -> Counts:
    """Count a queue's messages and its dead letters."""
    alive = queue_message.c.queue == queue
    hidden = ~_is_visible(now, MAX_DELAY_SECONDS)
    received = queue_message.c.receipt.is_not(None)
    row = connection.execute(
        select(
            func.coalesce(func.sum(case((alive & ~hidden, 1), else_=0)), 0),
            func.coalesce(func.sum(case((alive & hidden & received, 1), else_=0)), 0),
            func.coalesce(func.sum(case((alive & hidden & ~received, 1), else_=0)), 0),
            func.coalesce(func.sum(case((alive, 0), else_=1)), 0),
        ).where(or_(alive, queue_message.c.queue == queue + DEAD_SUFFIX))
    ).one()
    return Counts(*map(int, row))


def bodies(connection: Connection, queue: str) -> list[str]:
    """Return the texts of a queue's messages, in no order."""
    return list(connection.scalars(select(queue_message.c.body).where(queue_message.c.queue == queue)))


def _is_visible(now: datetime, visibility_timeout_seconds: float) -> ColumnElement[bool]:
    """Tell messages that can be received: their time has come, or it is one that a clock set which ran ahead."""
    visible_at, is_received = queue_message.c.visible_at, queue_message.c.receipt.is_not(None)
    return or_(
        visible_at <= now,
        visible_at > now + max(timedelta(seconds=MAX_DELAY_SECONDS), timedelta(seconds=visibility_timeout_seconds)),
        is_received & (visible_at > now + timedelta(seconds=visibility_timeout_seconds) + _CLOCK_TOLERANCE),
        ~is_received & (queue_message.c.enqueued_at > now + _CLOCK_TOLERANCE),
    )


def _moment(now: datetime) -> ColumnElement[datetime]:
    return literal(now, UtcDateTime())


def _bury(
    connection: Connection, queue: str, is_visible: ColumnElement[bool], now: datetime, max_receives: int
) -> None:
    """Move what was received too often to the dead-letter queue, ready to be looked at there."""
    connection.execute(
        update(queue_message)
        .where(queue_message.c.queue == queue, is_visible, queue_message.c.receive_count >= max_receives)
        .values(queue=queue + DEAD_SUFFIX, receipt=None, visible_at=now)
    )


def _held(queue: str, message_id: str, receipt: str) -> tuple[ColumnElement[bool], ...]:
    return (
        queue_message.c.queue == queue,
        queue_message.c.message_id == message_id,
        queue_message.c.receipt == receipt,
    )
