"""Token buckets, one per operation, on the simulator's clock."""

import threading
from collections.abc import Callable, Mapping

from dicomflow.healthimaging.simulator.settings import Rate

__all__ = ["Throttle"]


class Throttle:
    """Thread: any; one lock guards the buckets. An operation without a rate is never throttled."""

    def __init__(self, rates: Mapping[str, Rate], now: Callable[[], float]) -> None:
        self._rates = rates
        self._now = now
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}  # operation: tokens left, at this time

    def take(self, operation: str) -> bool:
        """Take a token, or return False when the bucket is empty."""
        rate = self._rates.get(operation)
        if rate is None:
            return True
        with self._lock:
            now = self._now()
            tokens, then = self._levels.get(operation, (float(rate.burst), now))
            tokens = min(float(rate.burst), tokens + max(now - then, 0.0) * rate.per_second)
            allowed = tokens >= 1
            self._levels[operation] = (tokens - allowed, now)
            return allowed
