"""What was received for a delivery and is not in its folder: by the note that closed it, and by the ledger.

The folders say what is left to do, but a file that is gone says nothing. So an instance that was acknowledged for a
delivery and has no file any more is put like the others: where the store has it, the manifest names it, and where it
is nowhere, that is told. It is not missing if it lies elsewhere in the spool, or in quarantine, which tells of it.
"""

import contextlib
import logging
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomflow.bucket.manifest import Association, Manifest
from dicomflow.dicom.uids import is_usable
from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance
from dicomflow.edge.deliver.instances import FILE_IS_GONE, entry_of
from dicomflow.edge.ledger import ELSEWHERE, Ledger, LedgerEntry
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.edge.spool.names import SUFFIX, ReceivedFile, is_delivery_id, stem_of
from dicomflow.edge.spool.view import quarantined_reasons

__all__ = ["Missing"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# What a name takes of an association's ID and of a peer: no more, and no separators of names and paths.
_MOST_NAME: Final = 60
_NOT_IN_A_NAME: Final = re.compile(r"[^0-9A-Za-z.:-]")
_NOBODY: Final = Association("", "", "", "", "")

_logger = logging.getLogger(__name__)


class Missing:
    """Compares folders with notes and ledger. Event loop: one owner."""

    def __init__(self, edge: str, spool: Spool, ledger: Ledger) -> None:
        self._edge = edge
        self._spool = spool
        self._ledger = ledger
        self._handed = HandedOver(spool.root)
        self._kept: set[str] | None = None

    def look_again(self) -> None:
        """Forget where the files of the spool are: some may have been moved."""
        self._kept = None

    def of(
        self, delivery_id: str, note: Manifest | None, here: Collection[str], unread: Mapping[str, str]
    ) -> list[ReceivedInstance]:
        """Return what a delivery is missing, as it was received; the ledger is told where it is if it is elsewhere.

        Args:
            delivery_id: the delivery's.
            note: what closed it.
            here: the digests of the files that it has.
            unread: the digests of those that were received again since they could not be read, and why not.

        Raises:
            sqlite3.OperationalError: another process holds the ledger for the moment.
        """
        if not is_delivery_id(delivery_id):  # nothing was received for it, and its name may be no text
            return []
        folder = self._spool.delivering / delivery_id
        rows = self._rows(delivery_id)
        told = {(row.sop_instance_uid, row.sha256) for row in rows if row.problem is not None}
        expected = {(each.sop_instance_uid, each.file.sha256): each for each in _of_note(folder, note)}
        known = {(row.sop_instance_uid, row.sha256): row for row in rows}
        waiting = {key: row for key, row in known.items() if row.store != ELSEWHERE}
        expected |= {key: each for key, row in waiting.items() if (each := _of_row(folder, row)) is not None}
        absent = {key: each for key, each in expected.items() if key[1] not in here and key not in told}
        if not absent:
            return []
        reasons = quarantined_reasons(self._spool.root)
        handed = self._handed.digests(delivery_id)
        missing = []
        for key, instance in absent.items():
            file = instance.file
            if file.sha256 in handed:  # and the ledger was not told before the process ended
                self._ledger.note_routed((), [(*key, delivery_id)])
                continue
            reason = reasons.get((file.association_id, file.sha256)) or unread.get(file.sha256)
            if reason is not None or file.sha256 in self._all_kept():
                self._note(known.get(key), reason)
            else:
                missing.append(instance)
                _logger.warning("instance_missing delivery=%s file=%s", delivery_id, file.path.name)
        return missing

    def without_folder(self) -> list[str]:
        """Return the deliveries of which the ledger says that something waits, and whose folders are gone.

        Raises `sqlite3.DatabaseError` where the ledger cannot be asked.
        """
        waiting = self._ledger.waiting_deliveries()
        return [each for each in waiting if is_delivery_id(each) and not (self._spool.delivering / each).exists()]

    def tell(self, delivery_id: str, instance: ReceivedInstance) -> None:
        """Tell of an instance that has no place in its delivery any more. Raises `OSError`."""
        entry = entry_of(instance, Delivery(delivery_id, instance.study_instance_uid, 0.0, 0.0), self._edge)
        self._ledger.note_received([entry])
        self._ledger.note_problem(entry, FILE_IS_GONE)
        self._spool.quarantine(instance.file, FILE_IS_GONE)

    def _rows(self, delivery_id: str) -> list[LedgerEntry]:
        """Ask the ledger; one that is no ledger any more remembers nothing. Raises `sqlite3.OperationalError`."""
        try:
            return self._ledger.of_delivery(delivery_id)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            return []

    def _note(self, row: LedgerEntry | None, reason: str | None) -> None:
        """Have the ledger say why an instance does not go with its delivery, or that it goes with another one."""
        if row is not None and row.stored_at is None:
            if reason is not None:
                self._ledger.note_problem(row, reason)
            else:
                self._ledger.note_dropped(row)

    def _all_kept(self) -> set[str]:
        """Return the digests of all files that wait to be delivered."""
        if self._kept is None:
            self._kept = {file.sha256 for file in self._spool.scan_received()}
            for folder in self._spool.scan_deliveries():
                with contextlib.suppress(OSError):
                    self._kept |= {file.sha256 for file in self._spool.scan_delivery(folder.name)}
        return self._kept


def _of_note(folder: Path, note: Manifest | None) -> Iterator[ReceivedInstance]:
    """Yield what a note names; what in it makes no key is none of its delivery."""
    if note is None:
        return
    associations = {each.association_id: each for each in note.associations}
    for study in note.studies:
        for series in study.series:
            for each in series.instances:
                uids = (each.sop_instance_uid, study.study_instance_uid, series.series_instance_uid)
                received_at = _moment(each.received_at)
                if not all(map(is_usable, uids)) or not _SHA256.fullmatch(each.sha256) or received_at is None:
                    _logger.error("note_not_believed delivery=%s", folder.name)
                    continue
                association = associations.get(each.association_id, _NOBODY)
                yield ReceivedInstance(
                    file=_file(folder, each.association_id, association.peer, each.sha256),
                    sop_instance_uid=uids[0],
                    sop_class_uid=each.sop_class_uid,
                    transfer_syntax_uid=each.transfer_syntax_uid,
                    study_instance_uid=uids[1],
                    series_instance_uid=uids[2],
                    bytes=each.bytes,
                    received_at=received_at,
                    calling_ae_title=association.calling_ae_title,
                    called_ae_title=association.called_ae_title,
                )


def _of_row(folder: Path, row: LedgerEntry) -> ReceivedInstance | None:
    """Return what an entry of the ledger tells; None where that makes no key."""
    uids = (row.sop_instance_uid, row.study_instance_uid, row.series_instance_uid)
    received_at = _moment(row.received_at)
    if not all(map(is_usable, uids)) or not _SHA256.fullmatch(row.sha256) or received_at is None:
        return None
    return ReceivedInstance(
        file=_file(folder, row.association_id, row.peer, row.sha256),
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        bytes=row.bytes,
        received_at=received_at,
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
    )


def _file(folder: Path, association_id: str, peer: str, sha256: str) -> ReceivedFile:
    """Return the name of a file that is gone; its number nobody knows."""
    association, sender = (_NOT_IN_A_NAME.sub("-", each)[:_MOST_NAME] for each in (association_id, peer))
    return ReceivedFile(folder / (stem_of(association, 0, sender, sha256) + SUFFIX), association_id, 0, peer, sha256)


def _moment(text: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return None
