"""Which of the connections that nothing came of are worth a line in the log; all of them are counted.

Load balancers and monitors connect, or associate and perhaps verify, every few seconds; strangers may do so thousands
of times. One of each kind and peer in an hour tells an operator that they are there.
"""

import time
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["Probes"]

_QUIET_SECONDS: Final = 3600.0
_MAX_KNOWN: Final = 1000


class Probes:
    """Remembers what was told of lately. Threads: any; two that come at once may both be told of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: dict[Hashable, float] = {}

    def is_news(self, *what: Hashable) -> bool:
        """Tell whether such a thing was not told of in the last hour; if so it now is."""
        now = self._clock()
        told_at = self._told_at.get(what)
        if told_at is not None and now - told_at < _QUIET_SECONDS:
            return False
        if len(self._told_at) >= _MAX_KNOWN:
            self._told_at.clear()
        self._told_at[what] = now
        return True
