"""What comes later than it should, by the switches `event_delay_seconds` and `late_manifest_seconds`.

It is kept in the state, so that a restart loses none of it.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select

from dicomflow.healthimaging.simulator.state import delayed_event, delayed_object, has_come
from dicomflow.healthimaging.simulator.world import World

__all__ = ["DeliverEvent", "delay_event", "delay_object", "deliver_delayed"]

DeliverEvent = Callable[[dict[str, Any]], None]


def delay_event(world: World, body: dict[str, Any]) -> None:
    """Keep an event for later."""
    due_at = world.now() + world.settings.event_delay_seconds
    with world.lock, world.engine.begin() as connection:
        connection.execute(insert(delayed_event).values(body=body, due_at=due_at))


def delay_object(world: World, connection: Connection, bucket: str, key: str, text: str) -> None:
    """Keep a result for later."""
    due_at = world.now() + world.settings.late_manifest_seconds
    connection.execute(insert(delayed_object).values(bucket=bucket, key=key, text=text, due_at=due_at))


def deliver_delayed(world: World, deliver_event: DeliverEvent) -> None:
    """Write and deliver what is due."""
    for row in _due(world, delayed_object):
        store = world.stores(row.bucket)
        if store is not None:
            store.put(row.key, row.text.encode())
        _forget(world, delayed_object, row.number)
    for row in _due(world, delayed_event):
        deliver_event(row.body)
        _forget(world, delayed_event, row.number)


def _due(world: World, table: Table) -> list[Any]:
    with world.engine.connect() as connection:
        return list(
            connection.execute(select(table).where(has_come(table.c.due_at, world.now())).order_by(table.c.number))
        )


def _forget(world: World, table: Table, number: int) -> None:
    with world.lock, world.engine.begin() as connection:
        connection.execute(delete(table).where(table.c.number == number))
