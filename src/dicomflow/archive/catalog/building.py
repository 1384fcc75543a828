"""An archive over a catalog and a store, with what runs beside it: the writer of the trail, and codecs' processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.archive.archive import Archive
from dicomflow.archive.catalog.audit import CatalogAudit
from dicomflow.archive.catalog.query import CatalogQuery
from dicomflow.archive.catalog.retrieval import CatalogRetrieval
from dicomflow.archive.pixels.conversions import Conversions

__all__ = ["open_archive"]


@contextmanager
def open_archive(engine: Engine, store: ObjectStore, ae_title: str) -> Iterator[Archive]:
    """Give an archive; what it was asked is in the trail when this ends."""
    retrieval = CatalogRetrieval(engine, store)
    conversions = Conversions(retrieval)
    audit = CatalogAudit(engine)
    try:
        yield Archive(CatalogQuery(engine), retrieval, conversions, audit, ae_title)
    finally:
        audit.close()
        conversions.close()
