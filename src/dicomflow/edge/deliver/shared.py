"""What the steps of delivering share; each step's own state is its own."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomflow.edge.ledger import Ledger
from dicomflow.edge.progress import Progress
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.space import Space

__all__ = ["Announce", "Shared", "StoredObject"]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is in the store."""

    key: str
    bytes: int


# Told of every stored object, at least once: the place of S3's notifications where the store is a folder.
Announce = Callable[[Sequence[StoredObject]], None]


@dataclass(frozen=True, slots=True)
class Shared:
    """The edge's name, its spool with the room in it, ledger and progress; `settings` gives what is in force now."""

    edge: str
    settings: Callable[[], DeliverySettings]
    spool: Spool
    space: Space
    ledger: Ledger
    progress: Progress
    announce: Announce | None

    def folder_of(self, delivery_id: str) -> Path:
        """Return where a delivery's files are."""
        return self.spool.delivering / delivery_id

    def fail(self, path: Path, error: Exception) -> None:
        """Set something aside that could not be worked on; where it is the volume that is full, make room."""
        self.spool.aside.note(path, error)
        if is_full(error):
            self.space.make()

    async def tell(self, *stored: StoredObject) -> None:
        """Tell who wants to know what is stored."""
        if self.announce is not None:
            await asyncio.to_thread(self.announce, stored)
