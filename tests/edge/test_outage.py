"""An edge whose store fails in every way, and which is killed meanwhile: in the end all is there, once.

`DICOMFLOW_TEST_OUTAGE_INSTANCES` sets how many instances are sent; 200 by default.
"""

import hashlib
import os
import signal
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from fault_proxy import FaultProxy

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.spool.view import count_files

INSTANCES = int(os.environ.get("DICOMFLOW_TEST_OUTAGE_INSTANCES", "200"))
STUDIES = 4
WAIT_SECONDS = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def s3_endpoint(disk_s3_endpoint: str) -> str:
    """Use the server that keeps its objects on disk."""
    return disk_s3_endpoint


@pytest.fixture
def edge(edge_with: Callable[..., Any], aws_environment: Any, fault_proxy: FaultProxy, bucket: str) -> Any:
    """Give an edge that delivers to a bucket behind a proxy that can fail, not started."""
    return edge_with(delivery={"store_url": f"s3://{bucket}", "endpoint": fault_proxy.url, "quiet_seconds": 0.5})


@pytest.fixture
def send(edge: Any, scu_with: Callable[..., Any], data_set: Callable[..., bytes]) -> Callable[[int, int], None]:
    """Send instances by number over one association; each must be answered Success."""

    def _send(first: int, end: int) -> None:
        scu = scu_with(edge.port)
        scu.associate()
        for number in range(first, end):
            uid = f"1.2.3.{number}"
            study = f"1.9.{number % STUDIES}"
            encoded = data_set(uid, study_instance_uid=study, series_instance_uid=f"{study}.1", pixels=_pixels(number))
            assert 0 == scu.store(encoded, affected_sop_instance_uid=uid.encode()).status
        scu.release()

    return _send


def _pixels(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * 64


def _is_drained(edge: Any) -> bool:
    counts = count_files(edge.spool.root)
    return not counts["received"] and not any(edge.spool.delivering.iterdir())


def _objects(s3_client: Any, bucket: str) -> dict[str, bytes]:
    pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {key: s3_client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_day_long_outage_loses_nothing_and_resumes(
    edge: Any, send: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str, until: Callable[..., Any]
):
    """Over an outage, a kill, a restart and a store that stumbles: every object once, whole, before its manifest."""
    steps = [INSTANCES * quarter // 4 for quarter in range(5)]
    edge.start()
    send(steps[0], steps[1])
    fault_proxy.refuse()
    send(steps[1], steps[2])
    os.killpg(edge.process.pid, signal.SIGKILL)
    edge.process.wait(WAIT_SECONDS)
    edge.start()
    send(steps[2], steps[3])
    assert not _is_drained(edge)
    stumbling = [
        FaultProxy.status(503, "SlowDown"),
        FaultProxy.reset_in_body,
        FaultProxy.lose_answer,
        FaultProxy.truncate_answer,
        FaultProxy.status(403, "RequestTimeTooSkewed"),
        FaultProxy.status(500, "InternalError"),
    ]
    fault_proxy.faults.extend(stumbling * 4)
    fault_proxy.accept()
    send(steps[3], steps[4])
    until(lambda: _is_drained(edge), WAIT_SECONDS, edge.tail)

    objects = _objects(s3_client, bucket)
    _check_all_present_once(objects)
    _check_manifests(objects)
    _check_manifests_came_last(fault_proxy.puts())
    assert not any(edge.spool.quarantined.rglob("*.dcm"))


def test_cloud_unreachable_at_start_is_retried(
    edge: Any, send: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str, until: Callable[..., Any]
):
    """An edge starts and receives without the cloud, and delivers when it is there."""
    fault_proxy.refuse()
    edge.start()
    send(0, 10)
    fault_proxy.accept()
    until(lambda: _is_drained(edge), WAIT_SECONDS, edge.tail)
    assert 10 == sum(key.endswith(".dcm") for key in _objects(s3_client, bucket))


def test_restart_requeues_what_was_acknowledged_but_not_uploaded(
    edge: Any, send: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str, until: Callable[..., Any]
):
    """What an ended edge left in its spool is delivered by the next one, without anything new arriving."""
    fault_proxy.refuse()
    edge.start()
    send(0, 10)
    edge.process.terminate()
    edge.process.wait(WAIT_SECONDS)
    assert not _is_drained(edge)
    fault_proxy.accept()
    edge.start()
    until(lambda: _is_drained(edge), WAIT_SECONDS, edge.tail)
    objects = _objects(s3_client, bucket)
    assert 10 == sum(key.endswith(".dcm") for key in objects)
    _check_manifests(objects)


def test_wrong_bucket_stops_the_first_start(edge_with: Callable[..., Any], aws_environment: Any, s3_endpoint: str):
    """A misspelt bucket is found at installation, with a text that says what to do and a failing exit code."""
    edge = edge_with(delivery={"store_url": "s3://no-such-bucket", "endpoint": s3_endpoint})
    edge.launch()
    assert 0 != edge.process.wait(WAIT_SECONDS)
    assert "NoSuchBucket; make the bucket, or correct delivery.store_url" in " ".join(edge.tail().split())


def test_refusal_at_a_later_start_stops_nothing(
    edge: Any, send: Any, fault_proxy: FaultProxy, s3_client: Any, bucket: str, until: Callable[..., Any]
):
    """An edge that has delivered receives at every later start, whatever its store says, and says so in its log."""
    edge.start()
    send(0, 5)
    until(lambda: _is_drained(edge), WAIT_SECONDS, edge.tail)
    edge.process.terminate()
    edge.process.wait(WAIT_SECONDS)
    fault_proxy.fault = FaultProxy.status(403, "AccessDenied")
    edge.start()
    send(5, 10)
    until(lambda: "store_refuses" in edge.log.read_text(), WAIT_SECONDS, edge.tail)
    fault_proxy.fault = None
    until(lambda: _is_drained(edge), WAIT_SECONDS, edge.tail)
    assert 10 == sum(key.endswith(".dcm") for key in _objects(s3_client, bucket))


def _check_all_present_once(objects: dict[str, bytes]) -> None:
    by_instance = defaultdict(list)
    for key in objects:
        if key.endswith(".dcm"):
            by_instance[key.rpartition("/")[2].removesuffix(".dcm")].append(key)
    assert {f"1.2.3.{number}" for number in range(INSTANCES)} == set(by_instance)
    assert [] == [keys for keys in by_instance.values() if len(keys) > 1]
    for number in range(INSTANCES):
        (key,) = by_instance[f"1.2.3.{number}"]
        assert objects[key].endswith(_pixels(number))


def _check_manifests(objects: dict[str, bytes]) -> None:
    """Each object is in the manifest of its delivery, with its size and digest, and the manifests name no other."""
    named = {}
    for key, content in objects.items():
        if key.startswith("manifests/"):
            manifest = Manifest.from_json(content)
            for study in manifest.studies:
                for series in study.series:
                    named |= {each.key: (each.bytes, each.sha256) for each in series.instances}
    found = {
        key: (len(content), hashlib.sha256(content).hexdigest())
        for key, content in objects.items()
        if key.endswith(".dcm")
    }
    assert found == named


def _check_manifests_came_last(puts: list[str]) -> None:
    manifests = {path.rpartition("/")[2].removesuffix(".json"): at for at, path in reversed(list(enumerate(puts)))}
    for at, path in enumerate(puts):
        if path.endswith(".dcm"):
            assert at < manifests[path.split("/")[3]]
