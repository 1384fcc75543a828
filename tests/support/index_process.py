"""One worker of the index queue in a process of its own, to be killed: it indexes until nothing is left.

It is a module apart from its test so that a server of forks can load it once.
"""

import time
from datetime import UTC, datetime

from obstore.store import LocalStore

from dicomflow.catalog import queue
from dicomflow.catalog.engine import create_engine_for
from dicomflow.pipeline.events import decode_object_events
from dicomflow.pipeline.index import index_objects

__all__ = ["VISIBILITY_SECONDS", "run_index_worker"]

BATCH = 50
VISIBILITY_SECONDS = 2
MAX_RECEIVES = 1000  # killed workers count as receives, and this is not about dead letters


def run_index_worker(database_url: str, folder: str, _name: str, _number: int) -> None:
    """Work until the queue is empty."""
    engine = create_engine_for(database_url)
    store = LocalStore(folder)
    while True:
        with engine.begin() as connection:
            messages = queue.receive(
                connection,
                "index",
                datetime.now(UTC),
                max_messages=BATCH,
                visibility_timeout_seconds=VISIBILITY_SECONDS,
                max_receives=MAX_RECEIVES,
            )
            left = queue.count(connection, "index", datetime.now(UTC))
        if not messages:
            if not (left.visible or left.in_flight):
                return
            time.sleep(0.2)
            continue
        objects = [event for each in messages for event in decode_object_events(each.message_id, each.body)]
        result = index_objects(engine, store, objects)
        with engine.begin() as connection:
            for each in messages:
                if each.message_id not in result.failed:
                    queue.delete_message(connection, "index", each.message_id, each.receipt)
