"""An edge that receives at a steady rate loses its store for a while: the forecast of the way back comes true.

`DICOMFLOW_TEST_CUTOFF_SECONDS` sets for how long: 4 by default, at 20 instances a second; from a minute on, at 60.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_proxy import FaultProxy

from dicomflow.edge.progress import read_progress

CUTOFF_SECONDS = float(os.environ.get("DICOMFLOW_TEST_CUTOFF_SECONDS", "4"))
INSTANCES_PER_SECOND = 60 if CUTOFF_SECONDS >= 60 else 20
# What the line carries, against what arrives.
LINE_PER_ARRIVAL = 3
PIXELS = b"x" * 8192
# Without the store for so long before, so that the deliverer has seen what the line carries.
REHEARSAL_SECONDS = 2
# What arrives between two looks of the deliverer, and what is in flight: an edge with no more waiting is level.
LEVEL_INSTANCES = 10 + INSTANCES_PER_SECOND // 5
# A try that was under way when the store came back may fail still, and the next one comes a pause later: no longer than
# the outage was, and at most a minute.
PAUSE_SECONDS = min(CUTOFF_SECONDS, 60)
# What a few seconds show of a line is rough.
FORECAST_TOLERANCE = 0.3 if CUTOFF_SECONDS >= 60 else 2.0
WAIT_SECONDS = 120 + 3 * CUTOFF_SECONDS
TRIES = 1 if CUTOFF_SECONDS >= 60 else 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 4 * CUTOFF_SECONDS)]


class Stream:
    """A modality that sends at a steady rate over one association, until it is told to stop."""

    def __init__(self, scu: Any, data_set: Callable[..., bytes]) -> None:
        self.sent = 0
        self.refused = 0
        self._scu = scu
        self._data_set = data_set
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Release the association."""
        self._stopping.set()
        self._thread.join(WAIT_SECONDS)

    def _send(self) -> None:
        self._scu.associate()
        next_at = time.monotonic()
        while not self._stopping.wait(max(0.0, next_at - time.monotonic())):
            uid = f"1.2.3.{self.sent}"
            answer = self._scu.store(self._data_set(uid, pixels=PIXELS), affected_sop_instance_uid=uid.encode())
            self.refused += answer.status != 0
            self.sent += 1
            next_at += 1 / INSTANCES_PER_SECOND
        self._scu.release()


@pytest.fixture
def stream(edge: Any, scu_with: Callable[..., Any], data_set: Callable[..., bytes]) -> Iterator[Stream]:
    """Give a modality that sends to the edge."""
    started = Stream(scu_with(edge.port), data_set)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def s3_endpoint(disk_s3_endpoint: str) -> str:
    """Use the server that keeps its objects on disk."""
    return disk_s3_endpoint


@pytest.fixture
def edge(edge_with: Callable[..., Any], aws_environment: Any, fault_proxy: FaultProxy, bucket: str, part10: Any) -> Any:
    """Give a running edge with a bucket behind a proxy and a line that carries three times what arrives."""
    line = LINE_PER_ARRIVAL * INSTANCES_PER_SECOND * len(part10("1.2.3.100", pixels=PIXELS))
    delivery = {"store_url": f"s3://{bucket}", "endpoint": fault_proxy.url, "max_bytes_per_second": line}
    return edge_with(delivery=delivery).start()


def test_edge_that_was_cut_off_is_level_when_the_forecast_said(
    edge: Any, stream: Stream, fault_proxy: FaultProxy, until: Callable[..., Any]
):
    """At 60 instances a second the store goes and comes back; what `status` says then is when the edge is level.

    An outage lasts until as many wait as arrive in its time. In the short form the forecast may come true in any of
    some outages: a line that a busy machine held up for a moment is taken for a slow one.
    """

    def _progress() -> Any:
        return read_progress(edge.spool.root) or {"waiting_files": 0, "level_in_seconds": None, "store": ""}

    def _is_level() -> bool:
        return bool(_progress()["waiting_files"] <= LEVEL_INSTANCES)

    def _cut_off(seconds: float) -> tuple[float, float]:
        """Return the forecast as the store comes back, and how long it takes then."""
        until(_is_level, WAIT_SECONDS, edge.tail)
        fault_proxy.refuse()
        until(lambda: _progress()["waiting_files"] > seconds * INSTANCES_PER_SECOND, WAIT_SECONDS, edge.tail)
        forecast = until(lambda: _progress()["level_in_seconds"], WAIT_SECONDS, edge.tail)
        waiting = _progress()["waiting_files"]
        fault_proxy.accept()
        back_at = time.monotonic()
        until(_is_level, WAIT_SECONDS, edge.tail)
        seen = time.monotonic() - back_at
        print(f"cut off {seconds:.0f} s: {waiting} waited, level in {seen:.1f} s, forecast {forecast:.1f} s")  # noqa: T201  # the figures
        return forecast, seen

    _cut_off(REHEARSAL_SECONDS)
    for _ in range(TRIES):
        forecast, seen = _cut_off(CUTOFF_SECONDS)
        expected = pytest.approx(seen, rel=FORECAST_TOLERANCE, abs=3 + PAUSE_SECONDS)
        if forecast == expected:
            break
    stream.stop()
    assert 0 == stream.refused
    assert forecast == expected
