"""The processes of an edge as their supervisor sees them: alive or dead, and whether they get on.

A process that is stopped, or hangs, is alive for the kernel. So each counts its beats in shared memory, and who does
not beat is silent. Knows neither what they do nor how they are started.
"""

import threading
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from typing import Final

__all__ = ["BEAT_SECONDS", "SILENT_SECONDS", "Child", "beat", "beat_until", "slots_of"]

BEAT_SECONDS: Final = 0.2
# Then it does not count as ready.
SILENT_SECONDS: Final = 10.0
# Then it is killed and replaced; before its first beat it may be starting, on a busy machine, with a slow disk.
_FROZEN_SECONDS: Final = 30.0
_START_SECONDS: Final = 300.0
# Of the time between two looks: a supervisor that was stopped itself knows nothing of its children.
_LONGEST_LOOK_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
# A child that lived this long did not fail at its start.
_STEADY_SECONDS: Final = 30.0
_SLOTS: Final = 2  # the process, and the loop that it works in


@dataclass(slots=True)
class Child:
    """A process, how to start it again, and how long it has been silent. Thread: the supervisor's watcher."""

    name: str
    start: Callable[[], SpawnProcess]
    process: SpawnProcess
    started_at: float
    slots: Sequence[int] = ()
    restart_at: float | None = None
    is_killed: bool = False
    _pause_seconds: float = _FIRST_PAUSE_SECONDS
    _seen: dict[int, int] = field(default_factory=dict)
    _silent: dict[int, float] = field(default_factory=dict)

    @property
    def is_worker(self) -> bool:
        """Whether it receives."""
        return self.name.startswith("worker")

    @property
    def has_begun(self) -> bool:
        """Whether the process has beaten since its start: before that it reads its modules, and does nothing yet."""
        return bool(self.slots) and self._seen.get(self.slots[0], 0) > 0

    @property
    def problem(self) -> str:
        """What hinders it, or nothing."""
        if not self.process.is_alive():
            return "does not run"
        if self.silent_seconds >= SILENT_SECONDS:
            return f"has not moved for {self.silent_seconds:.0f} s"
        return "" if self.has_begun else "has not begun"

    @property
    def silent_seconds(self) -> float:
        """For how long the process, or the loop that it works in, has not beaten."""
        return max(self._silent.values(), default=0.0)

    @property
    def is_frozen(self) -> bool:
        """Whether the process itself, not only its loop, has been silent for so long that it is to be replaced."""
        silent = self._silent.get(self.slots[0], 0.0) if self.slots else 0.0
        return silent >= (_FROZEN_SECONDS if self.has_begun else _START_SECONDS)

    def look(self, beats: Sequence[int], seconds: float) -> None:
        """Take in its beats, `seconds` after they were last."""
        for slot in self.slots:
            count = beats[slot]
            if count != self._seen.get(slot):
                self._seen[slot], self._silent[slot] = count, 0.0
            else:
                self._silent[slot] += min(seconds, _LONGEST_LOOK_SECONDS)

    def bury(self, now: float) -> None:
        """Set when it is started again: at once, and later each time it dies at its start."""
        if now - self.started_at >= _STEADY_SECONDS:
            self._pause_seconds = _FIRST_PAUSE_SECONDS
        self.restart_at = now + self._pause_seconds
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def replace(self, beats: MutableSequence[int], now: float) -> None:
        """Start it again, or try later; raises `OSError` when there is no process to be had."""
        for slot in self.slots:
            beats[slot] = 0
        try:
            self.process = self.start()
        except OSError:
            self.restart_at = now + _LONGEST_PAUSE_SECONDS
            raise
        self.started_at, self.restart_at, self.is_killed = now, None, False
        self._seen, self._silent = {}, {}


def slots_of(index: int) -> range:
    """Return the places in the table of beats of the child with a number: of its process, and of its loop."""
    return range(index * _SLOTS, (index + 1) * _SLOTS)


def beat(beats: MutableSequence[int], slot: int) -> None:
    """Beat once. Process and thread: one owner of each slot."""
    beats[slot] += 1


def beat_until(over: threading.Event, beats: MutableSequence[int], slot: int) -> None:
    """Beat on a thread of its own, whatever the others do, until the event."""

    def _beat() -> None:
        while not over.wait(BEAT_SECONDS):
            beat(beats, slot)

    threading.Thread(target=_beat, name="beats", daemon=True).start()
