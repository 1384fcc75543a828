"""What waited and how much was received in the last hour, sampled while the console runs: news, kept in memory."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog.activity import read_backlog
from dicomflow.catalog.engine import begin_read
from dicomflow.console.edges import read_edges

__all__ = ["EVERY_SECONDS", "History", "Sample"]

EVERY_SECONDS: Final = 10.0
_KEPT: Final = 360
_MINUTES: Final = 60

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """Instances that wait at each stage at a moment."""

    at: datetime
    to_deliver: int
    to_index: int
    to_import: int


class History:
    """Looks at edges and catalog now and then. Threads: any; `follow` belongs to one event loop."""

    def __init__(self, engine: Engine, store: ObjectStore, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._samples: deque[Sample] = deque(maxlen=_KEPT)
        self._received: dict[datetime, int] = {}
        self._told: dict[str, tuple[datetime, int]] = {}

    async def follow(self) -> None:
        """Take a sample every few seconds, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.sample)
            except Exception as error:  # noqa: BLE001  # news only: the next one may work
                _logger.warning("console_sample_failed error=%s", type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    def sample(self) -> Sample:
        """Take one sample."""
        now = self._clock()
        edges = read_edges(self._store, now)
        with begin_read(self._engine) as connection:
            backlog = read_backlog(connection, now)
        sample = Sample(
            now,
            sum(edge.waiting for edge in edges),
            backlog.objects_to_index,
            backlog.instances_queued + backlog.instances_in_progress,
        )
        with self._lock:
            self._samples.append(sample)
            for edge in edges:
                if edge.heartbeat is not None:
                    total = sum(peer.instances for peer in edge.heartbeat.peers)
                    self._count(edge.name, edge.heartbeat.at, total)
            oldest = now - timedelta(minutes=_MINUTES + 1)
            self._received = {at: count for at, count in self._received.items() if at > oldest}
        return sample

    def document(self) -> list[dict[str, Any]]:
        """Return the samples, the oldest first."""
        with self._lock:
            return [
                {"at": each.at, "to_deliver": each.to_deliver, "to_index": each.to_index, "to_import": each.to_import}
                for each in self._samples
            ]

    @property
    def has_received(self) -> bool:
        """Tell whether an edge has told twice, so that what came between is known."""
        with self._lock:
            return bool(self._received)

    def received(self, first: datetime, minutes: int) -> tuple[int, ...]:
        """Return how many instances edges have received in each minute, as far as their heartbeats tell."""
        with self._lock:
            return tuple(self._received.get(first + timedelta(minutes=number), 0) for number in range(minutes))

    def _count(self, edge: str, at: datetime, total: int) -> None:
        """Count what an edge has received since it last told; its counters begin at 0 with it."""
        told_at, told = self._told.get(edge, (at, total))
        if at > told_at:
            minute = at.astimezone(UTC).replace(second=0, microsecond=0)
            more = total - told if total >= told else total
            self._received[minute] = self._received.get(minute, 0) + more
        if at >= told_at:
            self._told[edge] = (at, total)
