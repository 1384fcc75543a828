"""Whether the store that is configured now, or the spool, has what the ledger says: what a commitment rests on.

Asked on the threads of associations and of reports, beside the deliverer, so it has a client of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from obstore.exceptions import InvalidPathError, PermissionDeniedError
from obstore.store import ObjectStore

from dicomflow.edge.ledger import LedgerEntry
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.view import scan
from dicomflow.edge.stores import build_store, describe_refusal, has_object, identify_store, local_root
from dicomflow.errors import TransientError
from dicomflow.regularfiles import has_digest

__all__ = ["StoreWitness"]

_AT_ONCE: Final = 16


class StoreWitness:
    """Asks the store that is configured now; of a folder that is not mounted it says nothing. Threads: any."""

    def __init__(self, settings: DeliverySettings, spool: Path) -> None:
        self._settings = settings
        self._local_root = local_root(settings.store_url)
        self._mount = StoreMount(self._local_root, spool)
        self._spool = Layout(spool)
        self._identity = identify_store(settings)
        self._lock = threading.Lock()  # guards the store until it is built
        self._store: ObjectStore | None = None

    def ask(self, entries: Iterable[LedgerEntry]) -> dict[str, bool]:
        """Tell of each object, by its key, whether the store has it as it was put: who is told yes deletes its copy.

        An edge that may not read is answered 403 for any object. Then the best there is to go by is that this same
        store took it, and compared its checksum.

        Raises:
            TransientError: the store does not answer.
        """
        wanted = {entry.object_key: entry for entry in entries}
        try:
            self._mount.check()
            with self._lock:
                if self._store is None:
                    self._store = build_store(self._settings, is_patient=False)
            return asyncio.run(self._ask(self._store, wanted))
        except Exception as error:
            raise TransientError(f"the store does not say what it has: {describe_refusal(error)}") from error

    def find_spooled(self, entries: Iterable[LedgerEntry]) -> set[str]:
        """Return the keys of those whose files wait in the spool, and have the bytes that were received.

        What is put meanwhile and goes is not among them, and the ledger has it as stored by then.
        """
        by_delivery: dict[str, list[LedgerEntry]] = {}
        for entry in entries:
            by_delivery.setdefault(entry.delivery_id, []).append(entry)
        found = set()
        for delivery_id, waiting in by_delivery.items():
            files = HandedOver(self._spool.root).files(delivery_id)
            with contextlib.suppress(OSError):  # its folder has just gone
                files |= {each.sha256: each.path for each in scan(self._spool.delivering / delivery_id)}
            found |= {each.object_key for each in waiting if _is_whole(files.get(each.sha256), each.sha256)}
        return found

    async def _ask(self, store: ObjectStore, wanted: dict[str, LedgerEntry]) -> dict[str, bool]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def _ask_one(entry: LedgerEntry) -> bool:
            async with turn:
                try:
                    return await has_object(store, self._local_root, entry.object_key, entry.bytes, entry.sha256)
                except (FileNotFoundError, InvalidPathError):
                    return False
                except PermissionDeniedError:
                    return entry.store == self._identity

        answers = await asyncio.gather(*map(_ask_one, wanted.values()))
        return dict(zip(wanted, answers, strict=True))


def _is_whole(path: Path | None, sha256: str) -> bool:
    with contextlib.suppress(OSError):
        return path is not None and has_digest(path, sha256)
    return False
