"""Deliveries of an earlier run, found in their folders: each is taken up whole, or left until it can be read."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.instances import MANIFEST_FILE, read_all, read_manifest
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import is_delivery_id

__all__ = ["Leftover", "Leftovers"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A delivery with its instances, and whether its manifest has closed it."""

    delivery_id: str
    instances: list[ReceivedInstance]
    is_closed: bool


class Leftovers:
    """The folders that are still to be taken up. Event loop: one owner; `fail` hears of each that cannot be yet."""

    def __init__(self, edge: str, spool: Spool, fail: Callable[[Path, Exception], None]) -> None:
        self._edge = edge
        self._spool = spool
        self._fail = fail
        self._folders: set[Path] = set()

    def look(self) -> None:
        """Find all folders of deliveries. Raises `OSError`."""
        self._folders = set(self._spool.scan_deliveries())

    def add(self, folder: Path) -> None:
        """Have a folder taken up anew."""
        self._folders.add(folder)

    def take(self) -> Iterator[Leftover]:
        """Yield what can be taken up now; the caller takes each before it asks for the next."""
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

    def _read(self, folder: Path) -> Leftover | None:
        # The earlier run may have ended between moving files here and syncing that.
        self._spool.sync_deliveries([folder.name])
        if not is_delivery_id(folder.name):
            self._receive_again(folder)
        files = sorted(self._spool.scan_delivery(folder.name), key=lambda each: each.path.name)
        note = read_manifest(folder, self._edge)
        whole = self._without_other_studies(list(read_all(files, self._spool.quarantine)), note)
        # Two of one SOP Instance UID would have one key: the other is received again when this delivery is stored.
        found = {each.sop_instance_uid: each for each in whole}
        instances = list(found.values())
        if not instances:
            names = [path.name for path in folder.iterdir()]
            if all(name.startswith(MANIFEST_FILE) for name in names) and (names or is_delivery_id(folder.name)):
                self._spool.remove_delivery(folder.name)
            return None
        return Leftover(folder.name, instances, note is not None)

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
