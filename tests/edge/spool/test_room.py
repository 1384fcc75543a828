"""Room: a volume without any is told as such, whatever the watermark, and by whoever found none."""

from pathlib import Path

import pytest

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool import room as room_module
from dicomflow.edge.spool.room import Room


@pytest.mark.parametrize(
    ("free", "watermark", "is_short"),
    [
        (0, 0, True),
        ((1 << 20) - 1, 0, True),
        (1 << 20, 0, False),
        (99 << 20, 100 << 20, True),
        (1 << 30, 1 << 20, False),
    ],
)
def test_volume_is_short_of_room_below_the_watermark_and_when_nothing_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, watermark: int, *, is_short: bool
):
    """A watermark of 0 does not make a full volume a good one."""
    monkeypatch.setattr(room_module, "free_bytes", lambda _: free)
    settings = SpoolSettings(dir=tmp_path, refuse_below_bytes=watermark, slow_below_bytes=1 << 30)
    assert is_short == bool(Room(settings).shortage)


def test_image_that_found_no_room_is_told_by_all_processes_for_a_while(tmp_path: Path):
    """They share when that was, whatever free space says: a quota is no free space."""
    now = [5.0]  # soon after the machine's start
    shared = [float("-inf")]
    settings = SpoolSettings(dir=tmp_path, refuse_below_bytes=0, slow_below_bytes=0)
    receiver, supervisor = (Room(settings, shared, lambda: now[0]) for _ in range(2))
    assert "" == supervisor.shortage
    receiver.note_none()
    assert "the spool's volume has no room for images" == supervisor.shortage
    now[0] += 59
    receiver.note_none()
    now[0] += 59
    assert supervisor.shortage
    now[0] += 2
    assert "" == supervisor.shortage
