"""What became of what was handed over: read from the destinations' folders into the ledger, and the folders removed.

Another process sends; what it has to say is in files, so that the ledger has one who writes it.
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from dicomflow.bucket.transfer import InstanceState
from dicomflow.edge.deliver.routing import routed_entries
from dicomflow.edge.deliver.shared import Shared
from dicomflow.edge.ledger import LedgerEntry, RoutedEntry
from dicomflow.edge.spool.handedover import HandedOver, SharedDelivery
from dicomflow.edge.spool.names import MANIFEST_FILE
from dicomflow.edge.spool.shares import PLAN_FILE, Share
from dicomflow.edge.spool.transfers import Answer
from dicomflow.errors import PermanentError

__all__ = ["Returning"]

_STATES: Final = {InstanceState.DONE: "done", InstanceState.FAILED: "failed", InstanceState.CANCELLED: "gave_up"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _News:
    folder: SharedDelivery
    entries: list[RoutedEntry]
    is_over: bool


class Returning:
    """Takes in what the destinations' folders say. Event loop: one owner; files are read in a thread."""

    def __init__(self, shared: Shared, handed: HandedOver) -> None:
        self._shared = shared
        self._handed = handed
        self._has_tidied = False
        self._seen: dict[str, tuple[int, int]] = {}  # time and size of the answers that were taken in

    async def poll(self) -> None:
        """Note what has ended, and remove the folders in which nothing is left. Raises `OSError`."""
        news = await asyncio.to_thread(lambda: list(self._read()))
        ledger = self._shared.ledger
        for each in news:
            ledger.note_routed(each.entries)
        if news:
            ledger.write()
        over = [each.folder for each in news if each.is_over]
        if over and ledger.is_written:
            await asyncio.to_thread(self._remove, over)

    def fill_ledger(self) -> None:
        """Note what is on its way in a ledger that was begun anew. Raises `OSError`."""
        self._seen.clear()
        for name in self._handed.names():
            for folder in self._handed.of(name):
                try:
                    share = folder.share
                except (OSError, PermanentError):
                    continue  # who sends it tells of it
                here = self._shared.folder_of(folder.path.name).exists()
                entries = list(_instances(share))
                self._shared.ledger.note_received(entries)
                elsewhere = [] if here else [(each.sop_instance_uid, each.sha256, each.delivery_id) for each in entries]
                self._shared.ledger.note_routed(routed_entries(share), elsewhere)

    def _read(self) -> Iterator[_News]:
        if not self._has_tidied:
            self._handed.discard_removed()
            self._has_tidied = True
        for name in self._handed.names():
            for folder in self._handed.of(name):
                try:
                    news = self._read_one(folder)
                except (OSError, PermanentError) as error:
                    # Who sends it tells of it, as long as it stands.
                    _logger.debug("share_not_read folder=%s reason=%s", folder.path, type(error).__name__)
                    continue
                if news is not None:
                    yield news

    def _read_one(self, folder: SharedDelivery) -> _News | None:
        is_over = folder.is_ended
        try:
            status = folder.answers_path.stat()
        except FileNotFoundError:
            return None
        seen = (status.st_mtime_ns, status.st_size)
        if self._seen.get(str(folder.path)) == seen and not is_over:
            return None
        ends = {each.number: each for each in folder.ends()}
        share = folder.share
        by_key = {(each.sop_instance_uid, each.sha256): each for each in routed_entries(share)}
        entries = [
            _ended(by_key[instance.sop_instance_uid, instance.sha256], ends[number])
            for number, instance in enumerate(folder.instances)
            if number in ends
        ]
        self._seen[str(folder.path)] = seen
        return _News(folder, entries, is_over)

    def _remove(self, folders: list[SharedDelivery]) -> None:
        """Remove folders whose ends are in the ledger; one whose delivery is still handed over stays as a mark."""
        self._shared.ledger.sync()
        for folder in folders:
            delivery = self._shared.folder_of(folder.path.name)
            if (delivery / PLAN_FILE).exists() and not (delivery / MANIFEST_FILE).exists():
                continue
            try:
                folder.remove()
            except OSError as error:
                self._shared.spool.aside.note(folder.path, error)
            else:
                self._shared.spool.aside.settle(folder.path)
                self._seen.pop(str(folder.path), None)


def _ended(entry: RoutedEntry, answer: Answer) -> RoutedEntry:
    at = datetime.fromtimestamp(answer.at, UTC).isoformat()
    return replace(entry, state=_STATES[answer.state], ended_at=at, reason=answer.reason or entry.reason)


def _instances(share: Share) -> Iterator[LedgerEntry]:
    associations = {each.association_id: each for each in share.manifest.associations}
    for study in share.manifest.studies:
        for series in study.series:
            for each in series.instances:
                by = associations.get(each.association_id)
                yield LedgerEntry(
                    sop_instance_uid=each.sop_instance_uid,
                    sha256=each.sha256,
                    sop_class_uid=each.sop_class_uid,
                    transfer_syntax_uid=each.transfer_syntax_uid,
                    study_instance_uid=study.study_instance_uid,
                    series_instance_uid=series.series_instance_uid,
                    bytes=each.bytes,
                    association_id=each.association_id,
                    calling_ae_title=by.calling_ae_title if by else "",
                    called_ae_title=by.called_ae_title if by else "",
                    peer=by.peer if by else "",
                    received_at=each.received_at,
                    delivery_id=share.manifest.delivery,
                    object_key=each.key,
                )
