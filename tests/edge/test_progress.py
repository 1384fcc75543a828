"""What the deliverer says of itself, on a clock of the test's."""

import json
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.progress import PROGRESS_FILE, Progress, read_progress

SIZE = 1_000


class Edge:
    """An edge whose seconds the test plays: so many instances arrive and are stored in each."""

    def __init__(self, folder: Path, busy_files: int = 1) -> None:
        self.folder = folder
        self.now = 0.0
        self.waiting = 0
        self.progress = Progress(folder / PROGRESS_FILE, lambda: self.now, busy_files)

    def second(
        self, arriving: int, storing: int, *, limit: int = 0, failing: bool = False, paused: bool = False
    ) -> dict[str, Any]:
        """Play a second, each instance at its time; return the progress at its end."""
        steps = 10
        for step in range(1, steps + 1):
            for _ in range(arriving * step // steps - arriving * (step - 1) // steps):
                self.progress.arrived(SIZE)
                self.progress.queued(SIZE)
                self.waiting += 1
            for _ in range(min(self.waiting, storing * step // steps - storing * (step - 1) // steps)):
                self.progress.stored(SIZE)
                self.waiting -= 1
            self.now += 1 / steps
        if failing:
            self.progress.failed("ConnectionError: refused")
        self.progress.write(is_store_failing=failing or paused, limit=limit)
        found = read_progress(self.folder)
        assert found is not None
        return found


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    """Give an edge that is level."""
    return Edge(tmp_path)


def test_progress_counts_what_waits(edge: Edge):
    """What arrived and is neither stored nor given up waits."""
    for _ in range(3):
        edge.progress.queued(SIZE)
    edge.progress.stored(SIZE)
    edge.progress.given_up(SIZE)
    edge.progress.write(is_store_failing=False)
    found = read_progress(edge.folder)
    assert found is not None
    assert (1, SIZE) == (found["waiting_files"], found["waiting_bytes"])


def test_level_edge_is_level_in_no_time(edge: Edge):
    """With nothing waiting the forecast is zero."""
    assert 0 == [edge.second(60, 100) for _ in range(5)][-1]["level_in_seconds"]


def test_forecast_after_an_outage_comes_true(edge: Edge):
    """Two minutes cut off at 60 a second on a line for 180: the forecast is right from a few seconds on."""
    for _ in range(60):
        edge.second(60, 180)
    for _ in range(120):
        edge.second(60, 0, failing=True)
    edge.second(60, 180)
    forecasts: list[tuple[float, float]] = []
    while edge.waiting > 6:
        found = edge.second(60, 180)
        if found["level_in_seconds"] is not None:
            forecasts.append((edge.now, edge.now + found["level_in_seconds"]))
        assert edge.now < 600
    assert forecasts
    for _, level_at in forecasts[2:]:
        assert edge.now == pytest.approx(level_at, abs=6)


def test_forecast_in_an_outage_knows_the_speed_from_before(edge: Edge):
    """Cut off, the forecast counts from the store's return with the speed that was measured while something waited."""
    edge.progress.arrived(SIZE)
    for _ in range(2_000):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    for _ in range(5):
        edge.second(0, 200)
    found = [edge.second(0, 0, failing=True) for _ in range(100)][-1]
    assert 5 == pytest.approx(found["level_in_seconds"], rel=0.1)
    assert ("failing", "ConnectionError: refused") == (found["store"], found["last_error"])


def test_forecast_in_a_pause_counts_the_pause_and_what_arrives_in_it(edge: Edge):
    """Ten seconds until the next try at 60 a second are ten seconds later, and 600 instances more."""
    for _ in range(2_000):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    for _ in range(10):
        edge.second(60, 160)
    without = edge.second(60, 0)["level_in_seconds"]
    edge.progress.write(is_store_failing=True, pause_seconds=10.0)
    found = read_progress(edge.folder)
    assert found is not None
    assert without + 10 + 600 / 100 == pytest.approx(found["level_in_seconds"], rel=0.1)


def test_speed_of_the_line_is_not_learnt_from_an_edge_that_is_level(tmp_path: Path):
    """With a few on their way at all times and none behind them, what was seen of the line before holds."""
    edge = Edge(tmp_path, busy_files=9)
    for _ in range(900):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    while edge.waiting > 5:
        edge.second(60, min(180, 60 + edge.waiting - 5))
    for _ in range(60):
        edge.second(60, 60)
    assert 5 == edge.waiting
    for _ in range(10):
        found = edge.second(60, 0, failing=True)
    assert (5 + 600) / (180 - 60) == pytest.approx(found["level_in_seconds"], rel=0.15)


def test_pause_of_a_failing_store_is_not_taken_for_a_slow_line(edge: Edge):
    """While a failing store is left alone nothing is tried and nothing fails; what the line carries stays known."""
    for _ in range(900):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    for _ in range(3):
        edge.second(60, 180)
    edge.second(60, 0, failing=True)
    for _ in range(4):
        edge.second(60, 0, paused=True)
    found = edge.second(60, 180)
    assert edge.waiting / (180 - 60) == pytest.approx(found["level_in_seconds"], rel=0.15)


def test_forecast_of_a_line_that_is_too_slow_is_unknown(edge: Edge):
    """While more arrives than the line carries there is no time at which the edge is level."""
    assert [edge.second(60, 50) for _ in range(20)][-1]["level_in_seconds"] is None


def test_forecast_respects_the_limit_in_force(edge: Edge):
    """A limit that begins now makes the forecast longer at once."""
    for _ in range(10_000):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    before = [edge.second(0, 200) for _ in range(5)][-1]["level_in_seconds"]
    after = edge.second(0, 200, limit=20 * SIZE)["level_in_seconds"]
    assert 45 == pytest.approx(before, rel=0.1)
    assert 440 == pytest.approx(after, rel=0.1)


def test_forecast_before_the_line_was_full_takes_the_limit(edge: Edge):
    """Of a store that goes before anything had to wait the limit tells the speed; without one none is known."""
    for _ in range(600):
        edge.progress.queued(SIZE)
        edge.waiting += 1
    assert 10 == edge.second(0, 0, limit=60 * SIZE, failing=True)["level_in_seconds"]
    assert edge.second(0, 0, failing=True)["level_in_seconds"] is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_progress_that_cannot_be_read_is_none(tmp_path: Path, content: bytes):
    """A torn file and a missing one say nothing."""
    assert read_progress(tmp_path) is None
    (tmp_path / PROGRESS_FILE).write_bytes(content)
    assert read_progress(tmp_path) is None


def test_progress_is_written_at_most_once_a_second(edge: Edge):
    """It is due at the start and a second after each file."""
    assert edge.progress.is_due()
    edge.progress.write(is_store_failing=False)
    edge.now += 0.9
    assert not edge.progress.is_due()
    edge.now += 0.1
    assert edge.progress.is_due()
    assert "ok" == json.loads((edge.folder / PROGRESS_FILE).read_text())["store"]
