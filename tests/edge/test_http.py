"""Health and metrics of a running edge."""

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from volumes import mounted
from waiting import WAIT_SECONDS

from dicomflow.edge import http as http_module
from dicomflow.edge.http import EdgeHttp
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.view import free_bytes
from dicomflow.edge.supervisor import Supervisor
from dicomflow.logs import LogSettings

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
        status, text = edge.get("/readyz")
        return bool(status == 503 and text.startswith("not ready\n") and "does not run" in text)

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
    others = ("dicomflow_spool_full", "dicomflow_spool_unreadable", "dicomflow_delivery_set_aside")
    assert [0, 0, 0] == [families[name].samples[0].value for name in others]


def test_readiness_is_503_and_metrics_tell_while_the_volume_is_full(edge_with: Any, until: Any):
    """Where images are refused for want of space, a balancer and an alarm hear of it, and the log does."""
    edge = edge_with(spool={"slow_below_bytes": 1 << 60, "refuse_below_bytes": 1 << 60})
    edge.launch()
    until(lambda: edge.http_port, explain=edge.tail)
    status, text = edge.get("/readyz")
    assert (503, "not ready: free space is below spool.refuse_below_bytes") == (status, text.splitlines()[0])
    assert 200 == edge.get("/healthz")[0]
    assert "dicomflow_spool_full 1.0" in edge.get("/metrics")[1].splitlines()
    until(lambda: "ERROR dicomflow.edge.spool.space spool_full" in edge.log.read_text())


def test_readiness_is_503_while_a_volume_has_no_room_above_no_watermark(
    tmp_path: Path, edge_with: Any, scu_with: Any, data_set: Any, until: Any
):
    """With `refuse_below_bytes` 0 too: by free space, and by an image that found none, as on a volume with a quota."""
    with mounted(tmp_path / "volume", "32m") as volume:
        spool = {"dir": str(volume / "spool"), "workers": 1, "segment_bytes": 0, "spare_bytes": 0}
        edge = edge_with(spool=spool).start()
        wanted = "not ready: the spool's volume has no room for images\n"
        filler = volume / "filler"

        def fill(left: int = 0) -> None:
            """Leave so many bytes free, at the most: what the deliverer gives up for its own notes is filled too."""
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                file.write(bytes(max(0, free_bytes(volume) - left)))

        def is_refused() -> bool:
            fill()
            status, text = edge.get("/readyz")
            return (503, True) == (status, text.startswith(wanted))

        until(is_refused)
        filler.unlink()
        until(lambda: edge.get("/readyz") == (200, "ready\n"))
        fill(3 << 20)
        scu = scu_with(edge.port)
        scu.associate()
        assert 0xA700 == scu.store(data_set(pixels=bytes(12 << 20))).status
        assert free_bytes(volume) > 2 << 20
        status, text = edge.get("/readyz")
        assert (503, True) == (status, text.startswith(wanted))
        assert "dicomflow_spool_full 1.0" in edge.get("/metrics")[1].splitlines()
        edge.process.terminate()
        edge.process.wait(WAIT_SECONDS)


def test_readiness_is_503_while_no_place_is_left(edge_with: Any, scu_with: Any, until: Any):
    """Peers that only stay hold all places: it says so, and what frees them; the metric counts them."""
    edge = edge_with(dimse={"port": 0, "bind": "127.0.0.1", "max_associations": 2, "idle_seconds": 77}).start()
    scus = [scu_with(edge.port) for _ in range(2)]
    for scu in scus:
        scu.associate()
    expected = (
        "all 2 associations are open, and others are rejected until one ends; one that is silent is cut after 77 s"
    )
    assert (503, f"not ready\n{expected}\n") == edge.get("/readyz")
    assert "dicomflow_associations_open 2.0" in edge.get("/metrics")[1].splitlines()
    scus[0].release()
    until(lambda: edge.get("/readyz")[0] == 200)


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
    until(lambda: edge.get("/readyz")[0] == 200 and values()["dicomflow_child_restarts"] == 3, explain=edge.tail)
    assert expected.items() <= values().items()


def test_metrics_show_what_waits_and_the_forecast(edge: Any, until: Any):
    """The deliverer's progress is in the metrics: an edge that received nothing is level."""

    def lines() -> set[str]:
        return set(edge.get("/metrics")[1].splitlines())

    until(lambda: "dicomflow_delivery_level_in_seconds 0.0" in lines(), explain=lambda: edge.get("/metrics")[1])
    assert "dicomflow_delivery_waiting_bytes 0.0" in lines()


def idle_http(folder: Path) -> EdgeHttp:
    """Serve the health of an edge that was not started."""
    settings = EdgeSettings(
        name="site-1", spool=SpoolSettings(dir=folder), delivery=DeliverySettings(store_url="file:///unused")
    )
    return EdgeHttp(Supervisor(settings, LogSettings("INFO", as_json=False)), "127.0.0.1", 0)


def test_http_port_serves_while_thousands_hold_half_a_request(tmp_path: Path):
    """The newest is served at once, however many wait, and no more threads are kept than there are places."""
    http = idle_http(tmp_path)
    with contextlib.ExitStack() as opened:
        for _ in range(300):
            half = opened.enter_context(socket.create_connection(("127.0.0.1", http.port), timeout=WAIT_SECONDS))
            half.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", http.port), timeout=WAIT_SECONDS) as asking:
                asking.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert asking.makefile("rb").read().endswith(b"ok\n")
        deadline = time.monotonic() + WAIT_SECONDS
        while sum("process_request" in thread.name for thread in threading.enumerate()) > 33:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    http.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nX: y\r\n"], ids=["none", "half", "all but one"]
)
def test_http_request_that_drips_is_cut_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes):
    """The time is for the request as a whole, however its bytes come."""
    monkeypatch.setattr(http_module, "_REQUEST_SECONDS", 0.3)
    http = idle_http(tmp_path)
    with socket.create_connection(("127.0.0.1", http.port), timeout=WAIT_SECONDS) as dripping:
        started = time.monotonic()
        dripping.sendall(sent)
        dripping.settimeout(0.05)
        while time.monotonic() - started < WAIT_SECONDS:
            try:
                dripping.sendall(b"x")
                if not dripping.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.2 <= time.monotonic() - started < 5
    http.close()
