"""Segments: small instances one behind the other in a file that has its blocks already.

A new file of 10 KB takes a name, an inode and a folder to be written, and the disk to be waited for; a record in a
segment takes its own pages and one wait, in which those of several associations are written together. A worker appends,
the deliverer unpacks the records to ordinary files and gives the segment back. In a lane of `received/`:

```
{number}-{key}.segment     records; while it may be written to, who writes it holds a lock on it (flock)
{number}-{key}.at          how far the deliverer has unpacked it
{number}-{key}.end         how far the worker has written it, so that a last record that is gone is missed
{key}.free                 unpacked, to be written over
```

A record begins on a page of its own, so no page of an acknowledged instance is written again. It counts if it holds
the segment's key, which is new for each use of the file, and if its bytes have the digest that its name tells.
"""

import contextlib
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.edge.spool.notes import (
    SEGMENT,
    discard_notes,
    key_of,
    open_end,
    read_end,
    read_offset,
    write_end,
    write_offset,
)
from dicomflow.edge.spool.records import (
    HEAD_BYTES,
    KEY_BYTES,
    MAX_RECORD_BYTES,
    Record,
    encode_head,
    next_page,
    read_records,
)
from dicomflow.regularfiles import NotRegularError, open_descriptor, open_regular

if sys.platform != "win32":
    import fcntl

__all__ = [
    "MAX_RECORD_BYTES",
    "Record",
    "Segments",
    "count_records",
    "discard_free",
    "discard_stray_notes",
    "give_back",
    "is_complete",
    "is_supported",
    "read_end",
    "read_offset",
    "read_records",
    "segments_of",
    "write_offset",
]

_FREE: Final = ".free"
_NOTES: Final = (".at", ".end")
_NAME: Final = re.compile(r"[0-9]{8}-[0-9a-f]{16}" + re.escape(SEGMENT))
# What thousands of instances a second fill until the deliverer comes to them; a new one costs twice its bytes.
_MAX_FREE: Final = 8
_ZEROS_BYTES: Final = 1 << 20
_FLAGS: Final = os.O_WRONLY
# Windows has neither these calls nor such locks.
is_supported: Final = all(hasattr(os, name) for name in ("fdatasync", "pread", "pwrite"))


