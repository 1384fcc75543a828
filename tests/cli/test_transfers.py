"""`dicomflow transfers`: what an operator sees of what goes back to a site."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomflow.bucket.transfer import InstanceState, ReturnedInstance, Returns
from dicomflow.catalog.engine import create_engine_for
from dicomflow.catalog.transfer_returns import settle_returns
from dicomflow.catalog.transfers import create_transfer

Run = Callable[..., tuple[int, str, str]]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DONE, FAILED, QUEUED = InstanceState.DONE, InstanceState.FAILED, InstanceState.QUEUED


@pytest.fixture
def told(data: Path) -> Path:
    """Give a catalog with a transfer of four instances, of which the edge has told three."""
    engine = create_engine_for(f"sqlite:///{data / 'catalog.db'}")
    instances = [
        {
            "sop_instance_uid": f"1.2.{number}",
            "sop_class_uid": "1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "object_key": f"edge/d1/1/2/{number}.dcm",
            "bytes": 100,
            "sha256": "",
        }
        for number in range(4)
    ]
    returned = tuple(
        ReturnedInstance(number, state, status, "", 1)
        for number, state, status in ((0, DONE, 0), (1, FAILED, 0xA900), (2, QUEUED, 0xA700))
    )
    told_at = NOW + timedelta(seconds=7)
    sequence = int(told_at.timestamp() * 1_000_000)
    with engine.begin() as connection:
        create_transfer(
            connection, NOW, "t1", edge="edge", destination="PACS", uid="1.2", requested_by="ines", instances=instances
        )
        settle_returns(connection, NOW, "edge", Returns("edge", "t1", 1, sequence, told_at, False, returned))
    engine.dispose()
    return data


def test_show_has_what_failed_first_and_when_that_was_told(run: Run, told: Path):
    """Then what is queued, then the rest, each by number; the counts are of the moment that stands beside them."""
    shown = json.loads(run("transfers", "show", "t1", "--data", told, "--json")[1])
    assert [(1, "failed"), (2, "queued"), (3, "queued"), (0, "done")] == [
        (each["number"], each["state"]) for each in shown["of_instances"]
    ]
    assert ("2026-01-02T03:04:12+00:00", 1, 1, 2) == tuple(
        shown[each] for each in ("reported_at", "done", "failed", "queued")
    )
    assert "2026-01-02T03:04:12+00:00" in run("transfers", "show", "t1", "--data", told)[1]


def test_show_of_a_state_has_its_instances_alone(run: Run, told: Path):
    """One or several states; a word that is none is called wrongly."""
    for states in (["failed"], ["failed", "done"], ["cancelled"]):
        options = [option for state in states for option in ("--state", state)]
        shown = json.loads(run("transfers", "show", "t1", *options, "--data", told, "--json")[1])
        assert set(states) >= {each["state"] for each in shown["of_instances"]}
        assert len(states) * (states != ["cancelled"]) == len(shown["of_instances"])
    assert 2 == run("transfers", "show", "t1", "--state", "nonsense", "--data", told)[0]
