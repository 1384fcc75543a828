"""What the overview counts: by the minute, from indexes, the same on both databases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert

from dicomflow.catalog import queue
from dicomflow.catalog.activity import activity_since, count_states, read_backlog
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.tables import delivery, series_import, start_pause, stored_object

NOW = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)

Fill = Callable[..., None]


@pytest.fixture
def fill(engine: Engine) -> Fill:
    """Write rows so many minutes before now: deliveries of ten instances, objects, series in a state."""

    def write(minutes: int, *, states: tuple[str, ...] = (), objects: int = 0, unindexed: int = 0) -> None:
        at = NOW - timedelta(minutes=minutes)
        name = f"d{minutes}"
        with engine.begin() as connection:
            connection.execute(
                insert(delivery).values(
                    delivery_id=name,
                    edge="e",
                    manifest_key=name,
                    opened_at=at,
                    closed_at=at,
                    instance_count=10,
                    bytes=1000,
                )
            )
            for number, state in enumerate(states):
                connection.execute(
                    insert(series_import).values(
                        delivery_id=name,
                        study_instance_uid="1.2",
                        series_instance_uid=f"1.2.{minutes}.{number}",
                        input_prefix="p/",
                        object_count=5,
                        bytes=1,
                        state=state,
                        status=1,
                        created_at=at,
                        updated_at=at,
                    )
                )
            for number in range(objects + unindexed):
                indexed_at = at if number < objects else None
                key = f"{name}/{number}"
                connection.execute(
                    insert(stored_object).values(object_key=key, indexed_at=indexed_at, delivery_id=name)
                )

    return write


def test_activity_counts_each_minute_and_nothing_before(engine: Engine, fill: Fill):
    """Each step counts at its own time; what is older than asked for is left out."""
    fill(0, states=("completed", "failed"), objects=3)
    fill(2, states=("partial",), objects=1, unindexed=4)
    fill(5, states=("completed",), objects=2)
    with begin_read(engine) as connection:
        found = activity_since(connection, NOW, 4)
    assert datetime(2026, 11, 1, 11, 57, tzinfo=UTC) == found.first
    assert (0, 10, 0, 10) == found.delivered
    assert (0, 1000, 0, 1000) == found.delivered_bytes
    assert (0, 1, 0, 3) == found.indexed
    assert (0, 5, 0, 5) == found.imported


def test_backlog_counts_what_waits(engine: Engine, fill: Fill):
    """Objects without an index row, series in the queue and at work, messages by queue, and the pause."""
    fill(30, states=("queued", "in_progress", "completed"), unindexed=2)
    fill(1, states=("queued",))
    with engine.begin() as connection:
        connection.execute(insert(stored_object).values(object_key="bad", problem="no DICOM"))
        queue.send_many(connection, "index", ["1", "2"], NOW)
        queue.send(connection, f"plan{queue.DEAD_SUFFIX}", "3", NOW)
        until = NOW + timedelta(seconds=9)
        connection.execute(insert(start_pause).values(datastore_id="d", until_at=until, attempts=1))
    with begin_read(engine) as connection:
        found = read_backlog(connection, NOW)
        later = read_backlog(connection, NOW + timedelta(seconds=10))
        states = count_states(connection)
    assert 2 == found.objects_to_index
    assert (2, 10, NOW - timedelta(minutes=30)) == (found.series_queued, found.instances_queued, found.oldest_queued_at)
    assert (1, 5) == (found.series_in_progress, found.instances_in_progress)
    assert (2, {"plan": 1}) == (found.messages, found.dead_messages)
    assert (until, None) == (found.paused_until, later.paused_until)
    assert {"queued": 2, "in_progress": 1, "completed": 1} == states


def test_backlog_of_an_empty_catalog_is_nothing(engine: Engine):
    """An empty sum is 0, not NULL."""
    with begin_read(engine) as connection:
        found = read_backlog(connection, NOW)
        activity = activity_since(connection, NOW, 3)
    assert (0, 0, 0, None) == (found.objects_to_index, found.instances_queued, found.messages, found.oldest_queued_at)
    assert (0, 0, 0) == activity.indexed


@contextmanager
def _statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", remember)
    yield seen
    event.remove(engine, "before_cursor_execute", remember)


def test_activity_reads_no_whole_table_of_objects(engine: Engine, fill: Fill):
    """What the overview asks every few seconds costs the same with a million objects."""
    fill(0, objects=1)
    with _statements(engine) as seen, begin_read(engine) as connection:
        activity_since(connection, NOW, 60)
        read_backlog(connection, NOW)
    of_objects = [(statement, parameters) for statement, parameters in seen if "FROM stored_object" in statement]
    assert 2 == len(of_objects)
    with engine.connect() as connection:
        for statement, parameters in of_objects:
            if engine.dialect.name == "sqlite":
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                assert any("SEARCH stored_object USING" in row[3] for row in plan), plan
            else:
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).all()
                assert any("ix_stored_object_indexed_at" in row[0] for row in plan), plan
