"""Segments: small instances one behind the other in a file that has its blocks already.

A new file of 10 KB takes a name, an inode and a folder to be written, and the disk to be waited for; a record in a
segment takes its own pages and one wait, in which those of several associations are written together: over four
associations 2,800 instances of 10 KB a second instead of 1,305 (decision 0014).
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dicomflow.edge.spool.notes import key_of, open_end, write_end
from dicomflow.edge.spool.records import HEAD_BYTES, encode_head, next_page
from dicomflow.edge.spool.rotation import SEGMENT_FLAGS, Rotation, write_all_at
from dicomflow.regularfiles import open_descriptor

__all__ = ["Segments", "is_supported"]

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
        return self._idle.pop() if self._idle else open_descriptor(self.path, SEGMENT_FLAGS)

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
        write_all_at(descriptor, b"".join((name, *content)), start + HEAD_BYTES)
        write_all_at(descriptor, encode_head(self.key, name, length), start)
        self.offset = next_page(start + HEAD_BYTES + len(name) + length)
        return self.offset

    def strike(self, descriptor: int, offset: int, name: bytes, length: int) -> None:
        """Have a record count no more, as far as that can be done: it was not acknowledged."""
        with contextlib.suppress(OSError):
            write_all_at(descriptor, encode_head(self.key, name, length, is_struck=True) + name, offset)


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
        self._rotation = Rotation(lane, size_bytes, fsync=fsync, rename_durably=rename_durably)
        self._fsync = fsync
        self._lock = threading.Lock()
        self._segment: _Segment | None = None

    def append(self, name: str, content: Sequence[bytes | memoryview]) -> Path:
        """Write an instance behind the others, and return the segment that has it.

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
        return segment.path

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
        if segment is not None and segment.offset + length <= self._rotation.size_bytes:
            return segment
        self._segment = None
        self._segment = _Segment(*self._rotation.begin())
        return self._segment


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
