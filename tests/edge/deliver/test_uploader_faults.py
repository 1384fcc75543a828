"""One put to an S3 that fails says so and leaves nothing behind; what is too large for one request goes in parts.

`DICOMFLOW_TEST_LARGE_BYTES` sets the size of a large object; 72 MiB by default.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fault_proxy import FaultProxy
from obstore.exceptions import BaseError

from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.uploader import RefusedObjectError, Uploader
from dicomflow.edge.ledger import LedgerEntry
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.stores import build_store

KEY = "site/d1/1.2/1.2.1/1.2.3.dcm"
LARGE_BYTES = int(os.environ.get("DICOMFLOW_TEST_LARGE_BYTES", str(72 << 20)))
PART_BYTES = 8 << 20


@pytest.fixture(scope="module")
def s3_endpoint(disk_s3_endpoint: str) -> str:
    """Use the server that keeps its objects on disk."""
    return disk_s3_endpoint


@pytest.fixture
def uploader(aws_environment: pytest.MonkeyPatch, fault_proxy: FaultProxy, bucket: str) -> Uploader:
    """Give an uploader to a bucket behind a proxy that can fail."""
    return Uploader(lambda: build_store(DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url)), None)


@pytest.fixture
def instance_of(lane: Lane) -> Callable[[int], ReceivedInstance]:
    """Spool so many bytes as an instance."""

    def _instance_of(size: int) -> ReceivedInstance:
        file = lane.create("a1", 0)
        block = os.urandom(1 << 20)
        for start in range(0, size, len(block)):
            file.write([memoryview(block)[: size - start]])
        received, now = ReceivedFile.of(file.commit("10.0.0.1")), datetime.now(UTC)
        assert received is not None
        return ReceivedInstance(received, "1.2.3", "1.2", "1.2.840.10008.1.2", "1.2", "1.2.1", size, now, "A", "B")

    return _instance_of


def _put(uploader: Uploader, instance: ReceivedInstance) -> None:
    asyncio.run(uploader.put_instance(instance, KEY))


@pytest.mark.parametrize("code", ["EntityTooLarge", "KeyTooLongError"])
def test_object_that_s3_never_takes_is_told_apart(
    uploader: Uploader, instance_of: Any, fault_proxy: FaultProxy, code: str
):
    """What no repeat can change is permanent, after one request."""
    fault_proxy.fault = FaultProxy.status(400, code)
    with pytest.raises(RefusedObjectError, match=code):
        _put(uploader, instance_of(1000))
    assert 1 == len(fault_proxy.puts())


@pytest.mark.timeout(600)
def test_object_over_one_gigabyte_uploads_in_parts(
    uploader: Uploader, instance_of: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str
):
    """Parts of 8 MiB with a checksum each make one object, whole, and no part is left over."""
    instance = instance_of(LARGE_BYTES)
    _put(uploader, instance)
    parts = [request for request in fault_proxy.requests if "partNumber" in request.path]
    assert -(-LARGE_BYTES // PART_BYTES) == len(parts)
    assert all("x-amz-checksum-sha256" in request.headers for request in parts)
    digest = hashlib.sha256()
    for chunk in s3_client.get_object(Bucket=bucket, Key=KEY)["Body"].iter_chunks(1 << 20):
        digest.update(chunk)
    assert instance.file.sha256 == digest.hexdigest()
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)


def test_large_object_that_fails_leaves_no_parts(
    uploader: Uploader, instance_of: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str
):
    """Whatever part fails for good, the upload is aborted, the file stays, and the next put makes the object whole."""
    instance = instance_of(64 * (1 << 20) + 1)
    fault_proxy.faults.extend([lambda _: False] * 3 + [FaultProxy.status(403, "AccessDenied")])
    with pytest.raises(BaseError, match="AccessDenied"):
        _put(uploader, instance)
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in s3_client.list_objects_v2(Bucket=bucket)
    assert instance.file.path.exists()
    fault_proxy.faults.clear()
    _put(uploader, instance)
    assert instance.bytes == s3_client.head_object(Bucket=bucket, Key=KEY)["ContentLength"]


def test_fetch_of_an_object_that_may_not_be_listed_finds_nothing(uploader: Uploader, fault_proxy: FaultProxy):
    """S3 answers 403 for what is not there to an edge that may not list the bucket; anything else is a failure."""
    fault_proxy.faults.append(FaultProxy.status(403, "AccessDenied"))
    assert asyncio.run(uploader.fetch("feedback/edge/delivery.json")) is None
    assert asyncio.run(uploader.fetch("feedback/edge/delivery.json")) is None  # 404, with the right to list


@pytest.mark.parametrize("size", [1000, 2 << 20, (64 << 20) + 1])
def test_store_that_takes_a_request_and_never_answers_is_given_up_in_time(
    uploader: Uploader, instance_of: Any, fault_proxy: FaultProxy, size: int
):
    """Small, larger or in parts: the put ends with the reason, and the next one works."""
    fault_proxy.fault = FaultProxy.hang
    with pytest.raises(TimeoutError, match=r"within 1 s|for 1 s"):
        asyncio.run(uploader.put_instance(instance := instance_of(size), KEY, 1.0))
    fault_proxy.fault = None
    asyncio.run(uploader.put_instance(instance, KEY, 30.0))


def test_large_object_has_its_time_anew_with_each_part(uploader: Uploader, instance_of: Any, fault_proxy: FaultProxy):
    """What gets on is not given up, however long it takes in all, and each part is told of."""
    moved: list[None] = []
    for limit_seconds in (1.5, 6.0, 24.0):  # a machine that stands still for one try has more time in the next
        moved.clear()
        # A first and a last request, and nine parts of which four go at once: in all 1.25 times the limit.
        fault_proxy.fault = FaultProxy.pause(limit_seconds / 4)
        put = uploader.put_instance(instance_of((64 << 20) + 1), KEY, limit_seconds, lambda: moved.append(None))
        with contextlib.suppress(TimeoutError):
            asyncio.run(put)
            break
    else:
        pytest.fail("given up although it got on")
    assert 8 <= len(moved)


@pytest.mark.parametrize("ask", ["fetch", "note", "manifest", "head"])
def test_small_request_that_is_not_answered_is_given_up(
    uploader: Uploader, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, ask: str
):
    """Feedback, heartbeats and manifests wait no quarter of an hour, and a question not answered is a no."""
    monkeypatch.setattr("dicomflow.edge.deliver.uploader._ASK_SECONDS", 0.5)
    fault_proxy.fault = FaultProxy.hang
    known = LedgerEntry("1.2.3", "0" * 64, "", "", "", "", 1, "", "", "", "", "", "d1", KEY)
    if ask == "head":
        assert not asyncio.run(uploader.is_stored(known))
        return
    calls = {
        "fetch": lambda: uploader.fetch("feedback/edge/d1.json"),
        "note": lambda: uploader.put_note("status/edge.json", b"{}"),
        "manifest": lambda: uploader.put_manifest("manifests/edge/d1.json", b"{}", {}, 0.5),
    }
    with pytest.raises(TimeoutError):
        asyncio.run(calls[ask]())
