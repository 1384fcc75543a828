"""Spares: files of delivered instances, kept to be written over by new ones.

A file that is there has its blocks on the disk and its pages in memory, so a new instance of about its size costs the
file system neither: 513 to 569 of 525 KB a second instead of 234 to 376 (decision 0013). The folder `spares/` holds
them; nothing in it is an instance, whatever its bytes are.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dicomflow.regularfiles import open_descriptor

__all__ = ["LEAST_BYTES", "Spares"]

_SUFFIX: Final = ".spare"
# A smaller file is made anew as fast, and tens of thousands would have to be looked through.
LEAST_BYTES: Final = 64 << 10
# How long a folder that had nothing of a size is not looked at again.
_LOOK_AGAIN_SECONDS: Final = 0.5
_GOLDEN: Final = 0x9E3779B1  # 2**32 by the golden ratio: neighbours land far from each other


class Spares:
    """The spares of a spool, the same folder for all processes; with a limit of 0 none are kept.

    Threads: any. Processes: any, since a spare belongs to who renames it first.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._kept = 0
        self._looking = threading.Lock()
        self._looked_at = float("-inf")
        self._names: dict[int, deque[str]] = {}  # by class of size

    def keep(self, paths: Iterable[Path]) -> None:
        """Take over files of which nothing is needed any more, or remove them; the oldest spares go above the limit.

        Raises `OSError` when a file can neither be kept nor removed.
        """
        left = self._limit_bytes
        for path in paths:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            size_bytes = status.st_size
            # One with a second name is still somebody's: a destination's, for one.
            if status.st_nlink == 1 and LEAST_BYTES <= size_bytes <= left and self._keep(path, size_bytes):
                left -= size_bytes
            else:
                path.unlink(missing_ok=True)
        if left < self._limit_bytes:
            self.trim()

    def trim(self, limit_bytes: int | None = None) -> None:
        """Remove the oldest spares above the limit, or above another for now; what cannot be removed stays."""
        left = self._limit_bytes if limit_bytes is None else limit_bytes
        for name in sorted(self._listed(), reverse=True):
            left -= _size_of(name)
            if left < 0:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def take(self, near_bytes: int, path: str) -> tuple[int, int] | None:
        """Rename a spare of about a size to `path`, and open it; return its descriptor and its size.

        None when there is none that can be had. What it held is still in it.
        """
        if not LEAST_BYTES <= near_bytes <= self._limit_bytes:
            return None
        names = self._names.get(near_bytes.bit_length())
        if not names:
            names = self._look(near_bytes.bit_length())
        while names:
            try:
                os.rename(f"{self._folder}/{names.pop()}", path)  # noqa: PTH104  # done for each instance
            except (IndexError, OSError):  # another thread or process was first, or it cannot be had
                continue
            opened = _open(path)
            if opened is not None:
                return opened
        return None

    def _look(self, size_class: int) -> "deque[str] | None":
        """Read the folder, at most every half a second."""
        with self._looking:
            if time.monotonic() - self._looked_at < _LOOK_AGAIN_SECONDS:
                return None
            names: dict[int, deque[str]] = {}
            for name in sorted(self._listed()):
                names.setdefault(_size_of(name).bit_length(), deque()).append(name)
            # Processes that begin at other places of their lists seldom want the same one.
            for each in names.values():
                each.rotate(os.getpid() * _GOLDEN % (1 << 32) * len(each) >> 32)
            self._names = names
            self._looked_at = time.monotonic()
        return names.get(size_class)

    def _keep(self, path: Path, size_bytes: int) -> bool:
        """Take over one file; False when that fails, on a full disk for one."""
        self._kept += 1
        try:
            # Names sort by age; clocks that stand still for milliseconds give two files one time.
            path.rename(self._folder / f"{max(0, time.time_ns()):020}-{self._kept:08}_{size_bytes}{_SUFFIX}")
        except OSError:
            return False
        return True

    def _listed(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if name.endswith(_SUFFIX)]  # noqa: PTH208  # hundreds
        except OSError:  # it is gone, or another user's
            return []


def _open(path: str) -> tuple[int, int] | None:
    """Open a spare under its new name, and return its descriptor and size; None, and no file, when it cannot be used.

    One with a second name is somebody's copy, a backup's for one.
    """
    descriptor = -1
    with contextlib.suppress(OSError):
        descriptor = open_descriptor(path, os.O_WRONLY)
        status = os.fstat(descriptor)
        if status.st_nlink == 1:
            return descriptor, status.st_size
    with contextlib.suppress(OSError):
        if descriptor >= 0:
            os.close(descriptor)
        os.unlink(path)  # noqa: PTH108  # done for each instance
    return None


def _size_of(name: str) -> int:
    size = name.removesuffix(_SUFFIX).rpartition("_")[2]
    return int(size) if size.isdecimal() else 0
