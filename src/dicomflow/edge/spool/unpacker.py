"""From segments to files: the deliverer makes an ordinary file of each small instance, and gives segments back.

A segment is given back only when all its instances are on the disk as files, so until then a file that power loss took
or damaged is made again. What an earlier run had put into a delivery is not made again.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicomflow.edge.spool.durable import can_sync_file_system, is_full, sync_directory, sync_file_system
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.names import SUFFIX, ReceivedFile
from dicomflow.edge.spool.notes import read_end, read_offset, write_offset
from dicomflow.edge.spool.records import Record, read_records
from dicomflow.edge.spool.rotation import discard_stray_notes, give_back, is_complete, segments_of
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.regularfiles import NotRegularError, open_descriptor, open_regular

__all__ = ["Unpacker"]

# A new file, always: after power loss a name may lead to a file that is another's by now.
_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
_FILE_MODE: Final = 0o640
_OTHER_BYTES: Final = "the bytes in its segment are not those that were received"
_MISSING: Final = "instances that it held cannot be read: ask the senders for what is missing, and look at the disk"
_HALF_MADE: Final = "its bytes are not those that were received, and no segment has them"

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """How far a segment is unpacked: up to `offset`, durably up to `synced`, which the next run finds as `noted`.

    At its end nothing more will come.
    """

    offset: int
    noted: int
    synced: int
    is_at_end: bool = False
    is_damaged: bool = False
    is_told: bool = False
    names: set[str] = field(default_factory=set)


class Unpacker:
    """Unpacks the segments of all lanes. Process: the deliverer, one owner.

    Args:
        spool: where everything is.
        fsync: whether files are made durable before a segment is given back.
        quarantine: durably takes away a file whose bytes are not what was received.
        quarantine_segment: durably takes away a segment in which something is missing.
        aside: holds what cannot be read now.
    """

    def __init__(
        self,
        spool: Layout,
        *,
        fsync: bool,
        quarantine: Callable[[ReceivedFile, str], None],
        quarantine_segment: Callable[[Path, str], None],
        aside: SetAside,
    ) -> None:
        self._received = spool.received
        self._delivering = spool.delivering
        self._folder = spool.unpacked
        self._fsync = fsync
        self._quarantine = quarantine
        self._quarantine_segment = quarantine_segment
        self._aside = aside
        self._descriptor: int | None = None  # of the folder, where all of its file system can be synced at once
        self.is_stuck = False  # for want of room
        self._progress: dict[Path, _Progress] = {}
        # What an earlier run had put into deliveries; None until it was looked at.
        self._made: set[str] | None = None
        self._whole: set[str] = set()  # what it had made of records that it had noted, and that is still here

    def unpack(self, limit: int) -> bool:
        """Make files of about `limit` records; True if more may be there.

        Durable: on return the files in the folder are on disk.

        Raises:
            OSError: what was unpacked cannot be made durable; another unpacker will unpack it again.
        """
        if self._made is None:
            self._made = self._take_over()
        self.is_stuck = has_more = False
        lanes = [found for _, found in self._segments() if found]
        for lane in lanes:
            left = max(1, limit // len(lanes))
            for segment in lane:
                if left > 0 and not self.is_stuck and not self._aside.holds(segment):
                    left -= self._try(segment, left)
            has_more |= left <= 0
        self._finish()
        if not has_more and not self.is_stuck:
            # What comes from now on no earlier run can have seen.
            self._made.clear()
        return has_more and not self.is_stuck

    def close(self) -> None:
        """Let go of the folder, as the end of the process does; nothing is unpacked afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _segments(self) -> Iterator[tuple[Path, list[Path]]]:
        """Yield the lanes with their segments; one that cannot be read is set aside."""
        for lane in self._received.iterdir():
            try:
                found = segments_of(lane)
            except OSError as error:
                self._aside.note(lane, error)
            else:
                yield lane, found

    def _take_over(self) -> set[str]:
        """Look at what an earlier run has left, and return the names of what need not be made again."""
        if self._fsync and can_sync_file_system(self._folder):
            # Open before anything is written, so that no failure is told to somebody else only.
            self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        made = {path.name for path in self._delivering.glob(f"*/*{SUFFIX}")}
        waiting = self._waiting()
        for path in list(self._folder.iterdir()):
            file = ReceivedFile.of(path)
            if file is not None:
                try:
                    self._take_over_file(file, is_waiting=path.stem in waiting)
                except OSError as error:
                    self._aside.note(path, error)
        if self._fsync:
            self._sync()
        for lane, _ in self._segments():
            discard_stray_notes(lane)
            for damaged in lane.glob("*.damaged"):  # an earlier version left it there
                self._quarantine_segment(damaged, _MISSING)
        return made

    def _take_over_file(self, file: ReceivedFile, *, is_waiting: bool) -> None:
        if is_waiting:
            # A segment has it whole. Whether this one is on the disk nobody knows: after a sync that failed it can
            # be read back, and the next sync succeeds, although its pages were dropped.
            file.path.unlink()
            return
        with open_regular(file.path) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest == file.sha256:
            self._whole.add(file.path.name)
        else:
            self._quarantine(file, _HALF_MADE)

    def _waiting(self) -> set[str]:
        """Return the names of the records that are not noted as unpacked."""
        names: set[str] = set()
        for _, found in self._segments():
            for segment in found:
                try:
                    with open_regular(segment) as file:
                        start = read_offset(segment)
                        names |= {each.name for each in read_records(file, start) if each.is_whole}
                except OSError as error:
                    self._aside.note(segment, error)
        return names

    def _try(self, segment: Path, limit: int) -> int:
        """Unpack one segment as far as it goes; one that cannot be read, or leads to a bug, stops no other."""
        try:
            count = self._unpack(segment, limit)
        except Exception as error:  # noqa: BLE001  # a boundary around one of many; it is logged there
            self._aside.note(segment, error)
            # On a full volume records stay where they are, and deliveries make room.
            self.is_stuck = is_full(error)
            return 0
        self._aside.settle(segment)
        return count

    def _unpack(self, segment: Path, limit: int) -> int:
        """Unpack one segment as far as it goes, and return how many records that were."""
        progress = self._progress.get(segment)
        if progress is None:
            offset = read_offset(segment)
            progress = self._progress[segment] = _Progress(offset, offset, offset)
        count = 0
        with open_regular(segment) as file:
            # Asked before it is read: what is complete then is read to its end.
            is_over = is_complete(file)
            settled = read_end(segment)
            for record in read_records(file, progress.offset, is_complete=is_over, settled=settled):
                # A hole, or a record that was written over with another one's.
                progress.is_damaged |= record.start != progress.offset or record.name in progress.names
                if record.is_struck:
                    progress.offset = record.end
                    continue
                is_whole = record.is_whole
                if count >= limit or not (is_whole or is_over or record.start < settled):
                    return count
                progress.is_damaged |= not self._make(record, is_whole=is_whole)
                progress.offset = record.end
                progress.names.add(record.name)
                count += 1
            # What was acknowledged behind the last record that is found is gone: cut off, or written over.
            progress.is_damaged |= progress.offset < settled
            progress.is_at_end = is_over
        return count

    def _make(self, record: Record, *, is_whole: bool) -> bool:
        """Make a record's file, unless an earlier run has; one with other bytes goes to quarantine.

        False when it has no name to make a file of.
        """
        name = record.name + SUFFIX
        file = ReceivedFile.of(self._folder / name)
        assert self._made is not None
        if file is None:
            return False
        if name in self._made or (not is_whole and name in self._whole and file.path.exists()):
            return True
        # A process that is killed leaves no file in part under an instance's name.
        path = f"{self._folder}/{record.name}.part"
        try:
            descriptor = os.open(path, _FLAGS, _FILE_MODE)
        except FileExistsError:
            os.unlink(path)  # noqa: PTH108  # done for each instance
            descriptor = os.open(path, _FLAGS, _FILE_MODE)
        try:
            rest = memoryview(record.content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.utime(descriptor, ns=(record.received_at_ns, record.received_at_ns))
            if self._fsync and not is_whole:
                os.fsync(descriptor)  # it leaves the folder that is synced with all others
            os.rename(path, file.path)  # noqa: PTH104  # as above
        except BaseException:
            os.unlink(path)  # noqa: PTH108  # as above
            raise
        finally:
            os.close(descriptor)
        if not is_whole:
            self._quarantine(file, _OTHER_BYTES)
        return True

    def _finish(self) -> None:
        """Make durable what was unpacked, then note how far each segment is, or give it back."""
        if self._fsync and any(each.offset != each.synced for each in self._progress.values()):
            self._sync()
        for segment, progress in list(self._progress.items()):
            progress.synced = progress.offset
            if progress.is_damaged and not progress.is_told:
                progress.is_told = True
                _logger.error("segment_damaged segment=%s", segment.name)
            try:
                if progress.is_at_end:
                    if progress.is_damaged:
                        self._quarantine_segment(segment, _MISSING)
                    else:
                        give_back(segment)
                    del self._progress[segment]
                elif progress.offset != progress.noted and not progress.is_damaged:  # or the next run would not know
                    write_offset(segment, progress.offset)
                    progress.noted = progress.offset
            except FileNotFoundError:
                del self._progress[segment]  # somebody has removed it
            except OSError as error:
                # Only the next process would need it: it finds what was made.
                _logger.warning("unpacked_not_noted segment=%s errno=%s", segment.name, error.errno)
                self.is_stuck = True

    def _sync(self) -> None:
        """Make the files in the folder durable, and their names. Raises `OSError`."""
        if self._descriptor is not None:
            sync_file_system(self._descriptor)
        else:
            for path in self._folder.iterdir():
                # Another user's, or no file: it was not made here.
                with contextlib.suppress(PermissionError, NotRegularError, IsADirectoryError):
                    descriptor = open_descriptor(path, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
        sync_directory(self._folder)
