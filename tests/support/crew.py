"""Processes that are killed with SIGKILL and replaced at once.

They are forks of a server that has loaded what they run, since a fresh interpreter takes a second to import it.
"""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["KILLED", "Crew", "crew_of"]

KILLED = -9
LOADED = ("driver_process", "index_process")
"""What the server of forks loads: modules of this folder."""


class Crew:
    """Processes that call `work(*arguments, name, number)`. Thread: `kill` from any, the rest one owner."""

    def __init__(self, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._work = work
        self._arguments = arguments
        self._context = multiprocessing.get_context("forkserver")
        self._lock = threading.Lock()
        self._crew: dict[str, Any] = {}
        self.hired = 0

    def kill(self, name: str) -> bool:
        """Kill one with SIGKILL; False when it is dead or done."""
        with self._lock:
            process = self._crew.get(name)
            if process is None or not process.is_alive():
                return False
            process.kill()
            return True

    def names(self) -> list[str]:
        """Return the names of all that were hired and not replaced."""
        return list(self._crew)

    def hire(self) -> None:
        """Start one more."""
        self.hired += 1
        name = f"worker{self.hired}"
        process = self._context.Process(target=self._work, args=(*self._arguments, name, self.hired), daemon=True)
        process.start()
        with self._lock:
            self._crew[name] = process

    def replace_dead(self) -> int:
        """Hire somebody for each that was killed or is done, and return how many; none may have failed by itself."""
        gone = [(name, process) for name, process in self._crew.items() if not process.is_alive()]
        for name, process in gone:
            process.join()
            assert process.exitcode in {0, KILLED}, f"{name} ended with {process.exitcode}"
            with self._lock:
                del self._crew[name]
            self.hire()
        return len(gone)

    def dismiss(self) -> None:
        """Kill all."""
        for process in self._crew.values():
            process.kill()
            process.join()


@contextmanager
def crew_of(count: int, work: Callable[..., None], *arguments: Any) -> Iterator[Crew]:
    """Give a crew that is gone afterwards; `work` is a function of one of `LOADED`."""
    multiprocessing.set_forkserver_preload(list(LOADED))
    crew = Crew(work, arguments)
    try:
        with pytest.MonkeyPatch.context() as environment:  # where the server, which starts here, looks for them
            environment.setenv("PYTHONPATH", str(Path(__file__).parent))
            for _ in range(count):
                crew.hire()
        yield crew
    finally:
        crew.dismiss()
