"""Free space on the spool's volume against the two watermarks."""

import time
from collections.abc import Callable
from typing import Final

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool import Spool

__all__ = ["Watermark"]

# At 1 GB/s no more than half a gigabyte goes unseen, which `refuse_below_bytes` has to spare.
_FRESH_SECONDS: Final = 0.5


class Watermark:
    """Measures free space at most twice a second; any thread may ask."""

    def __init__(self, spool: Spool, settings: SpoolSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._spool = spool
        self._settings = settings
        self._clock = clock
        self._measured_at = float("-inf")
        self._free_bytes = 0

    def free_bytes(self) -> int:
        """Return the free space, at most half a second old."""
        now = self._clock()
        if now - self._measured_at >= _FRESH_SECONDS:
            self._free_bytes = self._spool.free_bytes()
            self._measured_at = now
        return self._free_bytes

    @property
    def refuses(self) -> bool:
        """Whether stores are refused now."""
        return self.free_bytes() < self._settings.refuse_below_bytes

    @property
    def slows(self) -> bool:
        """Whether receiving is slowed now."""
        return self.free_bytes() < self._settings.slow_below_bytes
