"""One image that came by two ways is one version: what tells versions apart is the data set."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pydicom
import pytest
from obstore.exceptions import GenericError

from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.index import IndexedObject
from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta
from dicomflow.pipeline.index import read_objects, write_objects
from dicomflow.pipeline.versions import NotComparedError, compare_versions

UID = "1.2.1.1"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sent_by(encoded: bytes, calling: str, called: str) -> bytes:
    """Return the file that an edge makes of the same data set for another sender."""
    meta = decode_file_meta(encoded)
    start = encode_file_meta("1.2.840.10008.5.1.4.1.1.2", UID, meta.transfer_syntax_uid, calling, called)
    return start + encoded[meta.data_set_offset :]


def arrive(deployment: Any, delivery: str, order: str, change: Callable[[bytes], bytes]) -> None:
    """Deliver one image of a series, and take its events and its manifest to the catalog in an order."""
    key = deployment.deliver({"1.2.1": 1}, delivery=delivery, change=change)
    (instance,) = [each for each in deployment.keys(f"edge/{delivery}") if each.endswith(".dcm")]
    for step in order.split():
        if step == "index":
            assert {"batchItemFailures": []} == deployment.handle("index", deployment.object_event(instance))
        else:
            assert {"batchItemFailures": []} == deployment.plan(key)


def other_pixels(encoded: bytes) -> bytes:
    """Return the file with another data set of the same length."""
    found = pydicom.dcmread(BytesIO(encoded))
    found.PatientName = "Invented^Patienz"
    changed = BytesIO()
    found.save_as(changed)
    assert len(encoded) == len(changed.getvalue())
    return changed.getvalue()


def conflicts(deployment: Any) -> list[str]:
    """Return the UIDs that are said to have several versions."""
    with deployment.deps.engine.begin() as connection:
        return [each.uid for each in list_conflicts(connection) if each.kind == "versions"]


@pytest.mark.parametrize("order", ["index plan", "plan index"])
def test_same_data_set_from_another_sender_is_no_version(deployment: Any, order: str) -> None:
    """Other AE titles make other files of one image: no conflict, and nothing to be imported again."""
    arrive(deployment, "d1", order, lambda encoded: sent_by(encoded, "CT1", "ARCHIVE"))
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    arrive(deployment, "d2", order, lambda encoded: sent_by(encoded, "WORKSTATION", "OTHER"))
    assert [] == conflicts(deployment)
    assert 2 == len({row["sha256"] for row in deployment.rows("stored_object")})
    assert 1 == len({row["data_set_sha256"] for row in deployment.rows("stored_object")})
    deployment.offset[0] += timedelta(seconds=5)
    assert 0 == deployment.drive().started
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert [1] == [row["version"] for row in deployment.rows("image_set")]

    arrive(deployment, "d3", order, other_pixels)
    assert [UID] == conflicts(deployment)
    assert [2] == [row["versions"] for row in deployment.rows("instance")]


def test_versions_that_cannot_be_read_are_compared_when_they_can(deployment: Any) -> None:
    """An object that is gone stays a version of its own, until it is back and something asks again."""
    arrive(deployment, "d1", "index plan", lambda encoded: sent_by(encoded, "CT1", "ARCHIVE"))
    key = deployment.deliver({"1.2.1": 1}, delivery="d2", change=lambda encoded: sent_by(encoded, "CT2", "ARCHIVE"))
    lost = deployment.keys("edge/d1")[0]
    content = bytes(deployment.store.get(lost).bytes())
    deployment.store.delete(lost)
    assert {"batchItemFailures": []} == deployment.plan(key)
    assert [UID] == conflicts(deployment)
    deployment.store.put(lost, content)
    assert {"batchItemFailures": []} == deployment.handle("index", deployment.object_event(lost))
    assert [] == conflicts(deployment)


class Ill:
    """A store that does not give one object."""

    def __init__(self, store: Any, key: str) -> None:
        self._store, self._key = store, key

    def get(self, key: str) -> Any:
        """Fail for one key."""
        if key == self._key:
            raise GenericError("503")
        return self._store.get(key)


def test_object_that_cannot_be_read_leaves_the_others_compared(deployment: Any) -> None:
    """What was compared is kept, and told apart from what was not."""
    engine, store = deployment.deps.engine, deployment.store
    deployment.deliver({"1.2.1": 3}, delivery="d1")
    deployment.deliver({"1.2.1": 3}, delivery="d2", change=lambda encoded: b"x" + encoded[1:])
    keys = [key for delivery in ("d1", "d2") for key in deployment.keys(f"edge/{delivery}")]
    found = asyncio.run(read_objects(store, keys, {}))
    assert [] == write_objects(engine, [each for each in found.values() if isinstance(each, IndexedObject)], START)
    ill = Ill(store, keys[4])
    for _ in range(2):
        with pytest.raises(NotComparedError) as caught:
            compare_versions(engine, ill, {"1.2.1.1", "1.2.1.2", "1.2.1.3"})  # type: ignore[arg-type]  # one method
        assert {"1.2.1.2"} == caught.value.uids
        assert [1, 2, 1] == [row["versions"] for row in deployment.rows("instance")]


def test_objects_of_other_sizes_are_not_read(deployment: Any) -> None:
    """Files whose sizes differ by more than their meta information can hold other data sets, and need no reading."""
    arrive(deployment, "d1", "index plan", bytes)
    arrive(deployment, "d2", "index plan", lambda encoded: encoded + b"\xe1\x7f\x10\x00LO\x00\x10" + b"x" * 4096)
    assert [UID] == conflicts(deployment)
    assert [None, None] == [row["data_set_sha256"] for row in deployment.rows("stored_object")]
