"""What the pipeline counts: each step once, under the names that the operations manual has."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore
from prometheus_client import CollectorRegistry, generate_latest

from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.heartbeat import Heartbeat, WaitingDestination
from dicomflow.bucket.keys import heartbeat_key, instance_key
from dicomflow.pipeline import lambdas
from dicomflow.pipeline.metrics import EmfMetrics, Name, PrometheusMetrics, after_commit, register_edges

ROOT = Path(__file__).parents[2]


class Counted:
    """A deployment whose counts are those of a registry."""

    def __init__(self, deployment: Any) -> None:
        self._registry = CollectorRegistry()
        self.deployment = deployment.variant(metrics=PrometheusMetrics(self._registry))

    def values(self) -> dict[str, float]:
        """Return each metric that is not 0, by its name in CloudWatch."""
        found = {}
        for name in Name:
            for sample in (name.prometheus, f"{name.prometheus}_total"):
                value = self._registry.get_sample_value(sample)
                if value:
                    found[name.cloudwatch] = value
        return found


@pytest.fixture
def counted(deployment: Any) -> Counted:
    """Give a deployment with the service's defaults that counts."""
    return Counted(deployment)


def test_series_that_is_imported_counts_each_step_once(counted: Counted) -> None:
    """Instances indexed, series started and completed, and a backlog that ends at 0."""
    deployment = counted.deployment
    key = deployment.deliver({"1.2.1": 2, "1.2.2": 1}, delivery="d1")
    keys = [instance_key("edge", "d1", "1.2", "1.2.1", f"1.2.1.{number}") for number in (1, 2)]
    deployment.handle("index", *map(deployment.object_event, keys))
    deployment.plan(key)
    deployment.handle("drive", "{}")
    assert {"InstancesIndexed": 2, "ImportsStarted": 2, "ImportBacklog": 2} == counted.values()
    deployment.finish()
    assert {"InstancesIndexed": 2, "ImportsStarted": 2, "ImportsCompleted": 2} == counted.values()


def test_object_that_cannot_be_read_is_counted(counted: Counted) -> None:
    """An object that is no DICOM is unreadable, not indexed."""
    counted.deployment.store.put("edge/d1/1.2/1.2.1/1.2.1.1.dcm", b"no DICOM")
    counted.deployment.handle("index", counted.deployment.object_event("edge/d1/1.2/1.2.1/1.2.1.1.dcm"))
    assert {"ObjectsUnreadable": 1} == counted.values()


def test_series_that_fails_is_counted_when_it_waits_for_an_operator(counted: Counted) -> None:
    """A series that the service refuses for good has failed, once; it was never started."""
    deployment = counted.deployment
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.faults.fail_calls("StartDICOMImportJob", "ValidationException")
    deployment.handle("drive", "{}")
    assert {"ImportsFailed": 1} == counted.values()


def test_transaction_that_fails_counts_nothing(counted: Counted) -> None:
    """What was rolled back did not happen."""

    def fail() -> None:
        with after_commit(counted.deployment.deps.metrics) as counts:
            counts[Name.IMPORTS_FAILED] += 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {} == counted.values()


