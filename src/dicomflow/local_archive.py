"""The archive of `dicomflow local` on its DIMSE port, made in each worker of the edge, which knows no catalog."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obstore.store import LocalStore

from dicomflow.archive.catalog.building import open_archive
from dicomflow.archive.dimse.peers import Peers
from dicomflow.archive.dimse.services import ArchiveServices, ArchiveSite, operations
from dicomflow.catalog.engine import create_engine_for
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.edge.settings import Destination
from dicomflow.edge_archive import move_destinations
from dicomflow.network.settings import ArchiveSettings

__all__ = ["LocalArchive", "beside"]


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """How a worker makes it; a process cannot be given an engine, and so gets where the catalog is."""

    database_url: str
    objects: Path
    ae_title: str
    settings: ArchiveSettings
    destinations: Mapping[str, Destination]

    def __call__(self) -> "_Opened":
        """Open it in this process."""
        return _Opened(self)


class _Opened:
    """The archive of one worker, until `close`."""

    def __init__(self, wanted: LocalArchive) -> None:
        self._stack: Final = ExitStack()
        engine = create_engine_for(wanted.database_url)
        self._stack.callback(engine.dispose)
        store = LocalStore(wanted.objects, mkdir=True)
        archive = self._stack.enter_context(open_archive(engine, store, wanted.ae_title))
        moves = operations(move_destinations(wanted.destinations, wanted.ae_title))
        self._site = ArchiveSite(archive, Peers(wanted.settings.peers), moves)

    def serve(self, acceptor: Acceptor, association_id: str, peer: str) -> ArchiveServices:
        """Make the services of an association."""
        return self._site.serve(acceptor, association_id, peer)

    def close(self) -> None:
        """Write what was asked, and close the catalog."""
        self._stack.close()


def beside(wanted: LocalArchive) -> LocalArchive | None:
    """Return what the edge's workers make beside their receivers: nothing where no peer may ask."""
    Peers(wanted.settings.peers)  # a certificate that cannot be read is told of at the start, and so is what follows
    move_destinations(wanted.destinations, wanted.ae_title)
    return wanted if wanted.settings.peers else None
