"""Workers killed at any moment, and events repeated in any order, end in the catalog that was built in order, once."""

import os
import random
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from crew import crew_of
from index_process import run_index_worker
from sqlalchemy import Engine, text

from dicomflow.catalog import queue
from dicomflow.pipeline.events import encode_object_event
from dicomflow.pipeline.index import index_objects

EVENTS = int(os.environ.get("DICOMFLOW_TEST_EVENTS", "300"))
WORKERS = 8 if EVENTS >= 10_000 else 4
SECONDS_BETWEEN_KILLS = 0.2
MOST_KILLS = max(5, EVENTS // 150)
"""On a machine with much else to do, nobody would live long enough to get anywhere."""
PORTIONS = 10
ONCE_BATCH = 10
TABLES = (
    *("instance", "series_study", "series", "study_patient", "study"),
    *("patient_word", "patient_history", "patient", "stored_object"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_killed_at_random_leave_the_catalog_built_in_order_once(engine: Engine, bucket: Any, contents: Any):
    """The catalog is a function of the objects, whoever died while writing it."""
    chance = random.Random(7)
    for number in range(EVENTS // 3):
        bucket.put_instance(
            f"1.2.{number // 2}",
            edge=f"site{number % 2}",
            StudyInstanceUID=f"1.2.{number % 40}",
            SeriesInstanceUID=f"1.2.{number % 40}.{number % 3}",
            StudyDescription=f"description {number}",
            PatientID=f"{number % 23}",
            PatientName=f"Demo^{number % 5}",
            StudyDate=f"202001{number % 9 + 1:02}",
        )
    bodies = [encode_object_event(event.bucket, event.key, event.size_bytes) for event in bucket.events] * 3
    chance.shuffle(bodies)
    kills = work_under_fire(engine, bucket.folder, bodies, chance)
    found = contents(engine)
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"DELETE FROM {table}"))
    for start in range(0, len(bucket.events), ONCE_BATCH):
        index_objects(engine, bucket.store, bucket.events[start : start + ONCE_BATCH])
    for name, expected in contents(engine).items():
        assert drop_times(expected) == drop_times(found[name]), name
    assert kills > 2


def work_under_fire(engine: Engine, folder: Path, bodies: list[str], chance: random.Random) -> int:
    """Let workers empty the queue while one after the other is killed and replaced; return how many were.

    The queue is filled in portions with a kill after each, so that workers that are left alone do not empty it before.
    """
    portions = [bodies[number::PORTIONS] for number in range(PORTIONS)]
    url = engine.url.render_as_string(hide_password=False)
    kills = 0
    with crew_of(WORKERS, run_index_worker, url, str(folder)) as crew:
        while portions or messages_left(engine):
            if portions:
                with engine.begin() as connection:
                    queue.send_many(connection, "index", portions.pop(), datetime.now(UTC))
            time.sleep(SECONDS_BETWEEN_KILLS * chance.random() * 2)
            kills += kills < MOST_KILLS and crew.kill(chance.choice(crew.names()))
            crew.replace_dead()
    return kills


def messages_left(engine: Engine) -> int:
    """Count what is not worked on yet."""
    with engine.begin() as connection:
        counts = queue.count(connection, "index", datetime.now(UTC))
    return counts.visible + counts.in_flight


def drop_times(listed: list[str]) -> list[str]:
    """Leave out when an object was indexed: that is the one thing that may differ."""
    return [re.sub(r"'indexed_at': datetime\.datetime\([^)]*\)", "", row) for row in listed]
