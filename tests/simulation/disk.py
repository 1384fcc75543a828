"""The system calls of the edge: where its processes die, where the volume is full, and where a disk fails."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.simulation.box import Box, Died

if TYPE_CHECKING:
    from tests.simulation.power import Memory

_WRITES = ("write", "writev", "pwrite", "mkdir", "link")
_CALLS = (*_WRITES, "open", "ftruncate", "rename", "replace", "unlink", "rmdir", "fsync", "fdatasync")


def descriptors() -> dict[int, str]:
    """Return what of files and folders is open in this process."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found[int(path.name)] = str(path.readlink())
    return {number: name for number, name in found.items() if name.startswith("/")}


def close_under(folder: Path) -> None:
    """Close what a process that died had open in its folder, as its end does."""
    for number, name in descriptors().items():
        if Path(name).is_relative_to(folder):
            os.close(number)


class Process:
    """A process of the edge: when it dies, and that it is dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.calls_left: int | None = None


class Disk:
    """Stands between the edge's processes and `os`; what nobody's process calls is the judges' own."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.process: Process | None = None
        self.full_until = -1.0
        self.memory: Memory | None = None  # of a host that may lose power

    @contextmanager
    def of(self, process: Process | None) -> Iterator[None]:
        """Let the calls be a process's."""
        before, self.process = self.process, process
        try:
            yield
        finally:
            self.process = before

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Follow the calls of the module `os`."""
        with ExitStack() as stack:
            for name in _CALLS:
                stack.enter_context(patch.object(os, name, self._followed(name, getattr(os, name))))
            urandom = os.urandom
            random = self._box.rng("urandom")
            drawn = lambda size: random.randbytes(size) if self.process else urandom(size)  # noqa: E731
            stack.enter_context(patch.object(os, "urandom", drawn))
            yield

    def _followed(self, name: str, call: Any) -> Any:
        def followed(*args: Any, **options: Any) -> Any:
            self._before(name)
            if self.process is None or self.memory is None:
                return call(*args, **options)
            with self.of(None):
                return self.memory.follow(name, lambda: call(*args, **options), args)

        return followed

    def _before(self, name: str) -> None:
        process, box = self.process, self._box
        if process is None:
            return
        if process.is_dead:
            raise Died
        box.steps += 1
        if process.calls_left is not None:
            process.calls_left -= 1
            if process.calls_left <= 0:
                box.note(f"{process.name} dies before {name}")
                box.counts["death before a system call"] += 1
                process.calls_left, process.is_dead = None, True
                raise Died
        if name in _WRITES and box.seconds < self.full_until:
            box.counts["call on a full volume"] += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        if name in {"write", "writev", "pwrite", "fsync"} and box.chance("eio"):
            box.note(f"EIO of {name} for {process.name}")
            raise OSError(errno.EIO, "Input/output error")
