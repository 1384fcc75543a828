"""What edges return that is not to be believed: it settles nothing, says so, and holds up nothing for good."""

import json
from datetime import timedelta
from typing import Any

import pytest
from transfer_messages import OK, give_back, pending, read, send, state

from dicomflow.bucket import reading
from dicomflow.bucket.keys import job_key, pending_key, returns_key
from dicomflow.bucket.transfer import InstanceState, Job, Pending, PendingTransfer, encode
from dicomflow.catalog.transfers import cancel_transfer, retry_transfer

DONE = InstanceState.DONE


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 1 << 63},
        {"round": 1 << 40},
        {"instances": [{"number": 0, "state": "done", "attempts": 1 << 40}]},
        {"instances": [{"number": 0, "state": "done", "status": 1 << 20}]},
        {"edge": "another"},
        {"transfer": "another"},
        {"format": 2},
    ],
)
def test_returns_that_no_catalog_takes_settle_nothing_and_are_done(hospital: Any, changes: dict[str, Any]) -> None:
    """An edge that tells numbers of any size, or of others, is a problem by name and no message that dies."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    document = {"edge": "edge", "transfer": "t1", "round": 1, "sequence": 1, "at": "2026-11-01T00:00:00Z"}
    document |= {"is_final": True, "instances": []} | changes
    hospital.store.put("returns/edge/t1.json", json.dumps(document).encode())
    assert OK == hospital.handle("transfers", hospital.object_event("returns/edge/t1.json"))
    assert ("queued", {"queued": 3}) == state(hospital)
    assert 1 == len([row for row in hospital.rows("stored_object") if row["problem"]])


def test_reason_that_no_database_holds_is_replaced(hospital: Any) -> None:
    """A destination's or an edge's control characters reach neither a row nor a page."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    document = {"edge": "edge", "transfer": "t1", "round": 1, "sequence": 1, "at": "2026-11-01T00:00:00Z"}
    instances = [{"number": n, "state": "failed", "reason": "a\0b\x1b[31m\n"} for n in range(3)]
    document |= {"is_final": True, "instances": instances, "reason": "c\0"}
    hospital.store.put("returns/edge/t1.json", json.dumps(document).encode())
    assert OK == hospital.handle("transfers", hospital.object_event("returns/edge/t1.json"))
    assert ("failed", {"failed": 3}) == state(hospital)
    assert {"a\ufffdb\ufffd[31m\ufffd"} == {row["reason"] for row in hospital.rows("transfer_instance")}


def test_returns_that_are_too_large_are_not_read(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function's memory holds no gigabytes that an edge puts there."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    monkeypatch.setattr(reading, "MOST_BYTES", 10)
    assert OK == give_back(hospital, DONE, DONE, DONE)
    assert ("queued", {"queued": 3}) == state(hospital)


FORGED = [{"round": 99}, {"sequence": 9 * 10**15}, {"round": 99, "sequence": 9 * 10**15}]


@pytest.mark.parametrize("forged", FORGED, ids=str)
@pytest.mark.parametrize("final", [True, False])
def test_returns_of_a_round_or_a_time_to_come_are_not_believed(
    hospital: Any, forged: dict[str, int], *, final: bool
) -> None:
    """They settle nothing and say so by name; the edge hears again what is asked of it, and its word is news then."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    job: Job = read(hospital, Job, job_key("edge", "t1"))
    give_back(hospital, DONE, final=False)
    hospital.store.put(job_key("edge", "t1"), b"forged")
    hospital.store.put(pending_key("edge"), encode(Pending("edge", (PendingTransfer("t1", 99),))))
    assert OK == give_back(hospital, DONE, DONE, DONE, final=final, **{"sequence": 2} | forged)
    assert ("under_way", {"done": 1, "queued": 2}) == state(hospital)
    assert "what the edge told is not believed" in hospital.rows("transfer")[0]["reason"]
    (problem,) = [row for row in hospital.rows("stored_object") if row["problem"]]
    assert returns_key("edge", "t1") == problem["object_key"]
    again: Job = read(hospital, Job, job_key("edge", "t1"))
    assert (1, job.instances[1:]) == (again.round, again.instances)
    assert (PendingTransfer("t1", 1),) == pending(hospital)
    assert OK == give_back(hospital, DONE, DONE, DONE, sequence=3)
    assert ("done", {"done": 3}) == state(hospital)
    assert (None, []) == (
        hospital.rows("transfer")[0]["reason"],
        [row for row in hospital.rows("stored_object") if row["problem"]],
    )


def test_round_of_a_retry_is_told_by_whatever_sequence(hospital: Any) -> None:
    """A sequence that was too late to be right, and too early to be seen as wrong, holds up one round and no more."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    tomorrow = int((hospital.now() + timedelta(hours=23)).timestamp() * 1_000_000)
    give_back(hospital, DONE, final=False, sequence=tomorrow)
    give_back(hospital, DONE, DONE, DONE, sequence=5)
    assert "under_way" == state(hospital)[0]
    with hospital.deps.engine.begin() as connection:
        assert cancel_transfer(connection, hospital.now(), "t1")
        assert retry_transfer(connection, hospital.now(), "t1")
    send(hospital, transfer="t1")
    give_back(hospital, DONE, DONE, DONE, sequence=6, round=2)
    assert ("done", {"done": 3}) == state(hospital)


def test_returns_that_are_not_believed_keep_no_neighbour_from_being_taken(hospital: Any) -> None:
    """Of two objects in one message the second settles its transfer, whatever the first one is."""
    for name in ("t1", "t2"):
        send(hospital, transfer=name, to="PACS", uid="1.2.2")
        give_back(hospital, transfer=name, final=False)
    hospital.store.put("returns/edge/t1.json", b"nonsense")
    document = {"edge": "edge", "transfer": "t2", "round": 1, "sequence": 2, "at": "2026-11-01T00:00:00Z"}
    document |= {"is_final": True, "instances": [{"number": 0, "state": "done"}]}
    hospital.store.put("returns/edge/t2.json", json.dumps(document).encode())
    first, second = (json.loads(hospital.object_event(f"returns/edge/{each}.json")) for each in ("t1", "t2"))
    assert OK == hospital.handle("transfers", json.dumps({"Records": first["Records"] + second["Records"]}))
    assert ["under_way", "done"] == [state(hospital, each)[0] for each in ("t1", "t2")]


@pytest.mark.parametrize("key", ["returns/edge/a%00b.json", "returns/e%00/t1.json", "returns/edge-9/t1.json"])
def test_returns_by_a_name_that_is_none_are_done(hospital: Any, key: str) -> None:
    """What no catalog holds, or of an edge that was asked for nothing, changes nothing and is no dead letter."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    before = hospital.keys("outbound/")
    hospital.store.put(key, b"nonsense")
    assert OK == hospital.handle("transfers", hospital.object_event(key))
    assert ("queued", {"queued": 3}) == state(hospital)
    assert before == hospital.keys("outbound/")
