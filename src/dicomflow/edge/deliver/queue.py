"""What is to be put, in order: the highest rank first, then the oldest delivery; what failed comes again later.

When puts fail one after the other the store is taken to be unreachable: all wait, and one put at a time tries it,
so that the end of an outage is met by one request and not by all of them. Each try is another object's, so that one the
store does not take never hides that it takes the others. Event loop: one owner.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance

__all__ = ["Put", "PutQueue"]

# So many failures in a row, without a success, are the store's and not an object's.
_FAILURES_OF_A_STORE: Final = 3


@dataclass(slots=True, order=True)
class Put:
    """One object that waits to be put; without an instance it is the delivery's manifest."""

    rank: int  # negated, since the smallest goes first
    oldest_at: float
    number: int
    delivery: Delivery = field(compare=False)
    instance: ReceivedInstance | None = field(compare=False)
    attempts: int = field(compare=False, default=0)
    probes: int = field(compare=False, default=0)  # of a failing store
    is_probe: bool = field(compare=False, default=False)  # whether this try is one


class PutQueue:
    """A priority queue with delayed repeats; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float], pause: Callable[[int], float]) -> None:
        self._clock = clock
        self._pause = pause
        self._ready: list[Put] = []
        self._delayed: list[tuple[float, Put]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._failures = 0
        self._probes = 0  # of the store since it fails
        self._closed_until = 0.0
        self._in_flight = 0

    @property
    def is_store_failing(self) -> bool:
        """Whether the last puts all failed."""
        return self._failures >= _FAILURES_OF_A_STORE

    @property
    def pause_seconds(self) -> float:
        """How long nothing will be put, while the store fails."""
        return max(0.0, self._closed_until - self._clock())

    def add(self, delivery: Delivery, instance: ReceivedInstance | None, rank: int) -> None:
        """Add an object; a manifest is added once its instances are put."""
        heapq.heappush(self._ready, Put(-rank, delivery.oldest_at, next(self._numbers), delivery, instance))
        self._changed.set()

    async def take(self) -> Put:
        """Return the next object when it may be put; `succeeded` or `failed` must follow."""
        while True:
            now = self._clock()
            while self._delayed and self._delayed[0][0] <= now:
                heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])
            may_try = now >= self._closed_until and not (self.is_store_failing and self._in_flight)
            if self._ready and may_try:
                self._in_flight += 1
                put = self._pop()
                put.is_probe = self.is_store_failing
                return put
            await self._sleep(self._next_at(now) - now)

    def succeeded(self) -> None:
        """Note a put that is done: the store works."""
        self._in_flight -= 1
        self._failures, self._probes, self._closed_until = 0, 0, 0.0
        self._changed.set()

    def failed(self, put: Put) -> float:
        """Take back a put that failed; return the seconds until it is tried again."""
        self._in_flight -= 1
        self._failures += 1
        now = self._clock()
        if self.is_store_failing:
            # The object may not be to blame: it keeps its place, and the store gets the pause.
            put.probes += 1
            if put.is_probe or not self._probes:
                # What was in flight when it began to fail tells nothing new, and makes no pause longer.
                self._probes += 1
                self._closed_until = now + self._pause(self._probes)
            pause = self.pause_seconds
            heapq.heappush(self._ready, put)
        else:
            put.attempts += 1
            pause = self._pause(put.attempts)
            heapq.heappush(self._delayed, (now + pause, put))
        self._changed.set()
        return pause

    def dropped(self) -> None:
        """Note a put that is given up, through no fault of the store's."""
        self._in_flight -= 1
        self._changed.set()

    def rank_again(self, rank: Callable[[Delivery], int]) -> None:
        """Order what waits by new ranks."""
        ranks: dict[str, int] = {}
        for put in [*self._ready, *(put for _, put in self._delayed)]:
            delivery = put.delivery
            if delivery.delivery_id not in ranks:
                ranks[delivery.delivery_id] = rank(delivery)
            put.rank = -ranks[delivery.delivery_id]
        heapq.heapify(self._ready)
        heapq.heapify(self._delayed)
        self._changed.set()

    def _pop(self) -> Put:
        if not self.is_store_failing:
            return heapq.heappop(self._ready)
        # A search once a pause: first what has tried the store least.
        put = min(self._ready, key=lambda each: (each.probes, each))
        self._ready.remove(put)
        heapq.heapify(self._ready)
        return put

    def _next_at(self, now: float) -> float:
        """Return when there is something to look at again, unless something changes before."""
        times = [at for at, _ in self._delayed[:1]]
        if self._ready:
            times.append(max(self._closed_until, now))
        return max(min(times, default=now + 3600.0), now + 0.001)

    async def _sleep(self, seconds: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
