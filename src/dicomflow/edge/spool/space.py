"""Room on the spool's volume: what is given up where it is short, and that an operator hears of it.

Without room for a note no delivery closes, and only stored deliveries make room: so the deliverer keeps some ballast to
give up, beside what is only kept to be fast.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.folders import BALLAST_BYTES, Spool

__all__ = ["Space"]

_TELL_EVERY_SECONDS: Final = 600.0
# After something found no room; what makes room has been going on since.
_FULL_SECONDS: Final = 10.0

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Space:
    """What the deliverer knows of the volume; `clock` gives monotonic seconds. Event loop: one owner."""

    def __init__(self, spool: Spool, settings: SpoolSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._spool = spool
        self._settings = settings
        self._clock = clock
        self._full_until = float("-inf")
        self._told_at = float("-inf")
        self._is_full = False

    @property
    def is_full(self) -> bool:
        """Whether images are refused for want of space, or something found no room a moment ago."""
        return self._is_full

    def look(self) -> None:
        """Give up what is only kept to be fast where space is short, take the ballast where it is not, and say so."""
        free = self._spool.free_bytes()
        if free < self._settings.slow_below_bytes:
            self._spool.give_up_spares()
        is_refusing = free < self._settings.refuse_below_bytes
        if is_refusing or self._clock() < self._full_until:
            self._tell(free)
            return
        if self._is_full:
            self._is_full, self._told_at = False, float("-inf")
            _logger.info("spool_has_room free_bytes=%d", free)
        if free >= self._settings.refuse_below_bytes + 2 * BALLAST_BYTES:
            self._spool.keep_ballast()

    @property
    def is_tight(self) -> bool:
        """Whether there is no more room than the notes need that close deliveries."""
        return self._spool.free_bytes() < BALLAST_BYTES

    def make(self) -> bool:
        """Make room, now that something found none; True if there is some."""
        self._full_until = self._clock() + _FULL_SECONDS
        self._tell(self._spool.free_bytes())
        return self._spool.make_room()

    def found(self, do: Callable[[], _T]) -> _T:
        """Do something; where it finds no room, make some and do it again at once, before others take it."""
        try:
            return do()
        except OSError as error:
            if not is_full(error) or not self.make():
                raise
        return do()

    def _tell(self, free_bytes: int) -> None:
        """Say it loudly when it begins, and again every ten minutes while it lasts."""
        self._is_full = True
        if self._clock() - self._told_at >= _TELL_EVERY_SECONDS:
            self._told_at = self._clock()
            _logger.error(
                "spool_full free_bytes=%d refuse_below_bytes=%d", free_bytes, self._settings.refuse_below_bytes
            )
