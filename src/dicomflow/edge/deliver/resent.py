"""What is sent again: whether an instance is here already, or in the store that is configured now.

The ledger only says where to look. A copy in the spool counts when its bytes are those that were received, and an
object when the store says that it has it, and a manifest that names it; anything else is stored again, since the sender
may have no other copy. What is skipped is told again, with its delivery: the catalog may have been made to forget it.
"""

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath

from dicomflow.bucket.keys import MANIFEST_PREFIX
from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance
from dicomflow.edge.deliver.instances import entry_of, has_same_data_set
from dicomflow.edge.ledger import Ledger, LedgerEntry
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.regularfiles import has_digest

__all__ = ["Resent", "is_whole"]

_logger = logging.getLogger(__name__)


class Resent:
    """Knows what is in the spool, and asks ledger and store about the rest. Event loop: one owner.

    Args:
        edge: the edge's name.
        spool: the spool.
        ledger: of the spool.
        store: the identity of the store that is configured now.
        is_stored: asks that store for what the ledger has; False also when it does not say.
        fetch: returns an object of that store, None where there is none.
        can_tell: whether somebody is told of what is skipped; where nobody is, no object counts as a copy.
    """

    def __init__(
        self,
        edge: str,
        spool: Spool,
        ledger: Ledger,
        store: str,
        is_stored: Callable[[LedgerEntry], Awaitable[bool]],
        fetch: Callable[[str], Awaitable[bytes | None]],
        *,
        can_tell: bool,
    ) -> None:
        self.skipped = self.stored_again = 0
        self._edge = edge
        self._spool = spool
        self._ledger = ledger
        self._store = store
        self._is_stored = is_stored
        self._fetch = fetch
        self._can_tell = can_tell
        # The deliveries of which something is in the spool, by their IDs.
        self._present: dict[str, Delivery] = {}
        # By the keys of instances that wait: what the ledger says is stored of them.
        self._perhaps_stored: dict[str, list[LedgerEntry]] = {}
        self._filled: set[str] = set()  # those that were noted again in a ledger that was begun anew
        self._told = (0, 0)

    def take_up(self, delivery: Delivery) -> None:
        """Know a delivery of an earlier run, and what of it may be stored: the very bytes that are to be."""
        self._present[delivery.delivery_id] = delivery
        for known in self._ask(lambda: self._ledger.of_delivery(delivery.delivery_id)):
            instance = delivery.instances.get(known.sop_instance_uid)
            if instance is not None and instance.file.sha256 == known.sha256 and self._took(known):
                self._perhaps_stored[known.object_key] = [known]

    def seek(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        """Look for an instance whose file is gone where the store may have the same bytes from another delivery."""
        key = delivery.key_of(instance, self._edge)
        found = self._ask(lambda: self._ledger.find(instance.sop_instance_uid))
        same = [known for known in found if known.sha256 == instance.file.sha256 and self._took(known)]
        if same:
            self._perhaps_stored[key] = sorted(same, key=lambda known: known.object_key != key)

    def add(self, delivery: Delivery, instance: ReceivedInstance, copies: list[LedgerEntry]) -> None:
        """Know an instance that is put into a delivery, and the copies that the ledger has of it."""
        self._present[delivery.delivery_id] = delivery
        if self._can_tell and (took := [known for known in copies if self._took(known)]):
            self._perhaps_stored[delivery.key_of(instance, self._edge)] = took
        elif any(known.stored_at is not None for known in copies):
            self.stored_again += 1

    def finish(self, delivery: Delivery) -> None:
        """Know that all of a delivery is stored, for a ledger that may have lost it; `remove` follows."""
        if delivery.delivery_id in self._filled:
            for instance in delivery.instances.values():
                self._ledger.note_stored(delivery.key_of(instance, self._edge), datetime.now(UTC))

    def remove(self, delivery: Delivery) -> None:
        """Forget a delivery whose folder goes."""
        self._present.pop(delivery.delivery_id, None)
        self._filled.discard(delivery.delivery_id)

    def copies_of(self, instance: ReceivedInstance) -> list[LedgerEntry]:
        """Return what the ledger has of the same data set. Raises `OSError` when the file cannot be read."""
        found = self._ask(lambda: self._ledger.find(instance.sop_instance_uid))
        return [known for known in found if known.problem is None and has_same_data_set(instance, known)]

    def has_whole(self, known: LedgerEntry) -> bool:
        """Tell whether a file of the spool has the bytes that the ledger knows: it may have rotted."""
        delivery = self._present.get(known.delivery_id)
        copy = delivery.instances.get(known.sop_instance_uid) if delivery is not None else None
        if delivery is None or copy is None or copy.file.sha256 != known.sha256 or not is_whole(copy.file):
            return False
        delivery.is_resent = True
        return True

    async def find_stored(self, delivery: Delivery, key: str) -> LedgerEntry | None:
        """Return the object by which the store has an instance, itself or a copy; None where it is to be put."""
        for known in self._perhaps_stored.get(key, ()):
            if await self._is_stored(known) and (known.object_key == key or await self._is_named(delivery, known)):
                del self._perhaps_stored[key]
                return known
        return None

    def was_put(self, key: str) -> None:
        """Note that an instance is put; one that the ledger had as stored was not where it had been."""
        if self._perhaps_stored.pop(key, None) is not None:
            self.stored_again += 1

    def skip(self, file: ReceivedFile, known: LedgerEntry | None) -> None:
        """Remove a file whose bytes another one of the spool has; `known` if others may have come between the two.

        Raises `FileNotFoundError`.
        """
        if known is not None:
            self._ledger.note_sent_again(known)
        self._spool.remove(file)
        self.skipped += 1

    def drop(self, delivery: Delivery, instance: ReceivedInstance, known: LedgerEntry) -> None:
        """Take an instance out of its delivery: the store has just said that it has it from another one.

        Its file stays until that other one was told again: a crash before then has it stored.
        """
        self.skipped += 1
        delivery.skipped.setdefault(instance.sop_instance_uid, []).append(instance.file)
        self._ledger.note_dropped(entry_of(instance, delivery, self._edge))
        self._ledger.note_sent_again(known)
        del delivery.instances[instance.sop_instance_uid]

    def fill_ledger(self) -> None:
        """Note what is in the spool in a ledger that was begun anew."""
        self._filled |= self._present.keys()
        entries = (
            entry_of(each, delivery, self._edge)
            for delivery in self._present.values()
            for each in delivery.instances.values()
        )
        self._ledger.note_received(sorted(entries, key=lambda each: each.received_at))

    def tell(self) -> None:
        """Log what was skipped and what was stored again since the last time."""
        if self._told != (self.skipped, self.stored_again):
            skipped, again = self.skipped - self._told[0], self.stored_again - self._told[1]
            self._told = (self.skipped, self.stored_again)
            _logger.info("resent skipped=%d stored_again=%d", skipped, again)

    async def _is_named(self, delivery: Delivery, known: LedgerEntry) -> bool:
        """Tell whether the store has the manifest of an object, and keep what it names for the end of a delivery."""
        sender = PurePosixPath(*PurePosixPath(known.object_key).parts[:2])
        key = f"{MANIFEST_PREFIX}{sender}.json"
        if key not in delivery.elsewhere:
            try:
                encoded = await self._fetch(key)
                named = {each.key: each.bytes for each in Manifest.from_json(encoded or b"").instances()}
            except Exception:  # noqa: BLE001  # it is put then, which finds out what is wrong
                return False
            if known.object_key not in named:
                return False
            delivery.elsewhere[key] = named
        return known.object_key in delivery.elsewhere[key]

    def _took(self, known: LedgerEntry) -> bool:
        """Tell whether the store that is configured now is the one that took an object; it may be gone since."""
        return known.stored_at is not None and known.store == self._store

    def _ask(self, ask: Callable[[], list[LedgerEntry]]) -> list[LedgerEntry]:
        """Ask the ledger; one that cannot be asked remembers nothing, and what it would know is stored again."""
        try:
            return ask()
        except sqlite3.DatabaseError as error:
            _logger.debug("ledger_not_read error=%s", type(error).__name__)
            return []


def is_whole(file: ReceivedFile) -> bool:
    """Tell whether a file of the spool has the bytes that were received."""
    return has_digest(file.path, file.sha256)
