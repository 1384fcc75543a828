"""One worker of the index queue, to be killed: receives, indexes, deletes, until nothing is left.

Called with the database's URL and the folder of the bucket.
"""

import sys
import time
from datetime import UTC, datetime

from obstore.store import LocalStore

from dicomflow.catalog import queue
from dicomflow.catalog.engine import create_engine_for
from dicomflow.pipeline.events import decode_object_events
from dicomflow.pipeline.index import index_objects

BATCH = 100
VISIBILITY_SECONDS = 2
MAX_RECEIVES = 1000  # killed workers count as receives, and this is not about dead letters


def main(database_url: str, folder: str) -> None:
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


main(*sys.argv[1:])
