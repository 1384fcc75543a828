"""Puts to an S3 that fails: each is repeated until the object is there, and nothing leaves the spool."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fault_proxy import FaultProxy

from dicomflow.edge import uploader as uploader_module
from dicomflow.edge.delivery import ReceivedInstance
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.stores import build_store
from dicomflow.edge.uploader import Uploader, retry

CONTENT = bytes(range(256)) * 400
KEY = "site/d1/1.2/1.2.1/1.2.3.dcm"
MANIFEST_KEY = "manifests/site/d1.json"
# Our own retry loop is what is tested: obstore gives up after three retries of 5xx and lost connections.
MORE_THAN_OBSTORE_RETRIES = 5


@pytest.fixture
def uploader(
    aws_environment: pytest.MonkeyPatch, fault_proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Uploader:
    """Give an uploader to a bucket behind a proxy that can fail, with short pauses."""
    monkeypatch.setattr(uploader_module, "_FIRST_PAUSE_SECONDS", 0.01)
    return Uploader(build_store(DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url)), None)


@pytest.fixture
def instance(spool: Spool) -> ReceivedInstance:
    """Give an instance in the spool."""
    file = spool.create("a1", 0)
    file.write([CONTENT])
    received, now = file.commit("10.0.0.1"), datetime.now(UTC)
    return ReceivedInstance(received, "1.2.3", "1.2", "1.2.840.10008.1.2", "1.2", "1.2.1", len(CONTENT), now, "A", "B")


@pytest.fixture
def stored(s3_client: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Read everything that the bucket holds."""

    def _stored() -> dict[str, bytes]:
        listed = s3_client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {each["Key"]: s3_client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed}

    return _stored


def _put(uploader: Uploader, instance: ReceivedInstance) -> None:
    asyncio.run(retry("put", lambda: uploader.put_instance(instance, KEY)))


def _put_manifest(uploader: Uploader) -> None:
    asyncio.run(retry("put", lambda: uploader.put_manifest(MANIFEST_KEY, b"{}", {KEY: len(CONTENT)})))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(FaultProxy.status(403, "AccessDenied"), id="403"),
        pytest.param(FaultProxy.status(403, "RequestTimeTooSkewed"), id="clock-skew"),
        pytest.param(FaultProxy.status(400, "ExpiredToken"), id="expired-token"),
        pytest.param(FaultProxy.status(404, "NoSuchBucket"), id="bucket-gone"),
        pytest.param(FaultProxy.status(429, "TooManyRequests"), id="429"),
        pytest.param(FaultProxy.status(500, "InternalError"), id="500"),
        pytest.param(FaultProxy.status(503, "SlowDown"), id="slow-down"),
        pytest.param(FaultProxy.reset_in_body, id="reset-in-body"),
        pytest.param(FaultProxy.truncate_answer, id="truncated-answer"),
        pytest.param(FaultProxy.lose_answer, id="lost-answer"),
    ],
)
@pytest.mark.parametrize("is_manifest", [False, True], ids=["instance", "manifest"])
def test_failed_upload_keeps_the_file(
    uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy, stored: Any, fault: Any, is_manifest: Any
):
    """After any number of failures of a kind the object is there once and whole, and the file still in the spool."""
    fault_proxy.faults.extend([fault] * MORE_THAN_OBSTORE_RETRIES)
    if is_manifest:
        _put_manifest(uploader)
    else:
        _put(uploader, instance)
    assert ({MANIFEST_KEY: b"{}"} if is_manifest else {KEY: CONTENT}) == stored()
    assert MORE_THAN_OBSTORE_RETRIES < len(fault_proxy.puts())
    assert instance.file.sha256 == hashlib.sha256(instance.file.path.read_bytes()).hexdigest()


def test_retry_gives_the_same_key(uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy):
    """Every try goes to one key: nothing is orphaned under another."""
    fault_proxy.faults.extend([FaultProxy.lose_answer, FaultProxy.status(500, "InternalError")])
    _put(uploader, instance)
    assert 1 == len(set(fault_proxy.puts()))
    assert fault_proxy.puts()[0].endswith(KEY)


def test_refused_connections_are_tried_until_the_store_is_back(
    uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy, stored: Any, caplog: Any, until: Any
):
    """A store that is not there is asked again and again; when it is back, the object arrives."""
    fault_proxy.refuse()
    putting = threading.Thread(target=_put, args=(uploader, instance))
    putting.start()
    until(lambda: sum("put_failed" in record.getMessage() for record in caplog.records) >= 2)
    assert {} == stored()
    assert instance.file.path.exists()
    fault_proxy.accept()
    putting.join(60)
    assert {KEY: CONTENT} == stored()


def test_slow_store_is_waited_for(
    uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy, stored: Any, caplog: Any
):
    """A slow line is no failure: one put, and no line in the log."""
    fault_proxy.fault = FaultProxy.slow(64 << 10)
    _put(uploader, instance)
    assert {KEY: CONTENT} == stored()
    assert 1 == len(fault_proxy.puts())
    assert "put_failed" not in caplog.text


def test_transient_error_backs_off(
    uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    """What the store asks to slow down is met with the pauses of the one after the other attempt, not at once."""
    attempts: list[int] = []
    monkeypatch.setattr(uploader_module, "backoff_seconds", lambda attempt: attempts.append(attempt) or 0.0)
    fault_proxy.faults.extend([FaultProxy.status(503, "SlowDown")] * 2 * MORE_THAN_OBSTORE_RETRIES)
    _put(uploader, instance)
    assert [1, 2] == attempts


def test_failures_name_the_cause_and_no_more_than_a_line(
    uploader: Uploader, instance: ReceivedInstance, fault_proxy: FaultProxy, caplog: Any
):
    """The log says what the store answered."""
    fault_proxy.faults.append(FaultProxy.status(403, "AccessDenied"))
    _put(uploader, instance)
    (line,) = [record.getMessage() for record in caplog.records if "put_failed" in record.getMessage()]
    assert "403" in line
    assert "\n" not in line


def test_fetch_of_an_object_that_may_not_be_listed_finds_nothing(uploader: Uploader, fault_proxy: FaultProxy):
    """S3 answers 403 for what is not there to an edge that may not list the bucket; anything else is a failure."""
    fault_proxy.faults.append(FaultProxy.status(403, "AccessDenied"))
    assert asyncio.run(uploader.fetch("feedback/edge/delivery.json")) is None
    assert asyncio.run(uploader.fetch("feedback/edge/delivery.json")) is None  # 404, with the right to list
