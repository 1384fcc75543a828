"""An archive over a catalog of a test's own, asked over HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from obstore.store import MemoryStore, ObjectStore
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.routing import Mount
from waiting import WAIT_SECONDS

from dicomflow.archive.access import Principal
from dicomflow.archive.archive import Archive
from dicomflow.archive.catalog.query import CatalogQuery
from dicomflow.archive.catalog.retrieval import CatalogRetrieval
from dicomflow.archive.pixels.conversions import Conversions
from dicomflow.archive.storing import ImageStore
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.serving import WebServer

__all__ = ["Noted", "archive_over", "asking"]


class Noted(list[tuple[str, str, str | None, Mapping[str, Any]]]):
    """An audit trail that a test reads."""

    def record(self, principal: Principal, action: str, uid: str | None, details: Mapping[str, Any]) -> None:
        """Keep a row."""
        self.append((principal.name, action, uid, details))


def archive_over(engine: Engine, noted: Noted | None = None, store: ObjectStore | None = None) -> Archive:
    """Return an archive over a catalog, and a store where its objects are wanted."""
    retrieval = CatalogRetrieval(engine, MemoryStore() if store is None else store)
    return Archive(
        CatalogQuery(engine), retrieval, Conversions(retrieval), Noted() if noted is None else noted, "ARCHIVE"
    )


@contextmanager
def asking(
    archive: Archive, access: WebAccess | None = None, store: ImageStore | None = None
) -> Iterator[httpx.Client]:
    """Give a client of the archive as this machine's, where it is mounted as `dicomflow local` has it."""
    app = create_archive(archive, WebAccess() if access is None else access, store)
    server = WebServer(Starlette(routes=[Mount("/dicomweb", app)]), "127.0.0.1", 0)
    server.start()
    try:
        with httpx.Client(base_url=f"{server.url}/dicomweb", timeout=WAIT_SECONDS) as client:
            yield client
    finally:
        server.close()
