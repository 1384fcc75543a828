"""The bucket's notifications on one machine: what the edge's processes tell the pipeline.

Knows events and the queue, and nothing of what else runs here: that process would import it all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import Engine

from dicomflow.bucket.keys import is_manifest, transfer_of_returns
from dicomflow.catalog import queue
from dicomflow.catalog.engine import create_engine_for
from dicomflow.edge.deliver.deliverer import StoredObject
from dicomflow.pipeline.events import LOCAL_BUCKET, encode_object_event

__all__ = ["Notifier"]


@dataclass(frozen=True, slots=True)
class Notifier:
    """The bucket's notifications, each to its queue. Called in the processes that put."""

    database_url: str

    def __call__(self, stored: Sequence[StoredObject]) -> None:
        """Durable: on return the messages are in the queues."""
        bodies: dict[str, list[str]] = {"index": [], "plan": [], "transfers": []}
        for each in stored:
            name = "plan" if is_manifest(each.key) else "transfers" if transfer_of_returns(each.key) else "index"
            bodies[name].append(encode_object_event(LOCAL_BUCKET, each.key, each.bytes))
        with _engine_of(self.database_url).begin() as connection:
            for name, messages in bodies.items():
                queue.send_many(connection, name, messages, datetime.now(UTC))


@lru_cache(maxsize=1)
def _engine_of(database_url: str) -> Engine:
    return create_engine_for(database_url)
