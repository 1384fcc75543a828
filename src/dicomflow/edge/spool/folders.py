"""The spool: the folder that keeps every acknowledged instance until it is stored.

```
received/{lane}/               a folder for each worker: `.part` files are being received, and nothing of them was
                               acknowledged; `.dcm` files are acknowledged instances, ordinary Part 10 files;
                               `.segment` files hold small ones, see `segments`
received/unpacked/             those small ones as files, which the deliverer makes of them
delivering/{delivery}/         instances of a delivery, and its manifest once it is closed
delivering/{delivery}.stored/  what is left of a delivery that is in the store, about to be removed
quarantined/                   what cannot be delivered, each beside a .reason file; `.damaged` is a segment
ballast                        space that is given up where the volume is full, for the notes that make room
spares/                        files of stored deliveries, to be written over: no instances any more
associations/                  how the associations stand that stored something, see `association_log`
```

A received file's name holds what the file cannot: `{association}_{number}_{peer}_{sha256}.dcm`. So a start needs no
memory of the last run, and a file whose bytes do not match its name is never taken for an instance. Only this module
and its parts (`incoming`, `segments`, `unpacker`, `spares`) touch files of images. What cannot be read, or is not ours,
is set aside and stops nothing.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.associations import AssociationLog
from dicomflow.edge.spool.durable import (
    give_to_owner_of,
    is_named_by_fsync,
    replace_file,
    sync_directory,
)
from dicomflow.edge.spool.incoming import IncomingFile
from dicomflow.edge.spool.names import MANIFEST_FILE, STORED, ReceivedFile, is_stored_delivery
from dicomflow.edge.spool.notes import discard_notes
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.spares import Spares
from dicomflow.edge.spool.unpacker import UNPACKED, Unpacker
from dicomflow.edge.spool.view import count_files, oldest_seconds, quarantined_files
from dicomflow.edge.spool.view import scan as _scan
from dicomflow.errors import PermanentError
from dicomflow.regularfiles import create_regular, free_name, write_all

__all__ = ["BALLAST_BYTES", "IncomingFile", "ReceivedFile", "Spool", "count_files", "oldest_seconds", "sync_directory"]

_FOLDER_MODE: Final = 0o750
_BALLAST: Final = "ballast"
BALLAST_BYTES: Final = 4 << 20  # a manifest of 5,000 instances takes 3 MB

_logger = logging.getLogger(__name__)


class Spool:
    """The folders of one spool; opening it creates what is missing, unless another process's is only looked at.

    Args:
        root: the folder that has them.
        make: whether folders that are missing are made.
        fsync: whether a commit waits for the disk.
        lane: the folder of `received/` that this process receives into; no other one does.
        spare_bytes: how much is kept of stored instances, to be written over.
        segment_bytes: the size of a segment; 0 receives each instance into a file of its own.
    """

    def __init__(
        self,
        root: Path,
        *,
        make: bool = True,
        fsync: bool = True,
        lane: str = "0",
        spare_bytes: int = 0,
        segment_bytes: int = 0,
    ) -> None:
        self.root = root
        self.received = root / "received"
        self.lane = self.received / lane
        self.unpacked = self.received / UNPACKED
        self.delivering = root / "delivering"
        self.quarantined = root / "quarantined"
        associations = root / "associations"
        self.associations = AssociationLog(associations)
        self.fsync = fsync
        spares = root / "spares"
        self.spares = Spares(spares, spare_bytes)
        self.process_id = os.getpid()
        self.last_bytes = 0  # the size of the instance that was committed last
        self.aside = SetAside()
        if make:
            self._make([self.lane, self.unpacked, self.delivering, self.quarantined, associations, spares])
        self.is_named_by_fsync = is_named_by_fsync(root)
        self.segments = self._prepared(segment_bytes) if segment_bytes and segments.is_supported else None
        self._unpacker = self._begin_unpacker()
        self._is_unpacked = True

    def rename_durably(self, rename: Callable[[], None], descriptor: int) -> None:
        """Rename an open file within the lane, and make its bytes and its name durable.

        Bytes and name are synced after the rename, by one fsync where that commits both: power loss in between can
        leave a name whose bytes are not whole, which the digest in it gives away. Raises `OSError`.
        """
        rename()
        if self.fsync:
            os.fsync(descriptor)
            if not self.is_named_by_fsync:
                sync_directory(self.lane)

    def unpack(self, limit: int) -> bool:
        """Make files of small instances that came into segments; True if some may be left. Process: the deliverer.

        Durable: on return they are on disk. Raises `OSError`: of what was made nobody knows whether it is, so it is
        left out until it has been made again.
        """
        try:
            has_more = self._unpacker.unpack(limit)
        except OSError:
            self._unpacker.close()
            self._unpacker = self._begin_unpacker()
            self._is_unpacked = False
            raise
        self._is_unpacked = True
        return has_more

    @property
    def is_stuck(self) -> bool:
        """Whether the last `unpack` found no room for a file or a note."""
        return self._unpacker.is_stuck

    def create(self, association_id: str, number: int, near_bytes: int = 0) -> "IncomingFile":
        """Open a file for an instance that begins to arrive, perhaps of a size known by others; raises `OSError`."""
        return IncomingFile(self, association_id, number, near_bytes or self.last_bytes)

    def discard_incoming(self, process_id: int | None = None) -> int:
        """Remove what a process that died, or all processes of an earlier run, left half received; return how many."""
        pattern = "*/*.part" if process_id is None else f"*/*_{process_id}.part"
        count = 0
        for path in list(self.received.glob(pattern)):
            try:
                path.unlink(missing_ok=True)
                count += 1
            except OSError as error:
                self.aside.note(path, error)
        return count

    def free_bytes(self) -> int:
        """Return the space that is free to us on the spool's volume."""
        if sys.platform == "win32":
            import shutil  # noqa: PLC0415  # the one platform without statvfs

            return shutil.disk_usage(self.root).free
        volume = os.statvfs(self.root)
        return volume.f_bavail * volume.f_frsize

    def make_room(self) -> bool:
        """Give up what is only kept to be fast, and the ballast, where the volume is full; True if there was any."""
        before = self.free_bytes()
        self.give_up_spares()
        with contextlib.suppress(OSError):
            (self.root / _BALLAST).unlink()
        return self.free_bytes() > before

    def give_up_spares(self) -> None:
        """Remove all spares, and the segments that wait to be written over."""
        self.spares.trim(0)
        for lane in self.received.glob("*"):
            segments.discard_free(lane)

    def keep_ballast(self) -> None:
        """Take the space that `make_room` will give up, unless it is taken already. Raises `OSError`."""
        path = self.root / _BALLAST
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            try:
                with create_regular(temporary) as file:
                    write_all(file, os.urandom(BALLAST_BYTES))  # zeros may take no space
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def counts(self) -> dict[str, int]:
        """Return how many instances lie in each folder."""
        return count_files(self.root)

    def scan_received(self) -> Iterator[ReceivedFile]:
        """Yield the files of `received/`, in no order; what is not named like one is left alone.

        A lane that cannot be read is set aside, and so is what was unpacked and may not be on the disk.
        """
        for lane in self.received.iterdir():
            if self.aside.holds(lane) or (lane == self.unpacked and not self._is_unpacked):
                continue
            try:
                yield from _scan(lane)
            except NotADirectoryError:
                continue
            except OSError as error:
                self.aside.note(lane, error)

    def scan_deliveries(self) -> Iterator[Path]:
        """Yield the folders of deliveries, in order."""
        for folder in sorted(self.delivering.iterdir()):
            if not is_stored_delivery(folder) and os.path.isdir(folder):  # noqa: PTH112  # it raises nothing
                yield folder

    def scan_delivery(self, delivery_id: str) -> Iterator[ReceivedFile]:
        """Yield the files of a delivery, in no order."""
        yield from _scan(self.delivering / delivery_id)

    def assign(self, file: ReceivedFile, delivery_id: str) -> ReceivedFile:
        """Put a received file into a delivery; `sync_deliveries` ends what this begins."""
        folder = self.delivering / delivery_id
        if not folder.exists():
            folder.mkdir(mode=_FOLDER_MODE)
            self._sync(self.delivering)
        path = folder / file.path.name
        replace_file(file.path, path)
        return ReceivedFile(path, file.association_id, file.number, file.peer, file.sha256)

    def sync_deliveries(self, delivery_ids: Iterable[str]) -> None:
        """Durable: on return the files that were assigned have their new names after power loss."""
        for delivery_id in delivery_ids:
            self._sync(self.delivering / delivery_id)

    def remove(self, file: ReceivedFile) -> None:
        """Remove a received file whose bytes are kept elsewhere."""
        file.path.unlink()

    def write_note(self, path: Path, content: bytes) -> None:
        """Durable: write a small file whole under a temporary name, sync, rename, sync the folder."""
        temporary = path.with_name(path.name + ".tmp")
        with contextlib.suppress(OSError):  # none, or a folder
            temporary.unlink()
        temporary = free_name(temporary)
        try:
            with create_regular(temporary) as file:
                write_all(file, content)
                if self.fsync:
                    os.fsync(file.fileno())
            replace_file(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self._sync(path.parent)

    def quarantine(self, file: ReceivedFile, reason: str) -> None:
        """Durable: move a file out of the way with its reason beside it, or the reason alone if the file is gone."""
        _logger.warning("instance_quarantined file=%s reason=%s", file.path.name, reason)
        self._take_away(file.path, self.quarantined / file.path.name, reason)

    def quarantine_segment(self, segment: Path, reason: str) -> None:
        """Durable: move a segment in which instances are missing out of the way, with its reason beside it."""
        self._take_away(segment, self.quarantined / f"{segment.parent.name}-{segment.stem}.damaged", reason)
        discard_notes(segment)

    def scan_quarantined(self) -> Iterator[tuple[ReceivedFile, str]]:
        """Yield the quarantined files with their reasons."""
        for path, reason in quarantined_files(self.root):
            file = ReceivedFile.of(path)
            if file is not None and path.exists():
                yield file, reason

    def release(self, file: ReceivedFile) -> None:
        """Durable: put a quarantined file back into `received/`, to be delivered like a new one.

        What is made for that belongs to whom the spool belongs, whoever asks for it.
        """
        if not self.lane.exists():
            self.lane.mkdir(mode=_FOLDER_MODE)
            give_to_owner_of(self.root, self.lane)
            self._sync(self.received)
        self._move(file.path, self.lane)
        file.path.with_suffix(".reason").unlink(missing_ok=True)

    def receive_again(self, file: ReceivedFile) -> None:
        """Durable: move a file out of a delivery that it does not belong to. Raises `OSError`."""
        _logger.warning("instance_received_again delivery=%s file=%s", file.path.parent.name, file.path.name)
        self._move(file.path, self.unpacked)

    def remove_delivery(self, delivery_id: str, stored: Collection[str] | None = None) -> None:
        """Remove a delivery whose objects and manifest are stored; one rename decides, so a crash leaves no half.

        Args:
            delivery_id: its name.
            stored: the names of its files that are stored; any other instance in its folder is received again.
        """
        folder, left = self.delivering / delivery_id, self.delivering / (delivery_id + STORED)
        if folder.exists():  # else it was cut short, or its files could not be put there
            for file in list(_scan(folder)) if stored is not None else ():
                if stored is not None and file.path.name not in stored:
                    self.receive_again(file)
            folder.rename(left)
        self._sync(self.delivering)
        self._discard(left)

    def discard_stored(self) -> list[str]:
        """Remove what is left of deliveries whose removal was cut short; return those of which something stays.

        What is not ours stays, and is set aside.
        """
        left = []
        for folder in filter(is_stored_delivery, self.delivering.glob(f"*{STORED}")):
            try:
                self._discard(folder)
            except NotADirectoryError as error:  # a file that is called so: the delivery goes on
                self.aside.note(folder, error)
            except OSError as error:
                if folder.with_suffix("").exists():  # a delivery that is still to be stored, and is not held for this
                    self.aside.note(folder, error)
                else:
                    self.aside.note(folder.with_suffix(""), error)
                    left.append(folder.stem)
        return left

    def _discard(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.spares.keep(file.path for file in _scan(folder))
            for path in folder.glob(f"{MANIFEST_FILE}*"):
                path.unlink(missing_ok=True)
            folder.rmdir()

    def _make(self, folders: Iterable[Path]) -> None:
        try:
            for folder in folders:
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(f"cannot create the spool in {self.root}: {error.strerror}") from error
        for folder in (self.received, self.root):
            sync_directory(folder)

    def _begin_unpacker(self) -> Unpacker:
        return Unpacker(
            self.received,
            self.delivering,
            fsync=self.fsync,
            quarantine=self.quarantine,
            quarantine_segment=self.quarantine_segment,
            aside=self.aside,
        )

    def _take_away(self, path: Path, target: Path, reason: str) -> None:
        """Move a file to quarantine; on a full volume without its reason, which the log has."""
        try:
            self.write_note(target.with_suffix(".reason"), reason.encode())
        except OSError as error:
            _logger.error("reason_not_written file=%s errno=%s", target.name, error.errno)  # noqa: TRY400  # no bug
        with contextlib.suppress(FileNotFoundError):
            self._move(path, target.parent, target.name)

    def _move(self, path: Path, folder: Path, name: str = "") -> None:
        """Durable: move a file into another folder, perhaps under another name. Raises `OSError`."""
        replace_file(path, folder / (name or path.name))
        self._sync(folder)

    def _prepared(self, segment_bytes: int) -> segments.Segments | None:
        """Return the lane's segments with one begun; None where there can be none."""
        prepared = segments.Segments(self.lane, segment_bytes, fsync=self.fsync, rename_durably=self.rename_durably)
        try:
            prepared.prepare()
        except OSError as error:
            _logger.warning("segments_not_used errno=%s", error.errno)
            return None
        return prepared

    def _sync(self, folder: Path) -> None:
        if self.fsync:
            sync_directory(folder)