class _Segment:
    """A segment that is being written, for as long as a thread has it. `write`: the owner of `Segments`' lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.key = key_of(path)
        self.offset = 0
        self._idle = [descriptor]
        self._noting = threading.Lock()
        self._noted_end = 0
        self._end = -1  # the descriptor of that note; without it the segment is written all the same
        # With the first one goes the lock, and the segment is complete: so not before the last thread lets go of it.
        weakref.finalize(self, _close_all, self._idle)
        with contextlib.suppress(OSError):
            self._end = open_end(path)
            weakref.finalize(self, os.close, self._end)

    def take(self) -> int:
        """Return a descriptor for one record, to be given back when that is on disk; raises `OSError`.

        The kernel tells each descriptor once of a write that failed, whosever it was, if that was open before: so a
        record has one to itself from before it is written until it is synced.
        """
        return self._idle.pop() if self._idle else open_descriptor(self.path, _FLAGS)

    def give_back(self, descriptor: int) -> None:
        """Let others have a descriptor."""
        self._idle.append(descriptor)

    def note_end(self, end: int) -> None:
        """Note that a record is on disk up to an offset, and all before it are written."""
        with self._noting:
            if end > self._noted_end and self._end >= 0:
                self._noted_end = end
                write_end(self._end, self.key, end)

    def write(self, descriptor: int, name: bytes, content: Sequence[bytes | memoryview]) -> int:
        """Write a record at the end, and return where it ends; its header comes last, so it is never seen in part."""
        length = sum(map(len, content))
        start = self.offset
        _write_all(descriptor, b"".join((name, *content)), start + HEAD_BYTES)
        _write_all(descriptor, encode_head(self.key, name, length), start)
        self.offset = next_page(start + HEAD_BYTES + len(name) + length)
        return self.offset

    def strike(self, descriptor: int, offset: int, name: bytes, length: int) -> None:
        """Have a record count no more, as far as that can be done: it was not acknowledged."""
        with contextlib.suppress(OSError):
            _write_all(descriptor, encode_head(self.key, name, length, is_struck=True) + name, offset)


class Segments:
    """The segments of a lane, for the worker that the lane belongs to. Threads: any; `_lock` guards the last one.

    Args:
        lane: the folder.
        size_bytes: of a segment.
        fsync: whether `append` waits for the disk.
        rename_durably: renames an open file and makes bytes and name durable; raises `OSError`.
    """

    def __init__(
        self, lane: Path, size_bytes: int, *, fsync: bool, rename_durably: Callable[[Callable[[], None], int], None]
    ) -> None:
        self._lane = lane
        self._size_bytes = size_bytes
        self._fsync = fsync
        self._rename_durably = rename_durably
        self._lock = threading.Lock()
        self._segment: _Segment | None = None

    def append(self, name: str, content: Sequence[bytes | memoryview]) -> None:
        """Write an instance behind the others.

        Durable: on return the record is on disk. Raises `OSError`, and then the record does not count.
        """
        encoded = name.encode("ascii")
        length = sum(map(len, content))
        with self._lock:
            segment = self._with_room(HEAD_BYTES + len(encoded) + length)
            offset, descriptor = segment.offset, segment.take()
            try:
                end = segment.write(descriptor, encoded, content)
            except BaseException:
                self._segment = None
                segment.strike(descriptor, offset, encoded, length)
                segment.give_back(descriptor)
                raise
        try:
            # Several are under way at once; the kernel writes together what waits together.
            if self._fsync:
                os.fdatasync(descriptor)
            segment.note_end(end)
        except BaseException:
            segment.strike(descriptor, offset, encoded, length)
            self._leave(segment)
            raise
        finally:
            segment.give_back(descriptor)

    def _leave(self, segment: _Segment) -> None:
        """Write no more to a segment of which a sync failed: the kernel may have dropped pages."""
        with self._lock:
            if self._segment is segment:
                self._segment = None

    def prepare(self) -> None:
        """Have a segment before the first instance comes. Raises `OSError`."""
        with self._lock:
            self._with_room(0)

    def _with_room(self, length: int) -> _Segment:
        segment = self._segment
        if segment is not None and segment.offset + length <= self._size_bytes:
            return segment
        self._segment = None
        self._segment = self._begin()
        return self._segment

    def _begin(self) -> _Segment:
        """Begin the segment of the next number, over a free one if there is one."""
        number = max((_number(path) for path in segments_of(self._lane)), default=0) + 1
        path = self._lane / f"{number:08}-{os.urandom(KEY_BYTES).hex()}{SEGMENT}"
        descriptor = self._reuse(path)
        if descriptor is None:
            descriptor = self._create(path)
        return _Segment(path, descriptor)

    def _reuse(self, path: Path) -> int | None:
        for free in self._lane.glob(f"*{_FREE}"):
            # A worker whose supervisor was killed may still be here, and be first.
            # What is no file is left alone.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotRegularError):
                descriptor = open_descriptor(free, _FLAGS)
                try:
                    status = os.fstat(descriptor)
                    # One with a second name is somebody's copy, a backup's for one.
                    if status.st_size != self._size_bytes or status.st_nlink != 1:
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
        descriptor = open_descriptor(temporary, _FLAGS | os.O_CREAT | os.O_EXCL)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            # Zeros, not a hole: later writes find the blocks there, and change nothing of the file but its bytes.
            for start in range(0, self._size_bytes, _ZEROS_BYTES):
                _write_all(descriptor, bytes(min(_ZEROS_BYTES, self._size_bytes - start)), start)
            if self._fsync:
                os.fsync(descriptor)
            self._rename_durably(lambda: os.rename(temporary, path), descriptor)  # noqa: PTH104  # as above
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor


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
    for suffix in _NOTES:
        for note in lane.glob(f"*{suffix}"):
            with contextlib.suppress(OSError):
                if not note.with_suffix(SEGMENT).exists():
                    note.unlink()


def count_records(lane: Path) -> tuple[int, float]:
    """Return how many records of a lane are not unpacked, and when the oldest came (seconds since the epoch).

    Raises `OSError` when the lane or one of its segments cannot be read.
    """
    count, oldest = 0, float("inf")
    for segment in segments_of(lane):
        # It may be given back meanwhile.
        with contextlib.suppress(FileNotFoundError), open_regular(segment) as file:
            is_over = is_complete(file)
            for record in read_records(file, read_offset(segment), is_complete=is_over, settled=read_end(segment)):
                if not record.is_struck:
                    count += 1
                    oldest = min(oldest, record.received_at_ns / 1e9) if record.name else oldest
    return count, oldest


def _lock(descriptor: int, kind: int) -> bool:
    """Lock an open file until it is closed; False when another has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _number(segment: Path) -> int:
    return int(segment.name[:8])


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # a short write
        written += os.pwrite(descriptor, data[written:], offset + written)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
