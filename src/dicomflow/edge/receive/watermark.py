"""Free space on the spool's volume against the two watermarks."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.view import free_bytes

__all__ = ["Watermark"]

# At 1 GB/s no more than half a gigabyte goes unseen, which `refuse_below_bytes` has to spare.
_FRESH_SECONDS: Final = 0.5
_FASTEST_BYTES_PER_SECOND: Final = 100e6
_SLOWEST_BYTES_PER_SECOND: Final = 1e6


class Watermark:
    """Measures free space at most twice a second; any thread may ask."""

    def __init__(
        self,
        settings: SpoolSettings,
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._measure = measure
        self._settings = settings
        self._clock = clock
        self._measured_at = float("-inf")
        self._free_bytes = 0

    def free_bytes(self) -> int:
        """Return the free space, at most half a second old."""
        now = self._clock()
        if now - self._measured_at >= _FRESH_SECONDS:
            self._free_bytes = self._measure(self._settings.dir)
            self._measured_at = now
        return self._free_bytes

    @property
    def refuses(self) -> bool:
        """Whether stores are refused now."""
        return self.free_bytes() < self._settings.refuse_below_bytes

    def pause_seconds(self, received_bytes: int) -> float:
        """Return how long to wait after so many bytes of an association: 0 while there is room.

        Between the watermarks the rate of an association falls smoothly, from 100 MB/s to 1 MB/s.
        """
        free, slow, refuse = self.free_bytes(), self._settings.slow_below_bytes, self._settings.refuse_below_bytes
        if free >= slow:
            return 0.0
        left = max(0.0, (free - refuse) / (slow - refuse)) if slow > refuse else 0.0
        rate: float = _SLOWEST_BYTES_PER_SECOND * (_FASTEST_BYTES_PER_SECOND / _SLOWEST_BYTES_PER_SECOND) ** left
        return received_bytes / rate
