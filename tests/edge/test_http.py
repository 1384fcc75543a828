"""Health and metrics of a running edge."""

import contextlib
import os
import signal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def edge(edge_with: Any) -> Any:
    """Give a running edge."""
    return edge_with().start()


def test_health_and_readiness_are_200_while_it_runs(edge: Any):
    """Both answer in plain text."""
    assert (200, "ok\n") == edge.get("/healthz")
    assert (200, "ready\n") == edge.get("/readyz")


def test_readiness_is_503_while_a_process_is_dead(edge: Any, until: Any):
    """A dead child makes the edge unready, not unhealthy, until it is replaced."""

    def _is_unready() -> bool:
        """Ask after a kill: each time it takes longer until the next child is started, so that one is asked in time."""
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(edge.children()[0], signal.SIGKILL)
        return bool(edge.get("/readyz") == (503, "not ready\n"))

    until(_is_unready)
    assert 200 == edge.get("/healthz")[0]
    until(lambda: edge.get("/readyz")[0] == 200)


def test_unknown_path_is_404(edge: Any):
    """What is not served is said to be so."""
    assert 404 == edge.get("/")[0]


def test_metrics_count_spool_and_workers(edge: Any):
    """Metrics parse as Prometheus text and tell what the spool holds."""
    (edge.spool.quarantined / "a.dcm").write_bytes(b"")
    families = {family.name: family for family in text_string_to_metric_families(edge.get("/metrics")[1])}
    files = {sample.labels["folder"]: sample.value for sample in families["dicomflow_spool_files"].samples}
    assert {"received": 0, "delivering": 0, "quarantined": 1} == files
    assert 2 == families["dicomflow_workers"].samples[0].value
    assert 0 < families["dicomflow_spool_free_bytes"].samples[0].value


def test_metrics_of_all_workers_are_summed_and_outlive_a_worker(edge: Any, scu_with: Any, data_set: Any, until: Any):
    """Instances, bytes, refusals, latency and associations count on when the worker that counted them dies."""
    for number in range(8):  # over both workers
        scu = scu_with(edge.port)
        scu.associate()
        uid = f"1.2.3.{number}"
        assert 0 == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
        assert 0xC000 == scu.store(data_set(study_instance_uid=None)).status
        scu.release()

    def values() -> dict[str, float]:
        families = text_string_to_metric_families(edge.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        return {f"{each.name} {' '.join(sorted(each.labels.values()))}".strip(): each.value for each in samples}

    expected = {
        "dicomflow_associations_total CT1 released": 8,
        f"dicomflow_instances_total {CT} CT1": 8,
        "dicomflow_refusals_total C000": 8,
        "dicomflow_acknowledge_seconds_count": 8,
        "dicomflow_acknowledge_seconds_bucket +Inf": 8,
    }
    until(lambda: expected.items() <= values().items(), explain=lambda: str(values()))
    assert 8 * len(data_set()) < values()[f"dicomflow_instance_bytes_total {CT} CT1"]
    for pid in edge.children():
        os.kill(pid, signal.SIGKILL)
    until(lambda: edge.get("/readyz")[0] == 200 and values()["dicomflow_child_restarts"] == 3)
    assert expected.items() <= values().items()


def test_metrics_show_what_waits_and_the_forecast(edge: Any, until: Any):
    """The deliverer's progress is in the metrics: an edge that received nothing is level."""

    def lines() -> set[str]:
        return set(edge.get("/metrics")[1].splitlines())

    until(lambda: "dicomflow_delivery_level_in_seconds 0.0" in lines(), explain=lambda: edge.get("/metrics")[1])
    assert "dicomflow_delivery_waiting_bytes 0.0" in lines()
