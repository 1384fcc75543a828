"""A destination that does not take what routes send it is among the console's concerns."""

from datetime import UTC, datetime

from dicomflow.bucket.heartbeat import Heartbeat, WaitingDestination
from dicomflow.console.edges import Edge
from dicomflow.console.pages.overview import _of_edge


def test_what_waits_long_for_a_destination_is_a_concern():
    """By the destination's name; what was handed over a minute ago is none."""
    waiting = (WaitingDestination("pacs", 1200, 7200.0), WaitingDestination("research", 3, 60.0))
    heartbeat = Heartbeat("hill", "1", datetime.now(UTC), "HILL", 0, 0, 0, 1 << 40, 0.0, waiting=waiting)
    (concern,) = _of_edge(Edge("hill", Heartbeat.from_json(heartbeat.to_json()), 1.0, is_silent=False))
    assert ("warn", "has 1,200 images for pacs, the oldest for 120 minutes") == concern[:2]
