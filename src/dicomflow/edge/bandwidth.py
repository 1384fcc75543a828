"""The upload's share of the line: a limit in bytes a second, by hour and weekday, which may change at any time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from dicomflow.edge.settings import DeliverySettings

__all__ = ["Bandwidth", "limit_at"]

# A change of the limit takes effect within this.
_SLICE_SECONDS: Final = 0.5


def limit_at(settings: DeliverySettings, moment: datetime) -> int:
    """Return the limit in force at a local time, in bytes a second; 0 for none."""
    for rule in settings.bandwidth:
        if moment.weekday() in rule.days and rule.from_hour <= moment.hour < rule.to_hour:
            return rule.max_bytes_per_second
    return settings.max_bytes_per_second


class Bandwidth:
    """Lets puts begin no faster than the limit. Event loop: one owner."""

    def __init__(
        self,
        settings: Callable[[], DeliverySettings],
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
        while self._pay() > 0:
            limit = limit_at(self._settings(), self._now())
            await self._sleep(min(self._owed_bytes / limit, _SLICE_SECONDS) if limit else 0)
        self._owed_bytes += size_bytes

    def _pay(self) -> float:
        """Take off what the time since has paid for; return what is still owed."""
        now = self._now()
        limit = limit_at(self._settings(), now)
        elapsed, self._paid_at = (now - self._paid_at).total_seconds(), now
        self._owed_bytes = max(0.0, self._owed_bytes - max(0.0, elapsed) * limit) if limit else 0.0
        return self._owed_bytes
