"""A folder as a bucket, and what the index holds of it."""

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import Engine, Row, func, select

from dicomflow.catalog import tables
from dicomflow.catalog.engine import begin_read
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import IndexResult, index_objects

INDEXED_AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
DELIVERY = "6a1b7a52-6a6a-4c7e-9f39-0d1c8c1f2f11"
INDEX_TABLES = (
    tables.patient,
    tables.patient_history,
    tables.patient_word,
    tables.study,
    tables.study_patient,
    tables.series,
    tables.series_study,
    tables.instance,
    tables.stored_object,
)


class Bucket:
    """A folder as a bucket, and the events of what was put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalStore(folder)
        self.events: list[StoredObjectEvent] = []

    def put(self, key: str, data: bytes) -> StoredObjectEvent:
        """Put an object and return its event."""
        obstore.put(self.store, key, data)
        event = StoredObjectEvent(f"message {len(self.events)}", "dicom", key, len(data))
        self.events.append(event)
        return event

    def put_instance(self, uid: str = "1.2.3.1", *, edge: str = "site", **attributes: Any) -> StoredObjectEvent:
        """Put a small CT image; keyword arguments are its attributes, None leaves one out."""
        data_set = Dataset()
        values = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": uid,
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.0",
            "PatientID": "123",
            "PatientName": "Demo^Patient",
            "Modality": "CT",
        }
        for keyword, value in (values | attributes).items():
            if value is not None:
                setattr(data_set, keyword, value)
        parts = (data_set.get("StudyInstanceUID", "0"), data_set.get("SeriesInstanceUID", "0"), uid)
        return self.put(f"{edge}/{DELIVERY}/{'/'.join(parts)}.dcm", encode_data_set(data_set))

    def index(self, engine: Engine, events: list[StoredObjectEvent] | None = None) -> IndexResult:
        """Index these events, or all."""
        return index_objects(engine, self.store, self.events if events is None else events, clock=lambda: INDEXED_AT)


def encode_data_set(data_set: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Encode a data set as a Part 10 file."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax
    data_set.file_meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", CTImageStorage)
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", "1.2")
    encoded = BytesIO()
    data_set.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """Give an empty bucket."""
    folder = tmp_path / "objects"
    folder.mkdir()
    return Bucket(folder)


@pytest.fixture(name="encode_data_set")
def encode_data_set_() -> Callable[..., bytes]:
    """Encode a data set as a Part 10 file."""
    return encode_data_set


def rows(engine: Engine, table: Any, *columns: str) -> list[Row[Any]]:
    """Return a table's rows, sorted."""
    with begin_read(engine) as connection:
        found = connection.execute(select(*(table.c[name] for name in columns) if columns else [table])).all()
    return sorted(found, key=repr)


@pytest.fixture(name="rows")
def rows_() -> Callable[..., Any]:
    """Return a table's rows, sorted."""
    return rows


@pytest.fixture(name="counts")
def counts_() -> Callable[[Engine], list[int]]:
    """Return the number of patients, studies, series, instances and objects."""

    def count(engine: Engine) -> list[int]:
        found = (tables.patient, tables.study, tables.series, tables.instance, tables.stored_object)
        with begin_read(engine) as connection:
            return [connection.scalar(select(func.count()).select_from(table)) or 0 for table in found]

    return count


@pytest.fixture
def problems() -> Callable[[Engine], list[str]]:
    """Return the recorded reasons."""
    return lambda engine: [row.problem for row in rows(engine, tables.stored_object, "problem") if row.problem]


@pytest.fixture(name="contents")
def contents_() -> Callable[[Engine], dict[str, list[str]]]:
    """Return all rows of the index without the surrogate keys, which the order of writing decides."""
    return contents


def contents(engine: Engine) -> dict[str, list[str]]:
    """Replace each surrogate key by what it names."""
    names = {
        "patient_key": (tables.patient, ("issuer_of_patient_id", "patient_id", "unidentified_study_uid")),
        "study_key": (tables.study, ("study_instance_uid",)),
        "series_key": (tables.series, ("series_instance_uid",)),
    }
    named = {
        key: {row._asdict()[key]: row[1:] for row in rows(engine, table, key, *columns)}
        for key, (table, columns) in names.items()
    }
    found = {}
    for table in INDEX_TABLES:
        listed = []
        for row in rows(engine, table):
            values = row._asdict()
            values.pop("instance_key", None)
            listed.append(
                repr({name: named[name][value] if name in named else value for name, value in values.items()})
            )
        found[table.name] = sorted(listed)
    return found
