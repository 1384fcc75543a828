"""Which file a lane's records go to next: begun over a free one or anew, locked while it is written, given back.

```
{number}-{key}.segment     records; while it may be written to, who writes it holds a lock on it (flock)
{key}.free                 unpacked, to be written over
```
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.edge.spool.notes import SEGMENT, SUFFIXES, discard_notes
from dicomflow.edge.spool.records import KEY_BYTES
from dicomflow.regularfiles import NotRegularError, open_descriptor

if sys.platform != "win32":
    import fcntl

__all__ = [
    "SEGMENT_FLAGS",
    "Rotation",
    "discard_free",
    "discard_stray_notes",
    "give_back",
    "is_complete",
    "is_lanes_own",
    "segments_of",
    "write_all_at",
]

_FREE: Final = ".free"
_BESIDE: Final = (_FREE, *SUFFIXES, ".part", ".damaged")
_NAME: Final = re.compile(r"[0-9]{8}-[0-9a-f]{16}" + re.escape(SEGMENT))
# What thousands of instances a second fill until the deliverer comes to them; a new one costs twice its bytes.
_MAX_FREE: Final = 8
_ZEROS_BYTES: Final = 1 << 20
SEGMENT_FLAGS: Final = os.O_WRONLY


class Rotation:
    """The segments of a lane, begun one after the other. Owner: who holds the lane's lock.

    Args:
        lane: the folder.
        size_bytes: of a segment.
        fsync: whether a new one waits for the disk.
        rename_durably: renames an open file and makes bytes and name durable; raises `OSError`.
    """

    def __init__(
        self, lane: Path, size_bytes: int, *, fsync: bool, rename_durably: Callable[[Callable[[], None], int], None]
    ) -> None:
        self._lane = lane
        self.size_bytes = size_bytes
        self._fsync = fsync
        self._rename_durably = rename_durably

    def begin(self) -> tuple[Path, int]:
        """Begin the segment of the next number, over a free one if there is one; return it open. Raises `OSError`."""
        number = max((_number(path) for path in segments_of(self._lane)), default=0) + 1
        path = self._lane / f"{number:08}-{os.urandom(KEY_BYTES).hex()}{SEGMENT}"
        descriptor = self._reuse(path)
        return path, self._create(path) if descriptor is None else descriptor

    def _reuse(self, path: Path) -> int | None:
        for free in self._lane.glob(f"*{_FREE}"):
            # A worker whose supervisor was killed may still be here, and be first.
            # What is no file is left alone.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotRegularError):
                descriptor = open_descriptor(free, SEGMENT_FLAGS)
                try:
                    status = os.fstat(descriptor)
                    # One with a second name is somebody's copy, a backup's for one.
                    if status.st_size != self.size_bytes or status.st_nlink != 1:
                        free.unlink()
                    elif _lock(descriptor, fcntl.LOCK_EX):
                        self._rename_durably(lambda source=free: os.rename(source, path), descriptor)  # type: ignore[misc]  # noqa: PTH104  # a call that a test can follow
                        return descriptor
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        return None

    def _create(self, path: Path) -> int:
        temporary = path.with_name(f"segment-{path.stem}_{os.getpid()}.part")
        descriptor = open_descriptor(temporary, SEGMENT_FLAGS | os.O_CREAT | os.O_EXCL)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            # Zeros, not a hole: later writes find the blocks there, and change nothing of the file but its bytes.
            for start in range(0, self.size_bytes, _ZEROS_BYTES):
                write_all_at(descriptor, bytes(min(_ZEROS_BYTES, self.size_bytes - start)), start)
            if self._fsync:
                os.fsync(descriptor)
            self._rename_durably(lambda: os.rename(temporary, path), descriptor)  # noqa: PTH104  # as above
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor


def is_lanes_own(name: str) -> bool:
    """Tell whether a file of a lane is named like one that is there beside received files."""
    if name.endswith(SEGMENT):
        return _NAME.fullmatch(name) is not None
    return name.endswith(_BESIDE)


def segments_of(lane: Path) -> list[Path]:
    """Return the segments of a lane in the order they were begun; what is not named like one is left alone."""
    try:
        names = [name for name in os.listdir(lane) if _NAME.fullmatch(name)]  # noqa: PTH208  # asked for all the time
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((lane / name for name in names), key=_number)


def is_complete(segment: BinaryIO) -> bool:
    """Tell whether nobody will write to an open segment any more."""
    return _lock(segment.fileno(), fcntl.LOCK_SH)


def give_back(segment: Path) -> None:
    """Let a segment be written over whose records are all durable elsewhere."""
    if len(list(segment.parent.glob(f"*{_FREE}"))) < _MAX_FREE:
        segment.rename(segment.with_name(segment.stem.partition("-")[2] + _FREE))
    else:
        segment.unlink()
    discard_notes(segment)


def discard_free(lane: Path) -> int:
    """Remove the segments of a lane that wait to be written over, where their space is wanted; return how many."""
    count = 0
    for free in lane.glob(f"*{_FREE}"):
        with contextlib.suppress(OSError):  # its worker was first
            free.unlink()
            count += 1
    return count


def discard_stray_notes(lane: Path) -> None:
    """Remove notes of segments that were given back by a process that was killed before it removed them."""
    for suffix in SUFFIXES:
        for note in lane.glob(f"*{suffix}"):
            with contextlib.suppress(OSError):
                if not note.with_suffix(SEGMENT).exists():
                    note.unlink()


def write_all_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write bytes at an offset. Raises `OSError`."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # a short write
        written += os.pwrite(descriptor, data[written:], offset + written)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock an open file until it is closed; False when another has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _number(segment: Path) -> int:
    return int(segment.name[:8])
