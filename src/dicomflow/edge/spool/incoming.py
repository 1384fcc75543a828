"""One instance on its way into the spool: its bytes are written and digested as they come, and committed or discarded.

A small one is kept in memory until it is complete and goes into a segment; any other has a file from its first bytes
on, perhaps over a spare.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from dicomflow.edge.spool.digest import Digest
from dicomflow.edge.spool.durable import replace_file, start_writeback
from dicomflow.edge.spool.names import SUFFIX, ReceivedFile, stem_of
from dicomflow.edge.spool.segments import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from dicomflow.edge.spool.folders import Spool

__all__ = ["IncomingFile"]

_CAN_WRITEV: Final = hasattr(os, "writev")
# POSIX promises 16 and Linux gives 1,024 buffers a call.
_MAX_BUFFERS: Final = 1024
# The disk writes what came while more comes, so that the fsync at the end waits for little: 6 % on objects of 525 KB.
# Of a large object it is asked less often, since asking costs as much as 40 KB.
_WRITEBACK_BYTES: Final = 256 << 10
_LARGE_BYTES: Final = 4 << 20
_OPEN_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE_MODE: Final = 0o640


class IncomingFile:
    """One instance being received. Thread: one owner. Either `commit` or `discard` ends it.

    Args:
        spool: where it goes.
        association_id: of the association that brings it.
        number: its number there.
        near_bytes: about how large it will be; 0 for not known.
    """

    def __init__(self, spool: "Spool", association_id: str, number: int, near_bytes: int) -> None:
        self.size_bytes = 0
        self._spool = spool
        self._near_bytes = near_bytes
        self._association_id = association_id
        self._number = number
        # Text, not `Path`: this is done for each instance, and a path costs as much as the open.
        self._folder = str(spool.lane)
        self._path = f"{self._folder}/{association_id}_{number:08}_{spool.process_id}.part"
        self._descriptor = -1
        self._stale_bytes = 0  # how long a spare was: what it held is there until it is written over or cut off
        self._digest = Digest()
        self._unstarted_bytes = 0  # written since the disk was last asked to begin
        self._small: bytearray | None = None
        if spool.segments is not None and near_bytes <= MAX_RECORD_BYTES:
            self._small = bytearray()
        else:
            self._open()

    @property
    def path(self) -> Path:
        """Where the file is until it is committed."""
        return Path(self._path)

    def open_written(self) -> BinaryIO:
        """Open what is written so far for reading. Raises `OSError`."""
        self._end()
        return self.path.open("rb") if self._small is None else io.BytesIO(self._small)

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Append buffers in one gathered write; they may be reused on return. Raises `OSError`."""
        self._digest.update(buffers)
        if self._small is not None:
            if self.size_bytes + sum(map(len, buffers)) <= MAX_RECORD_BYTES:
                for buffer in buffers:
                    self._small += buffer
                self.size_bytes = len(self._small)
                return
            self._open()
            buffers, self._small, self.size_bytes = [bytes(self._small), *buffers], None, 0
        before = self.size_bytes
        for start in range(0, len(buffers), _MAX_BUFFERS):
            self._write_all(buffers[start : start + _MAX_BUFFERS])
        self._unstarted_bytes += self.size_bytes - before
        step = _WRITEBACK_BYTES if self.size_bytes < _LARGE_BYTES else _LARGE_BYTES
        if self._unstarted_bytes >= step and self._spool.fsync:
            start_writeback(self._descriptor, self.size_bytes - self._unstarted_bytes, self._unstarted_bytes)
            self._unstarted_bytes = 0

    def commit(self, peer: str) -> ReceivedFile:
        """Make the instance durable and visible in `received/`.

        Durable: on return its bytes and its name are on disk. A failed fsync is not retried, since the kernel may have
        dropped the pages. Raises `OSError`, and then the instance is gone.
        """
        sha256 = self._digest.hexdigest()
        stem = stem_of(self._association_id, self._number, peer, sha256)
        if self._small is not None:
            assert self._spool.segments is not None
            self._spool.segments.append(stem, [memoryview(self._small)])
            target = f"{self._spool.unpacked}/{stem}{SUFFIX}"  # where it will be
        else:
            target = f"{self._folder}/{stem}{SUFFIX}"
            try:
                self._end()
                self._publish(target)
            except BaseException:
                # Not acknowledged, so it must not be taken for an instance.
                Path(target).unlink(missing_ok=True)
                self.discard()
                raise
        self._spool.last_bytes = self.size_bytes
        return ReceivedFile(Path(target), self._association_id, self._number, peer, sha256)

    def discard(self) -> None:
        """Throw the instance away: nothing of it was acknowledged."""
        self._digest.drop()
        if self._small is None:
            self._close()
            self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        taken = self._spool.spares.take(self._near_bytes, self._path)
        self._descriptor, self._stale_bytes = taken or (os.open(self._path, _OPEN_FLAGS, _FILE_MODE), 0)

    def _end(self) -> None:
        """Have the file hold what was written and nothing else."""
        if self._stale_bytes > self.size_bytes:
            os.ftruncate(self._descriptor, self.size_bytes)
        self._stale_bytes = 0

    def _publish(self, target: str) -> None:
        """Rename the written file within its folder, and make its bytes and its name durable."""
        if sys.platform == "win32":
            # An open file cannot be renamed, and a folder cannot be synced.
            if self._spool.fsync:
                os.fsync(self._descriptor)
            self._close()
            replace_file(self._path, target)
            return
        if self._spool.fsync and self._unstarted_bytes:
            start_writeback(self._descriptor, self.size_bytes - self._unstarted_bytes, self._unstarted_bytes)
        self._spool.rename_durably(lambda: os.rename(self._path, target), self._descriptor)  # noqa: PTH104  # see `_path`
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
