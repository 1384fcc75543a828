"""What delivery relies on in S3 alone: checksums, parts, conditions, and nothing left over."""

import asyncio
import base64
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import obstore
import pytest
from fault_proxy import FaultProxy
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.stores import build_store

KEY = "site-1/0b8f0f6e-0d5c-4c1e-9d43-2f4f3f5a6b7c/1.2.3/1.2.3.1/1.2.3.1.7.dcm"
PART_BYTES = 5 << 20


@pytest.fixture
def store(aws_environment: Any, bucket: str, fault_proxy: FaultProxy) -> ObjectStore:
    """Give a bucket behind a proxy that can fail."""
    return build_store(DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Give a file of three parts."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 * PART_BYTES + 17))
    return path


def _put(store: ObjectStore, content: bytes | Path) -> None:
    is_file = isinstance(content, Path)

    async def _run() -> None:
        await obstore.put_async(store, KEY, content, use_multipart=is_file, chunk_size=PART_BYTES, max_concurrency=2)

    asyncio.run(_run())


def test_each_part_carries_its_checksum(store: ObjectStore, fault_proxy: FaultProxy, large: Path):
    """So that a part that was changed on its way is refused."""
    _put(store, large)
    content = large.read_bytes()
    parts = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    wanted = {base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts}
    puts = [request for request in fault_proxy.requests if "partNumber" in request.path]
    assert wanted == {request.headers["x-amz-checksum-sha256"] for request in puts}
    assert content == bytes(obstore.get(store, KEY).bytes())


def test_part_that_fails_for_a_moment_is_put_again(store: ObjectStore, fault_proxy: FaultProxy, large: Path):
    """A slow-down in the middle costs one part, not the object."""
    fault_proxy.faults.extend([lambda _: False, FaultProxy.status(503, "SlowDown"), FaultProxy.reset_in_body])
    _put(store, large)
    assert large.read_bytes() == bytes(obstore.get(store, KEY).bytes())
    assert 5 == len([path for path in fault_proxy.puts() if "partNumber" in path])


def test_lost_answer_of_the_last_step_ends_in_the_object(store: ObjectStore, fault_proxy: FaultProxy, large: Path):
    """When the answer to "complete" is lost, the object is whole, or its upload is repeated."""
    fault_proxy.faults.extend([lambda _: False] * 4 + [FaultProxy.lose_answer])
    with contextlib.suppress(BaseError, FileNotFoundError):
        _put(store, large)
    _put(store, large)
    assert large.read_bytes() == bytes(obstore.get(store, KEY).bytes())


def test_aborted_multipart_is_cleaned_up(
    store: ObjectStore, fault_proxy: FaultProxy, large: Path, s3_client: Any, bucket: str
):
    """An upload that fails leaves no object and no parts that somebody pays for."""
    fault_proxy.faults.extend([lambda _: False, lambda _: False, FaultProxy.status(400, "BadDigest")])
    with pytest.raises(BaseError, match="BadDigest"):
        _put(store, large)
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in s3_client.list_objects_v2(Bucket=bucket)


def test_conditional_put_conflict_with_our_own_bytes_is_success(
    store: ObjectStore, fault_proxy: FaultProxy, s3_client: Any, bucket: str
):
    """A put whose answer was lost is repeated without a condition, so our own object is no conflict."""
    fault_proxy.faults.append(FaultProxy.lose_answer)
    _put(store, b"content")
    assert 2 == len(fault_proxy.puts())
    assert "if-none-match" not in fault_proxy.requests[-1].headers
    assert b"content" == s3_client.get_object(Bucket=bucket, Key=KEY)["Body"].read()


def test_create_after_a_lost_answer_tells_of_the_conflict(store: ObjectStore, fault_proxy: FaultProxy):
    """With a condition the repeat meets the object of the first try: why deliveries put without one."""
    fault_proxy.faults.append(FaultProxy.lose_answer)
    with contextlib.suppress(BaseError):
        obstore.put(store, KEY, b"content", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, KEY, b"content", mode="create")
