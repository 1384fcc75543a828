"""The deliverer before an S3 that fails: puts are repeated until the object is there, and nothing leaves the spool."""

import asyncio
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import obstore
import pytest
from fault_proxy import FaultProxy

from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.view import count_files
from dicomflow.edge.stores import build_store

Site = Any  # conftest's

# Our own repeats are what is tested: obstore gives up after three retries of 5xx and lost connections.
MORE_THAN_OBSTORE_RETRIES = 5
OF_A_DELIVERY = re.compile(r"\.dcm$|/manifests/")


class Failing:
    """Fails the first so many requests for each of a delivery's objects, and notes the files that were kept then."""

    def __init__(self, fault: Callable[[Any], bool], times: int, site: Site) -> None:
        self.kept: set[int] = set()
        self._fault = fault
        self._times = times
        self._site = site
        self._failed: dict[str, int] = {}

    def __call__(self, handler: Any) -> bool:
        """Fail, or let the request pass."""
        failed = self._failed.get(handler.path, 0)
        if not OF_A_DELIVERY.search(handler.path) or failed >= self._times:
            return False
        self._failed[handler.path] = failed + 1
        self.kept.add(len(list(self._site.spool.delivering.glob("*/*.dcm"))))
        return self._fault(handler)


@pytest.fixture
def s3_site(site: Site, aws_environment: Any, fault_proxy: FaultProxy, bucket: str) -> Site:
    """Give a site that delivers to a bucket behind a proxy that can fail."""
    settings = DeliverySettings(store_url=f"s3://{bucket}", endpoint=fault_proxy.url)
    site.uploader_with = lambda: Uploader(lambda: build_store(settings), None)
    return site


@pytest.fixture
def stored(s3_client: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Read all that the bucket holds of deliveries."""

    def _stored() -> dict[str, bytes]:
        listed = [each["Key"] for each in s3_client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        keys = [key for key in listed if OF_A_DELIVERY.search(f"/{key}")]
        return {key: s3_client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return _stored


def _of_a_delivery(proxy: FaultProxy) -> list[str]:
    return [path for path in proxy.puts() if OF_A_DELIVERY.search(path)]


def _failures(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if "put_failed" in record.getMessage()]


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
def test_failed_upload_keeps_the_file(
    s3_site: Site, part10: Any, fault_proxy: FaultProxy, stored: Any, fault: Any, caplog: Any
):
    """After any number of failures of a kind object and manifest are there once and whole; till then the file is."""
    fault_proxy.fault = failing = Failing(fault, MORE_THAN_OBSTORE_RETRIES, s3_site)
    s3_site.receive("1.2.1")
    s3_site.spool.associations.note_end("a1", "released")
    s3_site.run(s3_site.is_empty)
    instance, manifest = sorted(stored().items(), key=lambda item: item[0].startswith("manifests/"))
    assert part10("1.2.1") == instance[1]
    assert {1} == failing.kept
    # Every try went to one of two keys, nothing was left under a third, and the manifest came last.
    puts = _of_a_delivery(fault_proxy)
    assert [instance[0], manifest[0]] == [path.split("/", 2)[2] for path in dict.fromkeys(puts)]
    assert 2 * MORE_THAN_OBSTORE_RETRIES < len(puts)
    assert 2 <= len(_failures(caplog))


def test_refused_connections_are_tried_until_the_store_is_back(
    s3_site: Site, part10: Any, fault_proxy: FaultProxy, stored: Any, caplog: Any
):
    """A store that is not there is asked again and again; when it is back, the object arrives."""
    fault_proxy.refuse()
    s3_site.receive("1.2.1")
    s3_site.spool.associations.note_end("a1", "released")

    def _is_over() -> bool:
        if len(_failures(caplog)) >= 2 and fault_proxy.is_refusing:
            assert {} == stored()
            assert 1 == len(list(s3_site.spool.delivering.glob("*/*.dcm")))
            fault_proxy.accept()
        return bool(s3_site.is_empty())

    s3_site.run(_is_over)
    assert part10("1.2.1") in stored().values()


def test_slow_store_is_waited_for(s3_site: Site, part10: Any, fault_proxy: FaultProxy, stored: Any, caplog: Any):
    """A slow line is no failure: one put, and no line in the log."""
    pixels = bytes(64 << 10)
    fault_proxy.fault = FaultProxy.slow(64 << 10)
    s3_site.receive("1.2.1", pixels=pixels)
    s3_site.spool.associations.note_end("a1", "released")
    s3_site.run(s3_site.is_empty)
    assert part10("1.2.1", pixels=pixels) in stored().values()
    assert 2 == len(_of_a_delivery(fault_proxy))
    assert [] == _failures(caplog)


def test_transient_error_backs_off(s3_site: Site, fault_proxy: FaultProxy, caplog: Any):
    """What the store asks to slow down is met with a pause for the first failure and a longer one for the second."""
    fault_proxy.fault = Failing(FaultProxy.status(503, "SlowDown"), 2 * MORE_THAN_OBSTORE_RETRIES, s3_site)
    s3_site.receive("1.2.1")
    s3_site.run(lambda: s3_site.announced)
    assert ["1", "2"] == [re.findall(r"attempt=(\d+)", line)[0] for line in _failures(caplog)]


def test_failures_name_the_cause_and_no_more_than_a_line(s3_site: Site, fault_proxy: FaultProxy, caplog: Any):
    """The log says what the store answered."""
    fault_proxy.fault = Failing(FaultProxy.status(403, "AccessDenied"), 1, s3_site)
    s3_site.receive("1.2.1")
    s3_site.run(lambda: s3_site.announced)
    (line,) = _failures(caplog)
    assert "403" in line
    assert "\n" not in line


def test_memory_of_a_failed_payload_is_released(
    site: Site, flaky_store: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """While twenty megabytes wait for a store that fails, a try holds its own object, and nothing is held between."""
    size = 1 << 20
    for number in range(20):
        site.receive(f"1.2.{number}", pixels=bytes(size))
    flaky_store(monkeypatch, lambda _key: True)
    site.run(lambda: len(_failures(caplog)) >= 3)  # what is loaded once is loaded
    caplog.clear()
    held: list[tuple[int, int]] = []

    def _is_enough() -> bool:
        if len(_failures(caplog)) >= 30 and not held:
            held.append(tracemalloc.get_traced_memory())
        return bool(held)

    tracemalloc.start()
    try:
        site.run(_is_enough, concurrency=2)
    finally:
        tracemalloc.stop()
    ((now, peak),) = held
    assert now < 2 * size
    assert peak < 6 * size  # of twenty


def test_upload_queue_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Of objects that wait for a store that hangs, no more than `concurrency` are in memory."""
    size, in_flight = 1 << 20, []

    async def _hang(_store: Any, key: str, content: Any, **_keywords: Any) -> None:
        if key.endswith(".dcm"):
            in_flight.append(content)
        await asyncio.sleep(3600)

    monkeypatch.setattr(obstore, "put_async", _hang)
    for number in range(20):
        site.receive(f"1.2.{number}", pixels=bytes(size))
    tracemalloc.start()
    try:
        site.run(lambda: len(in_flight) == 3 and not any(site.spool.scan_received()), concurrency=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 20 == count_files(site.spool.root)["delivering"]
    assert 3 == len(in_flight)
    assert peak < 8 * size
