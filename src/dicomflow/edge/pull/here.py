"""What of a study is here: in the spool, by its files, and in the store that is configured now, because it says so.

The ledger only says where to look. What it has as stored is asked of the store, and what waits to be stored must lie in
its delivery's folder. What was received a moment ago, and is in no delivery yet, is not here yet.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import ELSEWHERE, LEDGER_FILE, Ledger, LedgerEntry
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.view import scan
from dicomflow.errors import PermanentError

__all__ = ["Held", "Holdings"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """An instance that is here: in the store, or in the spool on its way to it."""

    uid: str
    is_stored: bool
    is_imported: bool


class Holdings:
    """What this edge has. Threads: any."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._root = settings.spool.dir
        self._layout = Layout(self._root)
        self._witness = StoreWitness(settings.delivery, self._root)
        self._lock = threading.Lock()  # guards the ledger that is written
        self._keeper: Ledger | None = None

    def of_study(self, study_uid: str, confirmed: set[str]) -> dict[str, Held]:
        """Return the instances of a study that are here, by SOP Instance UID.

        Args:
            study_uid: the study.
            confirmed: keys of objects that the store has just said to have; what it says now is added.

        Raises:
            TransientError: the store does not say what it has.
            PermanentError: the ledger cannot be read.
        """
        entries = self._entries(study_uid)
        ours = [each for each in entries if each.stored_at is not None and each.store != ELSEWHERE]
        asked = [each for each in ours if each.object_key not in confirmed]
        if asked:
            confirmed |= {key for key, is_there in self._witness.ask(asked).items() if is_there}
        waiting = self._waiting(each.delivery_id for each in entries if each.stored_at is None)
        held: dict[str, Held] = {}
        for each in entries:
            # Where routes have sent it, and not to the store, there is nobody to ask but those who have said so.
            is_stored = each.stored_at is not None and (each.store == ELSEWHERE or each.object_key in confirmed)
            if is_stored or (each.delivery_id, each.sha256) in waiting:
                known = held.get(each.sop_instance_uid)
                held[each.sop_instance_uid] = Held(
                    each.sop_instance_uid,
                    is_stored or (known is not None and known.is_stored),
                    each.imported_at is not None or (known is not None and known.is_imported),
                )
        return held

    def problems_of(self, study_uid: str) -> dict[str, str]:
        """Return why instances of a study that came are not delivered, by SOP Instance UID."""
        return {each.sop_instance_uid: each.problem for each in self._entries(study_uid) if each.problem}

    def arrived(self, study_uid: str) -> tuple[int, int]:
        """Return how many instances of a study have come so far, and their bytes: what moves while it is fetched."""
        ledger = self._ledger()
        if ledger is None:
            return 0, 0
        try:
            return ledger.count_study(study_uid)
        finally:
            ledger.close()

    def keep(self, study_uid: str) -> None:
        """Have the ledger keep the entries of a study; where it is not to be had now, another look does."""
        with self._lock:  # one for all studies: to open it takes a check of the whole file
            if self._keeper is None and (self._root / LEDGER_FILE).exists():
                self._keeper = Ledger(self._root / LEDGER_FILE)
            if self._keeper is not None:
                try:
                    self._keeper.keep_study(study_uid)
                except sqlite3.OperationalError as error:
                    _logger.warning("study_not_kept study=%s error=%s", study_uid, type(error).__name__)

    def close(self) -> None:
        """Close the ledger."""
        with self._lock:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None

    def _ledger(self) -> Ledger | None:
        """Open the ledger, each time anew: a deliverer may have put a damaged one aside."""
        path = self._root / LEDGER_FILE
        try:
            return Ledger(path, read_only=True)
        except PermanentError:
            if path.exists():
                raise
            return None

    def _entries(self, study_uid: str) -> list[LedgerEntry]:
        ledger = self._ledger()
        if ledger is None:
            return []
        try:
            return ledger.of_study(study_uid)
        finally:
            ledger.close()

    def _waiting(self, delivery_ids: Iterable[str]) -> set[tuple[str, str]]:
        """Return delivery and digest of the files that wait in the deliveries' folders."""
        found: set[tuple[str, str]] = set()
        for delivery_id in set(delivery_ids):
            found |= {(delivery_id, sha256) for sha256 in HandedOver(self._root).files(delivery_id)}
            try:
                found |= {(delivery_id, file.sha256) for file in scan(self._layout.delivering / delivery_id)}
            except FileNotFoundError:  # it was stored meanwhile; the next look finds that
                continue
        return found
