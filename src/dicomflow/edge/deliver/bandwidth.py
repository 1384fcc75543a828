"""The upload's share of the line: a limit in bytes a second, by hour and weekday, and how much is sent at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol

from dicomflow.edge.settings import BandwidthRule

__all__ = ["LEAST_IN_FLIGHT_BYTES", "Bandwidth", "InFlight", "Limits", "limit_at"]

# A change of the limit takes effect within this.
_SLICE_SECONDS: Final = 0.5
# What is sent at once shares the line, and all of it must be through before a request times out: so much on any line,
# which 1 Mbit/s carries in nine minutes, and on a faster one what it carries in five.
LEAST_IN_FLIGHT_BYTES: Final = 64 << 20
_IN_FLIGHT_SECONDS: Final = 300.0
# What a put may take: for the answer, and for its share of a line that is slower than it has been, or half of 1 Mbit/s.
_ANSWER_SECONDS: Final = 30.0
_SLOWER_BY: Final = 4.0
_SLOWEST_BYTES_PER_SECOND: Final = 62_500.0
# Puts that have taken so much of their time without any of them getting on are told of before they end.
_STALLED_SHARE: Final = 0.5


class Limits(Protocol):
    """A limit in bytes a second, 0 for none; of the rules the first that fits the hour is in force instead."""

    @property
    def max_bytes_per_second(self) -> int:
        """The limit outside all rules."""

    @property
    def bandwidth(self) -> tuple[BandwidthRule, ...]:
        """The rules."""


def limit_at(settings: Limits, moment: datetime) -> int:
    """Return the limit in force at a local time, in bytes a second; 0 for none."""
    for rule in settings.bandwidth:
        if rule.hold_at(moment):
            return rule.max_bytes_per_second
    return settings.max_bytes_per_second


class Bandwidth:
    """Lets puts begin no faster than the limit. Event loop, or thread: one owner."""

    def __init__(
        self,
        settings: Callable[[], Limits],
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._owed_bytes = 0.0  # begun and not paid for yet by time
        self._paid_at = now()

    async def admit(self, size_bytes: int) -> None:
        """Return when so many bytes may begin to be sent; an object larger than a second's worth is not cut."""
        while (seconds := self.wait_seconds()) is not None:
            await self._sleep(seconds)
        self.begin(size_bytes)

    def wait_seconds(self) -> float | None:
        """Return how long to wait before asking again; None where something may begin to be sent."""
        if self._pay() <= 0:
            return None
        limit = limit_at(self._settings(), self._now())
        return min(self._owed_bytes / limit, _SLICE_SECONDS) if limit else 0.0

    def begin(self, size_bytes: int) -> None:
        """Note that so many bytes begin to be sent."""
        self._owed_bytes += size_bytes

    def _pay(self) -> float:
        """Take off what the time since has paid for; return what is still owed."""
        now = self._now()
        limit = limit_at(self._settings(), now)
        elapsed, self._paid_at = (now - self._paid_at).total_seconds(), now
        self._owed_bytes = max(0.0, self._owed_bytes - max(0.0, elapsed) * limit) if limit else 0.0
        return self._owed_bytes


class InFlight:
    """Lets as many bytes be sent at once as the line carries in time. Event loop: one owner.

    `line` gives the speed that the line has shown, in bytes a second; 0 while that is not known. `clock` gives
    monotonic seconds.
    """

    def __init__(self, line: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._clock = clock
        self._bytes = 0
        self._moved_at = clock()
        self._turn = asyncio.Lock()  # first come, first served: small objects never hold back a large one
        self._changed = asyncio.Event()

    async def enter(self, size_bytes: int) -> None:
        """Return when so many bytes may be sent beside the others; one object may always go. `leave` must follow."""
        async with self._turn:
            while self._bytes and self._bytes + size_bytes > self._most():
                self._changed.clear()
                await self._changed.wait()
            if not self._bytes:
                self.moved()
            self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Note that so many bytes are sent, or given up."""
        self._bytes -= size_bytes
        self.moved()
        self._changed.set()

    @contextlib.asynccontextmanager
    async def sending(self, size_bytes: int) -> AsyncIterator[None]:
        """Send so many bytes inside, once they may be."""
        await self.enter(size_bytes)
        try:
            yield
        finally:
            self.leave(size_bytes)

    def moved(self) -> None:
        """Note that something that is being sent has got on."""
        self._moved_at = self._clock()

    @property
    def is_stalled(self) -> bool:
        """Whether nothing of all that is being sent has got on for long."""
        return bool(self._bytes) and self._clock() - self._moved_at > self.limit_seconds() * _STALLED_SHARE

    def limit_seconds(self, tries: int = 0) -> float:
        """Return how long what is being sent now may take; each failed try takes the line for half as fast."""
        slowest = max(self._line() / _SLOWER_BY / 2.0 ** min(tries, 60), _SLOWEST_BYTES_PER_SECOND)
        return _ANSWER_SECONDS + self._bytes / slowest

    def _most(self) -> float:
        return max(LEAST_IN_FLIGHT_BYTES, self._line() * _IN_FLIGHT_SECONDS)
