"""From segments to files: the deliverer makes an ordinary file of each small instance, and gives segments back.

A segment is given back only when all its instances are on the disk as files, so until then a file that power loss took
or damaged is made again. Nothing is made twice of a segment that is read again after a kill, but what was in no
delivery yet, and that under the same name.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomflow.edge import segments
from dicomflow.edge.durable import sync_directory, sync_file_system
from dicomflow.edge.received import SUFFIX, ReceivedFile

__all__ = ["UNPACKED", "Unpacker"]

UNPACKED: Final = "unpacked"
_FLAGS: Final = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
_FILE_MODE: Final = 0o640
_OTHER_BYTES: Final = "the bytes in its segment are not those that were received"

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """How far a segment is unpacked: up to `offset`, and nothing more will come if it is at its end."""

    offset: int
    is_at_end: bool = False
    is_damaged: bool = False


class Unpacker:
    """Unpacks the segments of all lanes. Process: the deliverer, one owner.

    Args:
        received: the folder of the lanes.
        delivering: the folder of the deliveries.
        fsync: whether files are made durable before a segment is given back.
        quarantine: durably takes away a file whose bytes are not what was received.
    """

    def __init__(
        self, received: Path, delivering: Path, *, fsync: bool, quarantine: Callable[[ReceivedFile, str], None]
    ) -> None:
        self._received = received
        self._delivering = delivering
        self._folder = received / UNPACKED
        self._fsync = fsync
        self._quarantine = quarantine
        self._is_stuck = False
        self._offsets: dict[Path, int] = {}
        self._taken: set[str] | None = None  # what an earlier run had unpacked and put into a delivery

    def unpack(self, limit: int) -> bool:
        """Make files of up to `limit` records; True if more may be there.

        Durable: on return the files are on disk.

        Raises:
            OSError: what was unpacked cannot be made durable; it will be unpacked again.
        """
        found: dict[Path, _Progress] = {}
        left = limit
        self._is_stuck = False
        for lane in self._received.iterdir():
            for segment in segments.segments_of(lane):
                if left > 0 and not self._is_stuck:
                    progress = found[segment] = _Progress(self._offset(segment))
                    left -= self._unpack(segment, progress, left)
        self._finish(found)
        return left <= 0 and not self._is_stuck

    def _offset(self, segment: Path) -> int:
        offset = self._offsets.get(segment)
        if offset is None:
            offset = self._offsets[segment] = segments.read_offset(segment)
        return offset

    def _unpack(self, segment: Path, progress: _Progress, limit: int) -> int:
        """Unpack one segment as far as it goes, and return how many records that were."""
        count = 0
        with segment.open("rb", buffering=0) as file:
            # Asked before it is read: what is complete then is read to its end.
            is_complete = segments.is_complete(file)
            for record in segments.read_records(file, progress.offset, is_complete=is_complete):
                if count >= limit:
                    return count
                if not record.is_whole and not is_complete:
                    return count
                progress.is_damaged |= record.start != progress.offset
                try:
                    unpacked = self._write(record)
                except OSError as error:
                    # The volume is full, for one: the record stays where it is, and deliveries make room.
                    _logger.warning("unpack_failed segment=%s errno=%s", segment.name, error.errno)
                    self._is_stuck = True
                    return count
                if not record.is_whole and unpacked is not None:
                    self._quarantine(unpacked, _OTHER_BYTES)
                progress.offset = record.end
                count += 1
            progress.is_at_end = is_complete
        return count

    def _write(self, record: segments.Record) -> ReceivedFile | None:
        """Write a record's file; None when a delivery has it, or its name is none of ours."""
        name = record.name + SUFFIX
        file = ReceivedFile.of(self._folder / name)
        if file is None or name in self._in_deliveries():
            return None
        path = str(file.path)
        descriptor = os.open(path, _FLAGS, _FILE_MODE)
        try:
            rest = memoryview(record.content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.utime(descriptor, ns=(record.received_at_ns, record.received_at_ns))
        except BaseException:
            os.unlink(path)  # noqa: PTH108  # as it was made
            raise
        finally:
            os.close(descriptor)
        return file

    def _in_deliveries(self) -> set[str]:
        if self._taken is None:
            self._taken = {path.name for path in self._delivering.glob(f"*/*{SUFFIX}")}
        return self._taken

    def _finish(self, found: dict[Path, _Progress]) -> None:
        """Make durable what was unpacked, then note how far each segment is, or give it back."""
        moved = {path: each for path, each in found.items() if each.is_at_end or each.offset != self._offsets[path]}
        if any(each.offset != self._offsets[path] for path, each in moved.items()) and self._fsync:
            self._sync()
        for path, progress in moved.items():
            if progress.is_at_end:
                if progress.is_damaged:
                    _logger.error("segment_damaged segment=%s", path.name)
                del self._offsets[path]
                segments.give_back(path, is_damaged=progress.is_damaged)
            else:
                self._offsets[path] = progress.offset
                segments.write_offset(path, progress.offset)

    def _sync(self) -> None:
        if sync_file_system(self._folder):
            return
        for path in self._folder.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(self._folder)
