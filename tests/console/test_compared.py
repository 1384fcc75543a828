"""What nightly comparisons lack stands first on the console's overview."""

from datetime import UTC, datetime

from dicomflow.bucket.heartbeat import ComparedSource, Heartbeat
from dicomflow.console.edges import Edge
from dicomflow.console.pages.overview import _of_edge

NOW = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


def _said(*sources: ComparedSource) -> list[tuple[str, str]]:
    heartbeat = Heartbeat("hill", "1", NOW, "HILL", 0, 0, 0, 1 << 40, 0.0, sources=sources)
    return [(level, what) for level, what, _ in _of_edge(Edge("hill", heartbeat, 1.0, is_silent=False))]


def test_missing_images_and_what_could_not_be_compared_are_concerns():
    """Red where something is missing, a warning where nobody knows, and nothing where all is here."""
    assert [] == _said(ComparedSource("PACS1", NOW, 40, 0, is_whole=True))
    assert [("bad", "lacks 2 of 1,040 images that PACS1 has of the last days")] == _said(
        ComparedSource("PACS1", NOW, 1040, 2, is_whole=False)
    )
    assert [("warn", "could not compare all of the last days with PACS2")] == _said(
        ComparedSource("PACS2", NOW, 0, 0, is_whole=False, reason="cannot connect")
    )
