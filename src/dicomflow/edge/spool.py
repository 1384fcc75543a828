"""The spool: the folder that keeps every acknowledged instance until it is stored.

```
received/{lane}/               a folder for each worker: `.part` files are being received, and nothing of them was
                               acknowledged; `.dcm` files are acknowledged instances, ordinary Part 10 files;
                               `.segment` files hold small ones, see `segments`
received/unpacked/             those small ones as files, which the deliverer makes of them
delivering/{delivery}/         instances of a delivery, and its manifest once it is closed
delivering/{delivery}.stored/  what is left of a delivery that is in the store, about to be removed
quarantined/                   what cannot be delivered, each beside a .reason file
spares/                        files of stored deliveries, to be written over: no instances any more
associations/                  how the associations stand that stored something, see `association_log`
```

A received file's name holds what the file cannot: `{association}_{number}_{peer}_{sha256}.dcm`. So a start needs no
memory of the last run, and a file whose bytes do not match its name is never taken for an instance. Only this module
and its parts (`incoming`, `segments`, `unpacker`, `spares`) touch files of images.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from dicomflow.edge import segments
from dicomflow.edge.association_log import AssociationLog
from dicomflow.edge.durable import SharedSync, is_journalled, is_named_by_fsync, sync_directory
from dicomflow.edge.incoming import IncomingFile
from dicomflow.edge.received import SUFFIX, ReceivedFile
from dicomflow.edge.spares import Spares
from dicomflow.edge.unpacker import UNPACKED, Unpacker
from dicomflow.errors import PermanentError

__all__ = ["IncomingFile", "ReceivedFile", "Spool", "count_files", "oldest_seconds", "sync_directory"]

_STORED: Final = ".stored"
_FOLDER_MODE: Final = 0o750

_logger = logging.getLogger(__name__)


class Spool:
    """The folders of one spool; opening it creates what is missing.

    Args:
        root: the folder that has them.
        fsync: whether a commit waits for the disk.
        lane: the folder of `received/` that this process receives into; no other one does.
        spare_bytes: how much is kept of stored instances, to be written over.
        segment_bytes: the size of a segment; 0 receives each instance into a file of its own.
    """

    def __init__(
        self, root: Path, *, fsync: bool = True, lane: str = "0", spare_bytes: int = 0, segment_bytes: int = 0
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
        try:
            for folder in (
                self.lane,
                self.unpacked,
                self.delivering,
                self.quarantined,
                associations,
                spares,
            ):
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(f"cannot create the spool in {root}: {error.strerror}") from error
        for folder in (self.lane.parent, root):
            sync_directory(folder)
        self.is_named_by_fsync = is_named_by_fsync(root)
        self.is_journalled = is_journalled(root)
        self._names = SharedSync(lambda: sync_directory(self.lane))
        # ext4 without a journal writes a folder for one fsync at a time: another that comes meanwhile finds nothing to
        # write, and returns although the change that it is for is not on the disk.
        self.naming = contextlib.nullcontext() if self.is_journalled or not fsync else threading.Lock()
        self._twice_named: list[Path] = []  # the first names of files that were assigned
        self.segments = self._prepared(segment_bytes) if segment_bytes and segments.is_supported else None
        self._unpacker = Unpacker(self.received, self.delivering, fsync=fsync, quarantine=self.quarantine)

    def rename_durably(self, rename: Callable[[], None], descriptor: int) -> None:
        """Rename an open file within the lane, and make its bytes and its name durable.

        Bytes and name are synced after the rename, by one fsync where that commits both: power loss in between can
        leave a name whose bytes are not whole, which the digest in it gives away. Raises `OSError`.
        """
        with self.naming:
            rename()
            if self.fsync:
                os.fsync(descriptor)
        if self.fsync and not self.is_named_by_fsync:
            self._names.wait(self._names.note())

    def unpack(self, limit: int) -> bool:
        """Make files of small instances that came into segments; True if some may be left. Process: the deliverer.

        Durable: on return they are on disk. Raises `OSError`.
        """
        return self._unpacker.unpack(limit)

    def create(self, association_id: str, number: int, near_bytes: int = 0) -> "IncomingFile":
        """Open a file for an instance that begins to arrive, perhaps of a size known by others; raises `OSError`."""
        return IncomingFile(self, association_id, number, near_bytes or self.last_bytes)

    def discard_incoming(self, process_id: int | None = None) -> int:
        """Remove what a process that died, or all processes of an earlier run, left half received; return how many."""
        pattern = "*/*.part" if process_id is None else f"*/*_{process_id}.part"
        leftovers = list(self.received.glob(pattern))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def free_bytes(self) -> int:
        """Return the space that is free to us on the spool's volume."""
        if sys.platform == "win32":
            import shutil  # noqa: PLC0415  # the one platform without statvfs

            return shutil.disk_usage(self.root).free
        volume = os.statvfs(self.root)
        return volume.f_bavail * volume.f_frsize

    def counts(self) -> dict[str, int]:
        """Return how many instances lie in each folder."""
        return count_files(self.root)

    def scan_received(self) -> Iterator[ReceivedFile]:
        """Yield the files of `received/`, in no order; what is not named like one is left alone."""
        for lane in self.received.iterdir():
            if lane.is_dir():
                yield from _scan(lane)

    def holds(self, delivery_id: str, sha256: str) -> bool:
        """Tell whether a delivery in the spool has a file with this digest."""
        return any((self.delivering / delivery_id).glob(f"*_{sha256}{SUFFIX}"))

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
        if self._rename(file.path, path):
            self._twice_named.append(file.path)
        return ReceivedFile(path, file.association_id, file.number, file.peer, file.sha256)

    def sync_deliveries(self, delivery_ids: Iterable[str]) -> None:
        """Durable: on return the files that were assigned have their new names after power loss, and only those."""
        for delivery_id in delivery_ids:
            self._sync(self.delivering / delivery_id)
        for path in self._twice_named:
            path.unlink(missing_ok=True)
        self._twice_named.clear()

    def remove(self, file: ReceivedFile) -> None:
        """Remove a received file whose bytes are kept elsewhere."""
        file.path.unlink()

    def write_note(self, path: Path, content: bytes) -> None:
        """Durable: write a small file whole under a temporary name, sync, rename, sync the folder."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if self.fsync:
                os.fsync(file.fileno())
        temporary.replace(path)
        self._sync(path.parent)

    def quarantine(self, file: ReceivedFile, reason: str) -> None:
        """Durable: move a file out of the way with its reason beside it, or the reason alone if the file is gone."""
        target = self.quarantined / file.path.name
        self.write_note(target.with_suffix(".reason"), reason.encode())
        with contextlib.suppress(FileNotFoundError):
            is_twice_named = self._rename(file.path, target)
            self._sync(self.quarantined)
            if is_twice_named:
                file.path.unlink()

    def scan_quarantined(self) -> Iterator[tuple[ReceivedFile, str]]:
        """Yield the quarantined files with their reasons."""
        for file in _scan(self.quarantined):
            note = file.path.with_suffix(".reason")
            yield file, note.read_text(encoding="utf-8") if note.exists() else ""

    def release(self, file: ReceivedFile) -> None:
        """Durable: put a quarantined file back into `received/`, to be delivered like a new one."""
        is_twice_named = self._rename(file.path, self.lane / file.path.name)
        self._sync(self.lane)
        if is_twice_named:
            file.path.unlink()
        file.path.with_suffix(".reason").unlink(missing_ok=True)

    def remove_delivery(self, delivery_id: str) -> None:
        """Remove a delivery whose objects and manifest are stored; one rename decides, so a crash leaves no half."""
        (self.delivering / delivery_id).rename(self.delivering / (delivery_id + _STORED))
        self._sync(self.delivering)
        self.discard_stored(delivery_id)

    def discard_stored(self, delivery_id: str = "*") -> None:
        """Remove what is left of one stored delivery, or of all whose removal was cut short."""
        for folder in self.delivering.glob(delivery_id + _STORED):
            self.spares.keep(folder.glob(f"*{SUFFIX}"))
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def _prepared(self, segment_bytes: int) -> segments.Segments | None:
        """Return the lane's segments with one begun; None where there can be none."""
        prepared = segments.Segments(self.lane, segment_bytes, fsync=self.fsync, rename_durably=self.rename_durably)
        try:
            prepared.prepare()
        except OSError as error:
            _logger.warning("segments_not_used errno=%s", error.errno)
            return None
        return prepared

    def _rename(self, path: Path, target: Path) -> bool:
        """Give a file another name; True when the first is still there, to be removed once the other is synced.

        Without a journal power loss can take both names from a renamed file, so it gets the second one first.
        """
        if self.is_journalled or not self.fsync or os.name == "nt":
            path.rename(target)
            return False
        with contextlib.suppress(FileExistsError):  # a crash came between the two names
            target.hardlink_to(path)
        return True

    def _sync(self, folder: Path) -> None:
        if self.fsync:
            sync_directory(folder)


