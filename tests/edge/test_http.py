"""Health and metrics of a running edge."""

import signal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families


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
    import os

    os.kill(edge.children()[0], signal.SIGKILL)
    until(lambda: edge.get("/readyz") == (503, "not ready\n"))
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
