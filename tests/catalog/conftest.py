"""Objects to index, and what the catalog then holds."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from dicomflow.catalog.index import IndexedObject, ObjectLocation, upsert_objects

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def an_object() -> Callable[..., IndexedObject]:
    """Build an object stored `number` minutes after noon; keyword arguments are its attributes."""

    def build(number: int = 1, *, site: str = "site", sha256: str | None = None, **values: Any) -> IndexedObject:
        defaults = {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
            "SOPInstanceUID": f"1.2.3.{number}",
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": f"{values.get('StudyInstanceUID', '1.2.3')}.0",
            "PatientID": "123",
        }
        stored_at = NOW + timedelta(minutes=number)
        location = ObjectLocation(f"{site}/{number}.dcm", site, "delivery", 500, stored_at, sha256)
        return IndexedObject(location, site, defaults | values, {})

    return build


@pytest.fixture
def write(engine: Engine) -> Callable[..., None]:
    """Write objects as one batch."""

    def write_batch(*objects: IndexedObject) -> None:
        with engine.begin() as connection:
            upsert_objects(connection, objects, NOW)

    return write_batch
