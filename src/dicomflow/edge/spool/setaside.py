"""What of the spool cannot be worked on now: left where it is, logged, shown, and looked at again after a while.

One file, folder, segment or delivery never stops the others. An error that belongs to one of them is noted here, where
the progress, the metrics and the heartbeat find it; whoever works on the spool passes by what is held.
"""

import errno
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomflow.edge.spool.durable import is_full

__all__ = ["NotOursError", "SetAside", "describe_failure"]

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
# What nobody has met again for so long after it was due is gone.
_FORGET_SECONDS: Final = 60.0

_FRAMES: Final = 6

_logger = logging.getLogger(__name__)


class NotOursError(OSError):
    """Something lies in the spool under a name that is none of the edge's: nothing was acknowledged by it."""

    def __init__(self) -> None:
        text = "its name is none of the edge's: move it away; an image is received by `dicomflow send`"
        super().__init__(errno.EINVAL, text)


@dataclass(slots=True)
class _Held:
    reason: str
    is_ours: bool
    pause_seconds: float
    until: float


class SetAside:
    """What is held, by its path. Threads: any; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[Path, _Held] = {}

    def holds(self, path: Path) -> bool:
        """Tell whether something is to be left alone for now."""
        held = self._held.get(path) if self._held else None
        return held is not None and self._clock() < held.until

    def note(self, path: Path, error: Exception) -> None:
        """Hold something for a while, longer each time; logged when it is new or fails in another way."""
        reason = describe_failure(error)
        held = self._held.get(path)
        if held is None or held.reason != reason:
            # A name that somebody gave may be a patient's.
            is_ours = not isinstance(error, NotOursError)
            name = f"{path.parent.name}/{path.name if is_ours else '...'}"
            if isinstance(error, OSError):
                _logger.error("set_aside path=%s reason=%s", name, reason)
            else:
                _logger.error("set_aside path=%s reason=%s at=%s", name, reason, _place_of(error))
            held = self._held[path] = _Held(reason, is_ours, _FIRST_PAUSE_SECONDS, 0.0)
        if is_full(error):
            held.until = self._clock()  # it is not to blame, and room may be there at once
            return
        held.until = self._clock() + held.pause_seconds
        held.pause_seconds = min(2 * held.pause_seconds, _LONGEST_PAUSE_SECONDS)

    def settle(self, path: Path) -> None:
        """Hold something no more: it could be worked on."""
        if self._held and self._held.pop(path, None) is not None:
            _logger.info("set_aside_no_more path=%s", f"{path.parent.name}/{path.name}")

    @property
    def has_instances(self) -> bool:
        """Whether something is held that may be an acknowledged instance."""
        self.reasons()
        return any(held.is_ours for held in self._held.copy().values())

    def reasons(self) -> dict[Path, str]:
        """Return what is held, with the reasons."""
        gone = self._clock() - _FORGET_SECONDS
        for path in [path for path, held in self._held.copy().items() if held.until < gone]:
            self._held.pop(path, None)
        return {path: held.reason for path, held in self._held.copy().items()}


def describe_failure(error: Exception) -> str:
    """Say what went wrong without a path or a value in it."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _place_of(error: Exception) -> str:
    """Say where in the program an error came up; a traceback would have its text, which may quote what was read."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return " ".join(f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames)
