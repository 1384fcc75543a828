"""The deliverer's folders: from what was received over a delivery to nothing, or to quarantine and back."""

import contextlib
import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.spool.associations import AssociationLog
from dicomflow.edge.spool.durable import give_to_owner_of, replace_file, sync_directory, write_note
from dicomflow.edge.spool.layout import FOLDER_MODE, Layout
from dicomflow.edge.spool.names import MANIFEST_FILE, STORED, ReceivedFile, is_stored_delivery
from dicomflow.edge.spool.notes import discard_notes
from dicomflow.edge.spool.setaside import NotOursError, SetAside
from dicomflow.edge.spool.spares import Spares
from dicomflow.edge.spool.unpacker import Unpacker
from dicomflow.edge.spool.view import is_foreign, quarantined_files, scan
from dicomflow.errors import PermanentError
from dicomflow.regularfiles import read_regular

__all__ = ["Spool"]

_logger = logging.getLogger(__name__)


class Spool(Layout):
    """The folders of one spool as the deliverer has them; opening it makes what is missing.

    Args:
        root: the folder that has them.
        make: whether folders that are missing are made; not for who only puts something back.
        fsync: whether what is moved waits for the disk.
        spare_bytes: how much is kept of stored instances, to be written over.
    """

    def __init__(self, root: Path, *, make: bool = True, fsync: bool = True, spare_bytes: int = 0) -> None:
        super().__init__(root)
        self.fsync = fsync
        self.associations = AssociationLog(self.associations_folder)
        self.spares = Spares(self.spares_folder, spare_bytes)
        self.aside = SetAside()
        self._quarantining = threading.Lock()  # two destinations may refuse one object at once
        if make:
            self.make()
        self._unpacker = self._begin_unpacker()
        self._is_unpacked = True

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

    def scan_received(self) -> Iterator[ReceivedFile]:
        """Yield the files of `received/`, in no order; what is not named like one is left alone, and set aside.

        A lane that cannot be read is set aside, and so is what was unpacked and may not be on the disk.
        """
        for lane in self.received.iterdir():
            if self.aside.holds(lane) or (lane == self.unpacked and not self._is_unpacked):
                continue
            try:
                yield from self._scan_lane(lane)
            except NotADirectoryError:
                self.aside.note(lane, NotOursError())
            except OSError as error:
                self.aside.note(lane, error)

    def _scan_lane(self, lane: Path) -> Iterator[ReceivedFile]:
        with os.scandir(lane) as entries:
            for entry in entries:
                file = ReceivedFile.of(Path(entry.path))
                if file is not None:
                    yield file
                elif is_foreign(entry.name) and not self.aside.holds(path := Path(entry.path)):
                    self.aside.note(path, NotOursError())

    def scan_deliveries(self) -> Iterator[Path]:
        """Yield the folders of deliveries, in order."""
        for folder in sorted(self.delivering.iterdir()):
            if not is_stored_delivery(folder) and os.path.isdir(folder):  # noqa: PTH112  # it raises nothing
                yield folder

    def scan_delivery(self, delivery_id: str) -> Iterator[ReceivedFile]:
        """Yield the files of a delivery, in no order."""
        yield from scan(self.delivering / delivery_id)

    def assign(self, file: ReceivedFile, delivery_id: str) -> ReceivedFile:
        """Put a received file into a delivery; `sync_deliveries` ends what this begins."""
        folder = self.delivering / delivery_id
        if not folder.exists():
            folder.mkdir(mode=FOLDER_MODE)
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
        """Durable: write a small file whole. Raises `OSError`."""
        write_note(path, content, fsync=self.fsync)

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
        if not self.retried.exists():
            self.retried.mkdir(mode=FOLDER_MODE)
            give_to_owner_of(self.root, self.retried)
            self._sync(self.received)
        self._move(file.path, self.retried)
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
            for file in list(scan(folder)) if stored is not None else ():
                if stored is not None and file.path.name not in stored:
                    self.receive_again(file)
            folder.rename(left)
            self._sync(self.delivering)
            self._discard(left)
        else:
            self._sync(self.delivering)
            self._discard_checked(left)

    def discard_stored(self) -> list[str]:
        """Remove what is left of deliveries whose removal was cut short; return those of which something stays.

        What is not ours stays, and is set aside.
        """
        left = []
        for folder in filter(is_stored_delivery, self.delivering.glob(f"*{STORED}")):
            try:
                self._discard_checked(folder)
            except NotADirectoryError as error:  # a file that is called so: the delivery goes on
                self.aside.note(folder, error)
            except OSError as error:
                if folder.with_suffix("").exists():  # a delivery that is still to be stored, and is not held for this
                    self.aside.note(folder, error)
                else:
                    self.aside.note(folder.with_suffix(""), error)
                    left.append(folder.stem)
        return left

    def _discard_checked(self, folder: Path) -> None:
        """Remove what an earlier run has left of a stored delivery; what its note does not name is received again."""
        with contextlib.suppress(FileNotFoundError):
            named = _named(folder / MANIFEST_FILE)
            for file in list(scan(folder)):
                if file.sha256 not in named:
                    self.receive_again(file)
        self._discard(folder)

    def _discard(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.spares.keep(file.path for file in scan(folder))
            for path in folder.glob(f"{MANIFEST_FILE}*"):
                path.unlink(missing_ok=True)
            folder.rmdir()

    def _begin_unpacker(self) -> Unpacker:
        return Unpacker(
            self,
            fsync=self.fsync,
            quarantine=self.quarantine,
            quarantine_segment=self.quarantine_segment,
            aside=self.aside,
        )

    def _take_away(self, path: Path, target: Path, reason: str) -> None:
        """Move a file to quarantine, with the reasons of all; on a full volume without them, which the log has."""
        note = target.with_suffix(".reason")
        with self._quarantining:
            if target.exists():
                with contextlib.suppress(OSError):
                    before = read_regular(note).decode(errors="replace").split("; ")
                    reason = "; ".join(dict.fromkeys([*before, reason]))
            try:
                self.write_note(note, reason.encode())
            except OSError as error:
                _logger.error("reason_not_written file=%s errno=%s", target.name, error.errno)  # noqa: TRY400  # no bug
            with contextlib.suppress(FileNotFoundError):
                self._move(path, target.parent, target.name)

    def _move(self, path: Path, folder: Path, name: str = "") -> None:
        """Durable: move a file into another folder, perhaps under another name. Raises `OSError`."""
        replace_file(path, folder / (name or path.name))
        self._sync(folder)

    def _sync(self, folder: Path) -> None:
        if self.fsync:
            sync_directory(folder)


def _named(note: Path) -> set[str]:
    """Return the digests that a delivery's note names; none where it cannot be read."""
    try:
        return {each.sha256 for each in Manifest.from_json(read_regular(note)).instances()}
    except (OSError, PermanentError):
        return set()
