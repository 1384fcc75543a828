"""Whether the store that is configured now has what the ledger says is stored: what a commitment rests on.

Asked on the threads of associations and of reports, beside the deliverer, so it has a client of its own.
"""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from obstore.exceptions import InvalidPathError, PermissionDeniedError
from obstore.store import ObjectStore

from dicomflow.edge.ledger import LedgerEntry
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store, describe_refusal, has_object, identify_store, local_root
from dicomflow.errors import TransientError

__all__ = ["StoreWitness"]

_AT_ONCE: Final = 16


class StoreWitness:
    """Asks the store that is configured now; of a folder that is not mounted it says nothing. Threads: any."""

    def __init__(self, settings: DeliverySettings, spool: Path) -> None:
        self._settings = settings
        self._local_root = local_root(settings.store_url)
        self._mount = StoreMount(self._local_root, spool)
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
