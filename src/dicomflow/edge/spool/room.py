"""Whether the spool's volume has room for images, as all processes of an edge know it.

Free space says it, and a write that found none: a volume may be full above the watermark, by a quota for one.
"""

import math
import time
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from typing import Final

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.view import free_bytes

__all__ = ["Room"]

# Whatever the watermark: hardly an image is smaller.
_LEAST_BYTES: Final = 1 << 20
# A sender that was refused tries again in less.
_SHORT_SECONDS: Final = 60.0


def _never() -> MutableSequence[float]:
    return [-math.inf]


@dataclass(frozen=True, slots=True)
class Room:
    """What is known of the volume. Processes and threads: any, where `found_none_at` is shared memory.

    `found_none_at` has one place: when a write found no room last, in monotonic seconds, which all processes share.
    """

    settings: SpoolSettings
    found_none_at: MutableSequence[float] = field(default_factory=_never)
    clock: Callable[[], float] = time.monotonic

    def note_none(self) -> None:
        """Note that an image found no room."""
        self.found_none_at[0] = self.clock()

    @property
    def shortage(self) -> str:
        """Why images are refused, or nothing. Raises `OSError` where the volume does not say."""
        free = free_bytes(self.settings.dir)
        if free < self.settings.refuse_below_bytes:
            return "free space is below spool.refuse_below_bytes"
        found_none = self.clock() - self.found_none_at[0] < _SHORT_SECONDS
        return "the spool's volume has no room for images" if found_none or free < _LEAST_BYTES else ""
