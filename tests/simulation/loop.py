"""An event loop in virtual time: while it would wait, the box's own timetable goes on."""

import asyncio
import gc
import selectors
from datetime import timedelta

from tests.simulation.box import Box


class _Selector(selectors.SelectSelector):
    def __init__(self, box: Box, around: object) -> None:
        super().__init__()
        self._box, self._around = box, around

    def select(self, timeout: float | None = None) -> list:
        """Wait by letting time pass; nothing ever comes from outside."""
        if timeout is None:
            raise AssertionError("nothing would ever happen again")
        with self._around():
            # A timer is due in less than a microsecond, or time would stand still.
            wait = timedelta(seconds=timeout, microseconds=1) if timeout > 0 else timedelta()
            self._box.run_until(self._box.now + wait)
        return []


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock is the box's; `around` is entered while others act."""

    def __init__(self, box: Box, around: object) -> None:
        self._box = box
        super().__init__(_Selector(box, around))

    def time(self) -> float:
        """Return the box's seconds."""
        return self._box.seconds

    def forget(self) -> None:
        """Be closed as a process's that died: nothing of it runs any more."""
        self._ready.clear()
        self._scheduled.clear()
        gc.collect()
        self.close()
