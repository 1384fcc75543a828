"""One instance on its way into a lane: written as it comes, then committed, once, or discarded.

A small one is kept in memory until it is complete and becomes a record of a segment; any other has a file from its
first bytes on, perhaps over a spare. Both have the same verbs.
"""

import hashlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeAlias

from dicomflow.edge.spool.durable import replace_file, start_writeback
from dicomflow.edge.spool.names import SUFFIX, stem_of
from dicomflow.edge.spool.records import MAX_RECORD_BYTES
from dicomflow.edge.spool.spares import Spares

__all__ = ["Incoming", "IncomingFile", "IncomingRecord"]

_CAN_WRITEV: Final = hasattr(os, "writev")
# POSIX promises 16 and Linux gives 1,024 buffers a call.
_MAX_BUFFERS: Final = 1024
# The disk writes what came while more comes, so that the fsync at the end waits for little: 6 % on objects of 525 KB.
# Of a large object it is asked less often, since asking costs as much as 40 KB.
_WRITEBACK_BYTES: Final = 256 << 10
_LARGE_BYTES: Final = 4 << 20
_OPEN_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE_MODE: Final = 0o640


class IncomingRecord:
    """An instance that is to be a record. Thread: one owner. Either `commit` or `discard` ends it.

    Args:
        append: puts it into a segment, durably, and returns that; raises `OSError`.
        association_id: of the association that brings it.
        number: its number there.
        create_file: begins the file that it becomes when it is too large.
    """

    def __init__(
        self,
        append: Callable[[str, Sequence[bytes | memoryview]], Path],
        association_id: str,
        number: int,
        create_file: Callable[[], "IncomingFile"],
    ) -> None:
        self._append = append
        self._association_id = association_id
        self._number = number
        self._create_file = create_file
        self._content = bytearray()

    @property
    def size_bytes(self) -> int:
        """How much has come."""
        return len(self._content)

    def write(self, buffers: Sequence[bytes | memoryview]) -> "Incoming":
        """Take buffers, which may be reused on return; return what takes the next. Raises `OSError`."""
        if len(self._content) + sum(map(len, buffers)) > MAX_RECORD_BYTES:
            file = self._create_file()
            try:
                return file.write([bytes(self._content), *buffers])
            except BaseException:
                file.discard()
                raise
        for buffer in buffers:
            self._content += buffer
        return self

    def open_written(self) -> BinaryIO:
        """Open what has come for reading."""
        return io.BytesIO(self._content)

    def commit(self, peer: str) -> Path:
        """Make the instance durable; return the segment that has it. Raises `OSError`, and then it is gone."""
        sha256 = hashlib.sha256(self._content).hexdigest()
        return self._append(stem_of(self._association_id, self._number, peer, sha256), [memoryview(self._content)])

    def discard(self) -> None:
        """Throw the instance away: nothing of it was acknowledged."""


class IncomingFile:
    """An instance in a file. Thread: one owner. Either `commit` or `discard` ends it.

    Args:
        folder: of the lane; text, since this is done for each instance, and a `Path` costs as much as the open.
        association_id: of the association that brings it.
        number: its number there.
        near_bytes: about how large it will be; 0 for not known.
        spares: what may be written over.
        fsync: whether the disk is waited for.
        rename_durably: renames the open file and makes bytes and name durable; raises `OSError`.
    """

    def __init__(
        self,
        folder: str,
        association_id: str,
        number: int,
        *,
        near_bytes: int,
        spares: Spares,
        fsync: bool,
        rename_durably: Callable[[Callable[[], None], int], None],
    ) -> None:
        self.size_bytes = 0
        self._association_id = association_id
        self._number = number
        self._folder = folder
        self._path = f"{folder}/{association_id}_{number:08}_{os.getpid()}.part"
        self._fsync = fsync
        self._rename_durably = rename_durably
        self._sha256 = hashlib.sha256()
        self._unstarted_bytes = 0  # written since the disk was last asked to begin
        taken = spares.take(near_bytes, self._path)
        # How long a spare was: what it held is there until it is written over or cut off.
        self._descriptor, self._stale_bytes = taken or (os.open(self._path, _OPEN_FLAGS, _FILE_MODE), 0)

    @property
    def path(self) -> Path:
        """Where the file is until it is committed."""
        return Path(self._path)

    def open_written(self) -> BinaryIO:
        """Open what is written so far for reading. Raises `OSError`."""
        self._end()
        return self.path.open("rb")

    def write(self, buffers: Sequence[bytes | memoryview]) -> Self:
        """Append buffers in one gathered write; they may be reused on return. Raises `OSError`."""
        for buffer in buffers:
            self._sha256.update(buffer)
        before = self.size_bytes
        for start in range(0, len(buffers), _MAX_BUFFERS):
            self._write_all(buffers[start : start + _MAX_BUFFERS])
        self._unstarted_bytes += self.size_bytes - before
        step = _WRITEBACK_BYTES if self.size_bytes < _LARGE_BYTES else _LARGE_BYTES
        if self._unstarted_bytes >= step and self._fsync:
            start_writeback(self._descriptor, self.size_bytes - self._unstarted_bytes, self._unstarted_bytes)
            self._unstarted_bytes = 0
        return self

    def commit(self, peer: str) -> Path:
        """Make the instance durable and visible in its lane; return the file.

        Durable: on return its bytes and its name are on disk. A failed fsync is not retried, since the kernel may have
        dropped the pages. Raises `OSError`, and then the instance is gone.
        """
        sha256 = self._sha256.hexdigest()
        target = f"{self._folder}/{stem_of(self._association_id, self._number, peer, sha256)}{SUFFIX}"
        try:
            self._end()
            self._publish(target)
        except BaseException:
            # Not acknowledged, so it must not be taken for an instance.
            Path(target).unlink(missing_ok=True)
            self.discard()
            raise
        return Path(target)

    def discard(self) -> None:
        """Throw the instance away: nothing of it was acknowledged."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _end(self) -> None:
        """Have the file hold what was written and nothing else."""
        if self._stale_bytes > self.size_bytes:
            os.ftruncate(self._descriptor, self.size_bytes)
        self._stale_bytes = 0

    def _publish(self, target: str) -> None:
        """Rename the written file within its folder, and make its bytes and its name durable."""
        if sys.platform == "win32":
            # An open file cannot be renamed, and a folder cannot be synced.
            if self._fsync:
                os.fsync(self._descriptor)
            self._close()
            replace_file(self._path, target)
            return
        if self._fsync and self._unstarted_bytes:
            start_writeback(self._descriptor, self.size_bytes - self._unstarted_bytes, self._unstarted_bytes)
        self._rename_durably(lambda: os.rename(self._path, target), self._descriptor)  # noqa: PTH104  # see `folder`
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _write_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        wanted = sum(map(len, buffers))
        written = self._write_some(buffers)
        self.size_bytes += wanted
        while written < wanted:
            # A short write: drop what is on disk already and go on with the rest.
            rest: list[bytes | memoryview] = []
            for buffer in buffers:
                if written >= len(buffer):
                    written -= len(buffer)
                else:
                    rest.append(memoryview(buffer)[written:])
                    written = 0
            buffers = rest
            wanted = sum(map(len, buffers))
            written = self._write_some(buffers)

    def _write_some(self, buffers: Sequence[bytes | memoryview]) -> int:
        if _CAN_WRITEV:
            return os.writev(self._descriptor, buffers)
        return os.write(self._descriptor, b"".join(buffers))


Incoming: TypeAlias = IncomingRecord | IncomingFile