def count_files(root: Path) -> dict[str, int]:
    """Return how many instances lie in each folder of a spool; a folder that does not exist counts as empty."""
    lanes = _folders(root / "received")
    return {
        "received": sum(map(_count, lanes)) + sum(segments.count_records(Path(lane))[0] for lane in lanes),
        "delivering": sum(map(_count, _folders(root / "delivering"))),
        "quarantined": _count(root / "quarantined"),
    }


def oldest_seconds(root: Path) -> float:
    """Return the age of the oldest instance that is not stored yet; 0 when there is none."""
    now = time.time()
    folders = [*_folders(root / "received"), *_folders(root / "delivering")]
    ages = (now - modified_at for folder in folders for modified_at in _modified(folder))
    in_segments = (now - segments.count_records(Path(lane))[1] for lane in _folders(root / "received"))
    return max(0.0, max(ages, default=0.0), max(in_segments, default=0.0))


def _modified(folder: str) -> Iterator[float]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat().st_mtime


def _folders(parent: Path) -> list[str]:
    try:
        with os.scandir(parent) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _count(folder: Path | str) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.name.endswith(SUFFIX) for entry in entries)
    except FileNotFoundError:  # a delivery was stored and removed meanwhile
        return 0


def _scan(folder: Path) -> Iterator[ReceivedFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            parsed = ReceivedFile.of(Path(entry.path))
            if parsed is not None:
                yield parsed
