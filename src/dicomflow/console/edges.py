"""What edges tell of themselves in the store, and whether they are silent. Only reads."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket.heartbeat import SILENT_AFTER, Heartbeat
from dicomflow.bucket.keys import STATUS_PREFIX, is_heartbeat
from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.reading import read_heartbeat
from dicomflow.errors import PermanentError, TransientError

__all__ = ["LOW_BYTES", "Edge", "read_edges"]

LOW_BYTES: Final = 10 << 30
"""Below this free space an edge begins to slow senders down, unless it is set otherwise there."""
_MAX_EDGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge's last heartbeat, how old it is, and whether the edge is silent; `problem` says why none can be read."""

    name: str
    heartbeat: Heartbeat | None
    age_seconds: float | None
    is_silent: bool
    problem: str | None = None

    @property
    def waiting(self) -> int:
        """Instances in the spool that are to be stored."""
        return self.heartbeat.received + self.heartbeat.delivering if self.heartbeat else 0


def read_edges(store: ObjectStore, now: datetime) -> list[Edge]:
    """Return what each edge said last, by name.

    Raises:
        TransientError: the store does not answer.
    """
    try:
        found = [each for each in list_objects(store, STATUS_PREFIX) if is_heartbeat(each.key)]
        return sorted((_read(store, each.key, now) for each in found[:_MAX_EDGES]), key=lambda edge: edge.name)
    except (BaseError, OSError) as error:
        raise TransientError(f"the store does not answer: {type(error).__name__}") from error


def _read(store: ObjectStore, key: str, now: datetime) -> Edge:
    name = key.removeprefix(STATUS_PREFIX).removesuffix(".json")
    try:
        heartbeat = read_heartbeat(store, key)
    except FileNotFoundError:
        return Edge(name, None, None, True, "its heartbeat has just gone")
    except PermanentError as error:
        return Edge(name, None, None, True, str(error))
    age = now - heartbeat.at
    return Edge(heartbeat.edge, heartbeat, max(0.0, age.total_seconds()), age > max(SILENT_AFTER, timedelta(0)))
