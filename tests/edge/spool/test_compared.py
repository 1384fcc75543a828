"""Notes of nightly comparisons, for the heartbeat."""

from datetime import UTC, datetime
from pathlib import Path

from dicomflow.bucket.compared import ComparedSource
from dicomflow.edge.spool.compared import note_compared, read_compared

FOUND = ComparedSource("PACS1", datetime(2026, 11, 30, 2, 30, tzinfo=UTC), 40, 2, is_whole=False)


def test_last_comparison_of_each_source_is_kept(tmp_path: Path):
    """By name; one that the settings do not have any more is not told."""
    note_compared(tmp_path, FOUND)
    assert (FOUND,) == read_compared(tmp_path, ("PACS1", "PACS2"))
    assert () == read_compared(tmp_path, ("PACS2",))


def test_note_that_cannot_be_read_stops_no_heartbeat(tmp_path: Path):
    """It is left out, whatever lies there."""
    (tmp_path / "compared" / "PACS1.json").mkdir(parents=True)
    assert () == read_compared(tmp_path, ("PACS1",))
