"""Room on the spool's volume: what is given up where it is short, and that an operator hears of it.

Without room for a note no delivery closes, and only stored deliveries make room: so the deliverer keeps some ballast to
give up, beside what is only kept to be fast.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.room import Room
from dicomflow.edge.spool.rotation import discard_free
from dicomflow.edge.spool.spares import Spares
from dicomflow.edge.spool.view import free_bytes
from dicomflow.regularfiles import create_regular, write_all

__all__ = ["BALLAST_BYTES", "Space"]

BALLAST_BYTES: Final = 4 << 20  # a manifest of 5,000 instances takes 3 MB
_TELL_EVERY_SECONDS: Final = 600.0
# After something found no room; what makes room has been going on since.
_FULL_SECONDS: Final = 10.0

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Space:
    """What the deliverer knows of the volume; `clock` gives monotonic seconds. Event loop: one owner."""

    def __init__(
        self,
        spool: Layout,
        spares: Spares,
        settings: SpoolSettings,
        room: Room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._spares = spares
        self._settings = settings
        self._room = room
        self._clock = clock
        self._full_until = float("-inf")
        self._told_at = float("-inf")
        self._is_full = False

    @property
    def is_full(self) -> bool:
        """Whether images are refused for want of space, or something found no room a moment ago."""
        return self._is_full

    def free_bytes(self) -> int:
        """Return the free space."""
        return free_bytes(self._spool.root)

    def look(self) -> None:
        """Give up what is only kept to be fast where space is short, take the ballast where it is not, and say so."""
        free = self.free_bytes()
        if free < self._settings.slow_below_bytes:
            self._give_up_spares()
        if self._room.shortage or self._clock() < self._full_until:
            self._tell(free)
            return
        if self._is_full:
            self._is_full, self._told_at = False, float("-inf")
            _logger.info("spool_has_room free_bytes=%d", free)
        if free >= self._settings.refuse_below_bytes + 2 * BALLAST_BYTES:
            self._keep_ballast()

    @property
    def is_tight(self) -> bool:
        """Whether there is no more room than the notes need that close deliveries."""
        return self.free_bytes() < BALLAST_BYTES

    def make(self) -> bool:
        """Make room, now that something found none; True if there is some."""
        self._full_until = self._clock() + _FULL_SECONDS
        before = self.free_bytes()
        self._tell(before)
        self._give_up_spares()
        with contextlib.suppress(OSError):
            self._spool.ballast.unlink()
        return self.free_bytes() > before

    def found(self, do: Callable[[], _T]) -> _T:
        """Do something; where it finds no room, make some and do it again at once, before others take it."""
        try:
            return do()
        except OSError as error:
            if not is_full(error) or not self.make():
                raise
        return do()

    def _give_up_spares(self) -> None:
        """Remove all spares, and the segments that wait to be written over."""
        self._spares.trim(0)
        for lane in self._spool.received.glob("*"):
            discard_free(lane)

    def _keep_ballast(self) -> None:
        """Take the space that `make` will give up, unless it is taken already. Raises `OSError`."""
        path = self._spool.ballast
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            try:
                with create_regular(temporary) as file:
                    write_all(file, os.urandom(BALLAST_BYTES))  # zeros may take no space
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _tell(self, free_bytes: int) -> None:
        """Say it loudly when it begins, and again every ten minutes while it lasts."""
        self._is_full = True
        if self._clock() - self._told_at >= _TELL_EVERY_SECONDS:
            self._told_at = self._clock()
            _logger.error(
                "spool_full free_bytes=%d refuse_below_bytes=%d", free_bytes, self._settings.refuse_below_bytes
            )
