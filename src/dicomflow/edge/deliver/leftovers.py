"""Deliveries of an earlier run, found in their folders: each is taken up, or left until it can be read.

What was received for one is in its folder, or it is `missing`: that is taken up too, and what becomes of it is told.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.instances import MANIFEST_FILE, is_of_file, read_all, read_manifest, unreadable
from dicomflow.edge.deliver.missing import Missing
from dicomflow.edge.deliver.routing import read_plan
from dicomflow.edge.destinations import DEFAULT_STORE
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import ReceivedFile, is_delivery_id
from dicomflow.edge.spool.setaside import NotOursError
from dicomflow.edge.spool.shares import Plan

__all__ = ["Leftover", "Leftovers"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A delivery with its instances, `missing` ones among them, and whether its manifest has closed it."""

    delivery_id: str
    instances: list[ReceivedInstance]
    missing: list[ReceivedInstance]
    is_closed: bool
    has_folder: bool = True
    # What was decided by routes, before or while it closed.
    plan: Plan | None = None


class Leftovers:
    """The folders that are still to be taken up. Event loop: one owner; `fail` hears of each that cannot be yet."""

    def __init__(self, edge: str, spool: Spool, missing: Missing, fail: Callable[[Path, Exception], None]) -> None:
        self._edge = edge
        self._spool = spool
        self._missing = missing
        self._fail = fail
        self._folders: set[Path] = set()
        self._is_ledger_asked = False  # for deliveries whose folders are gone

    def look(self) -> None:
        """Find all folders of deliveries. Raises `OSError`."""
        self._folders = set(self._spool.scan_deliveries())

    def add(self, folder: Path) -> None:
        """Have a folder taken up anew."""
        self._folders.add(folder)

    def take(self) -> Iterator[Leftover]:
        """Yield what can be taken up now."""
        self._missing.look_again()
        for folder in sorted(self._folders):
            if self._spool.aside.holds(folder):
                continue
            try:
                found = self._read(folder)
            except FileNotFoundError:
                found = None
            except Exception as error:  # noqa: BLE001  # a boundary around one of many
                self._fail(folder, error)
                continue
            self._folders.discard(folder)
            self._spool.aside.settle(folder)
            if found is not None:
                yield found
        if not self._is_ledger_asked:
            with contextlib.suppress(sqlite3.DatabaseError):  # the next time
                left = self._without_folder()
                self._is_ledger_asked = True
                yield from left

    def _without_folder(self) -> list[Leftover]:
        """Return the deliveries of which the ledger alone knows. Raises `sqlite3.DatabaseError`."""
        lost = {each: self._missing.of(each, None, (), {}) for each in self._missing.without_folder()}
        return [Leftover(each, found, found, is_closed=True, has_folder=False) for each, found in lost.items() if found]

    def _read(self, folder: Path) -> Leftover | None:
        # The earlier run may have ended between moving files here and syncing that.
        self._spool.sync_deliveries([folder.name])
        if not is_delivery_id(folder.name):
            self._receive_again(folder)
        files = sorted(self._spool.scan_delivery(folder.name), key=lambda each: each.path.name)
        note, plan = read_manifest(folder, self._edge), read_plan(folder)
        elsewhere = _elsewhere(plan)
        unread: dict[str, str] = {}
        read = list(self._read_files([each for each in files if each.sha256 not in elsewhere], unread))
        whole = self._without_other_studies(read, note)
        # Two of one SOP Instance UID would have one key: the other is received again when this delivery is stored.
        found = {each.sop_instance_uid: each for each in whole}
        missing = []
        here = {each.file.sha256 for each in read} | elsewhere
        for each in self._missing.of(folder.name, note, here, unread):
            study = next((one.study_instance_uid for one in found.values()), each.study_instance_uid)
            if each.sop_instance_uid in found or each.study_instance_uid != study:
                self._missing.tell(folder.name, each)  # its key is another one's, or none of this delivery
            else:
                found[each.sop_instance_uid] = each
                missing.append(each)
        instances = list(found.values())
        if not instances and plan is None:
            names = [path.name for path in folder.iterdir()]
            if all(name.startswith(MANIFEST_FILE) for name in names) and (names or is_delivery_id(folder.name)):
                self._spool.remove_delivery(folder.name)
            elif names:
                raise NotOursError
            return None
        return Leftover(folder.name, instances, missing, note is not None, plan=plan)

    def _read_files(self, files: list[ReceivedFile], unread: dict[str, str]) -> Iterator[ReceivedInstance]:
        """Yield the instances; a file that cannot be read is received again: its neighbours do not wait for it.

        Its digest is put into `unread`, with what the ledger is to say.

        Raises `OSError` where no file is to blame.
        """
        for file in files:
            try:
                yield from read_all([file], self._spool.quarantine)
            except OSError as error:
                if not is_of_file(error):
                    raise
                self._spool.receive_again(file)
                self._spool.aside.note(self._spool.unpacked / file.path.name, error)
                unread[file.sha256] = unreadable(error)

    def _receive_again(self, folder: Path) -> None:
        """Have all of a folder received again that is called as no delivery is: not every name makes a key."""
        files = sorted(self._spool.scan_delivery(folder.name), key=lambda each: each.path.name)
        for file in files:
            self._spool.receive_again(file)
        if files:
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()

    def _without_other_studies(
        self, instances: list[ReceivedInstance], note: Manifest | None
    ) -> list[ReceivedInstance]:
        """Return the instances of the delivery's study; any other, which somebody has moved here, is received again.

        The study is that of the manifest, or of most instances. Raises `OSError`.
        """
        counts = Counter(each.study_instance_uid for each in instances)
        if len(counts) <= 1:
            return instances
        study = counts.most_common(1)[0][0]
        if note is not None and note.studies and note.studies[0].study_instance_uid in counts:
            study = note.studies[0].study_instance_uid
        for instance in instances:
            if instance.study_instance_uid != study:
                self._spool.receive_again(instance.file)
        return [each for each in instances if each.study_instance_uid == study]


def _elsewhere(plan: Plan | None) -> set[str]:
    """Return the digests of what a plan has for other destinations than the default store alone."""
    if plan is None:
        return set()
    share = plan.share_of(DEFAULT_STORE)
    kept = {each.sha256 for each in share.manifest.instances()} if share is not None else set()
    return {each.sha256 for of_one in plan.shares for each in of_one.manifest.instances()} - kept