def test_emf_line_has_namespace_service_and_sums(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One invocation is one line that CloudWatch understands; without counts there is none."""
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "my-stack")
    metrics = EmfMetrics()
    metrics.flush()
    metrics.count(Name.INSTANCES_INDEXED, 3)
    metrics.count(Name.INSTANCES_INDEXED, 4)
    metrics.count(Name.IMPORTS_FAILED, 0)
    metrics.backlog(5)
    metrics.backlog(0)
    metrics.flush()
    metrics.flush()
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert ("dicomflow", [["service"]], "my-stack") == (
        directive["Namespace"],
        directive["Dimensions"],
        document["service"],
    )
    assert {"InstancesIndexed", "ImportBacklog"} == {metric["Name"] for metric in directive["Metrics"]}
    assert ([7.0], [0.0]) == (document["InstancesIndexed"], document["ImportBacklog"])


def test_watch_writes_how_long_each_edge_is_silent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restore_logging: None,
) -> None:
    """A line an edge, from the heartbeats alone; what is no heartbeat is passed over."""
    store = LocalStore(tmp_path)
    _beat(store, "site-1", 400)
    _beat(store, "site-2", -30)
    store.put("status/broken.json", b"{}")
    monkeypatch.setenv("DICOMFLOW_STORE_URL", tmp_path.as_uri())
    found = lambdas.watch()
    assert ["site-1", "site-2"] == list(found)
    assert 400 <= found["site-1"] < 500
    assert 0 <= found["site-2"] < 60  # by the store, whose clock is ours
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [["edge", "service"]] * 2 == [
        sorted(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]) for line in lines
    ]
    assert [("site-1", "Seconds"), ("site-2", "Seconds")] == [
        (line["edge"], line["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"]) for line in lines
    ]


def test_watch_and_prometheus_tell_what_nightly_comparisons_lack(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restore_logging: None,
) -> None:
    """Images that are missing, and sources of which nobody knows: late, partial, or never compared."""
    store, now = LocalStore(tmp_path), datetime.now(UTC)
    _beat(store, "site-0", 1)
    lacking = ComparedSource("A", now, 40, 2, is_whole=False)
    late = ComparedSource("B", now - timedelta(days=2), 40, 0, is_whole=True)
    partial = ComparedSource("C", now, 0, 0, is_whole=False, reason="cannot connect")
    good = ComparedSource("D", now, 40, 0, is_whole=True)
    _beat(store, "site-1", 1, sources=(lacking, late), nightly=("A", "B", "NEVER"))
    _beat(store, "site-2", 1, sources=(partial, good), nightly=("C", "D"))
    monkeypatch.setenv("DICOMFLOW_STORE_URL", tmp_path.as_uri())
    lambdas.watch()
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (told,) = [each for each in documents if "ImagesMissing" in each]
    assert ([2.0], [3.0], False) == (told["ImagesMissing"], told["SourcesNotCompared"], "edge" in told)
    registry = CollectorRegistry()
    register_edges(registry, store)
    for edge, missing, not_compared in (("site-0", None, None), ("site-1", 2, 2), ("site-2", 0, 1)):
        assert missing == registry.get_sample_value("dicomflow_images_missing", {"edge": edge})
        assert not_compared == registry.get_sample_value("dicomflow_sources_not_compared", {"edge": edge})


def test_watch_and_prometheus_tell_how_long_images_wait_for_destinations(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restore_logging: None,
) -> None:
    """The longest wait of all edges, for an alarm; by edge for Prometheus."""
    store = LocalStore(tmp_path)
    _beat(store, "site-1", 1, waiting=(WaitingDestination("PACS", 3, 20_000.4), WaitingDestination("WEB", 1, 5.0)))
    _beat(store, "site-2", 1, waiting=(WaitingDestination("PACS", 1, 60.0),))
    _beat(store, "site-3", 1)
    monkeypatch.setenv("DICOMFLOW_STORE_URL", tmp_path.as_uri())
    lambdas.watch()
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (told,) = [each for each in documents if "DestinationWaitSeconds" in each]
    assert told["DestinationWaitSeconds"] == [20_000.0]
    assert told["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"] == "Seconds"
    assert "edge" not in told
    registry = CollectorRegistry()
    register_edges(registry, store)
    for edge, seconds in (("site-1", 20_000.4), ("site-2", 60.0), ("site-3", 0.0)):
        assert registry.get_sample_value("dicomflow_destination_wait_seconds", {"edge": edge}) == seconds


def test_silences_in_prometheus_grow_while_the_store_is_away(tmp_path: Path) -> None:
    """The gauge is by edge, and a store that cannot be read leaves what was known."""
    store = LocalStore(tmp_path / "objects", mkdir=True)
    _beat(store, "site-1", 100)
    registry = CollectorRegistry()
    register_edges(registry, store)
    first = registry.get_sample_value("dicomflow_edge_silent_seconds", {"edge": "site-1"})
    (tmp_path / "objects" / "status" / "site-1.json").unlink()
    second = registry.get_sample_value("dicomflow_edge_silent_seconds", {"edge": "site-1"})
    assert first is not None
    assert second is not None
    assert 100 <= first <= second


@pytest.mark.parametrize("name", Name)
def test_metric_is_documented(name: Name) -> None:
    """The operations manual has each metric under both its names."""
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    shown = {
        line.split("|")[1].strip(" `"): line.split("|")[2].strip(" `")
        for line in manual.splitlines()
        if "|" in line[:1]
    }
    assert shown[name.cloudwatch].removesuffix("_total") == name.prometheus


def test_counters_are_served_before_they_count() -> None:
    """An alarm on a rate needs the series at 0 before the first failure."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    assert b"dicomflow_imports_failed_total 0.0" in generate_latest(registry)


def _beat(store: LocalStore, edge: str, seconds_ago: float, **compared: Any) -> None:
    at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    store.put(heartbeat_key(edge), Heartbeat(edge, "1", at, "EDGE", 0, 0, 0, 1, 0.0, **compared).to_json())
