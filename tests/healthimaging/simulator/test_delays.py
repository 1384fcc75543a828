"""What comes later than it should: events and manifests."""

from collections.abc import Callable
from typing import Any


def test_late_manifest_comes_after_the_end_of_the_job(simulate: Callable[..., Any]) -> None:
    """A completed job has its lists at once and its manifest after the delay."""
    simulation = simulate(late_manifest_seconds=30)
    simulation.put("in/a.dcm")
    job = simulation.run("in/")
    assert "COMPLETED" == job["jobStatus"]
    folder = job["outputS3Uri"].removeprefix("s3://images/")

    def names() -> set[str]:
        return {meta["path"].removeprefix(folder) for chunk in simulation.store.list(folder) for meta in chunk}

    assert {"SUCCESS/success.ndjson"} == names()
    simulation.advance(30)
    assert {"SUCCESS/success.ndjson", "job-output-manifest.json"} == names()


def test_delayed_events_come_in_order_after_their_time(simulate: Callable[..., Any]) -> None:
    """No event comes before its delay is over, and each comes once."""
    simulation = simulate(event_delay_seconds=60)
    simulation.put("in/a.dcm")
    simulation.run("in/")
    assert [] == simulation.events
    simulation.advance(60)
    found = [event["detail-type"] for event in simulation.events if "Job" in event["detail-type"]]
    assert ["Import Job Submitted", "Import Job In Progress", "Import Job Completed"] == found
    simulation.advance(60)
    assert 3 == sum("Job" in event["detail-type"] for event in simulation.events)
