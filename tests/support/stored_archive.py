"""An archive of a test's own images: a catalog, a store and what was received into them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from framed import encode
from obstore.store import LocalStore
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy import Engine

from dicomflow.archive.catalog.retrieval import CatalogRetrieval
from dicomflow.bucket.keys import instance_key
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects

__all__ = ["SERIES", "STUDY", "StoredArchive", "as_stored", "stored_archive"]

STUDY, SERIES = "1.2.826.0.1.1", "1.2.826.0.1.1.1"


def as_stored(
    dataset: Dataset, number: int, *, study: str = STUDY, series: str = SERIES, sop_class: str | None = None
) -> Dataset:
    """Give an image the UIDs of an instance of a series, and a patient."""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SOPInstanceUID = f"{series}.{number}"
    if sop_class is not None:
        dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    dataset.PatientID, dataset.PatientName, dataset.InstanceNumber = "P1", "Ärmel^Zoë", number
    dataset.SpecificCharacterSet = "ISO_IR 100"
    return dataset


@dataclass
class StoredArchive:
    """A catalog and a store; `contents` are the bytes of each instance by its UID, as they were received."""

    folder: Path
    engine: Engine
    store: LocalStore = field(init=False)
    contents: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = LocalStore(self.folder / "objects", mkdir=True)

    @property
    def retrieval(self) -> CatalogRetrieval:
        """Return what finds and gives them."""
        return CatalogRetrieval(self.engine, self.store)

    def receive(self, *datasets: Dataset, delivery: str = "d1") -> None:
        """Take images in."""
        events = []
        for dataset in datasets:
            uid, content = str(dataset.SOPInstanceUID), encode(dataset)
            key = instance_key("edge", delivery, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, uid)
            self.store.put(key, content)
            self.contents[uid], self.keys[uid] = content, key
            events.append(StoredObjectEvent(key, "bucket", key))
        found = index_objects(self.engine, self.store, events)
        assert (len(datasets), 0) == (found.indexed, found.problems)

    def digest(self, uid: str) -> str:
        """Return the SHA-256 of an instance's file."""
        return hashlib.sha256(self.contents[uid]).hexdigest()


@contextmanager
def stored_archive(folder: Path) -> Iterator[StoredArchive]:
    """Give an archive without images, whose catalog is a file of SQLite in a folder."""
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    try:
        yield StoredArchive(folder, engine)
    finally:
        engine.dispose()
