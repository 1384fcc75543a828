"""The watermarks in force are the configured ones."""

from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.view import free_bytes


class Volume:
    """Free space as the test says; counts how often it is asked."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.asked = 0

    def free_bytes(self, _root: Path) -> int:
        """Return the free space."""
        self.asked += 1
        return self.free


@pytest.mark.parametrize(("free", "refuses", "slows"), [(99, True, True), (100, False, True), (200, False, False)])
def test_watermarks_in_force_are_the_configured_ones(free: int, refuses: Any, slows: Any):
    """Below each configured limit, and only below it, its consequence holds."""
    settings = SpoolSettings(dir=Path("unused"), slow_below_bytes=200, refuse_below_bytes=100)
    watermark = Watermark(settings, lambda: 0.0, Volume(free).free_bytes)
    assert (refuses, slows) == (watermark.refuses, watermark.pause_seconds(1_000_000) > 0)


def test_free_space_is_measured_at_most_twice_a_second():
    """Within half a second the last measure stands; then it is taken again."""
    now, volume = [0.0], Volume(50)
    settings = SpoolSettings(dir=Path("unused"), slow_below_bytes=100, refuse_below_bytes=100)
    watermark = Watermark(settings, lambda: now[0], volume.free_bytes)
    assert watermark.refuses
    volume.free, now[0] = 500, 0.49
    assert watermark.refuses
    now[0] = 0.5
    assert not watermark.refuses
    assert 2 == volume.asked


def test_spool_tells_the_free_space_of_its_volume(spool: Any):
    """The measure is the volume's own."""
    assert 0 < free_bytes(spool.root) < 1 << 60


def test_back_pressure_slows_reading_and_never_sleeps_per_object(tmp_path: Path):
    """The pause grows smoothly with what was read and with what is gone, from 100 MB/s to 1 MB/s."""
    settings = SpoolSettings(dir=tmp_path, slow_below_bytes=2_000, refuse_below_bytes=1_000)

    def _with(free: int) -> Watermark:
        return Watermark(settings, measure=Volume(free).free_bytes)

    pauses = [_with(free).pause_seconds(1_000_000) for free in (2_000, 1_999, 1_500, 1_000)]
    assert [0, *(pytest.approx(each, rel=0.01) for each in (0.01, 0.1, 1.0))] == pauses
    assert 0 == _with(1_000).pause_seconds(0)
