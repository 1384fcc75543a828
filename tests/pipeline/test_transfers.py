"""Transfers on the cloud's side: messages to copies, jobs and what waits; and what edges return."""

from typing import Any

import obstore
import pytest
from transfer_messages import OK, beat, give_back, pending, read, send, state

from dicomflow.bucket.keys import job_key, pending_key
from dicomflow.bucket.transfer import InstanceState, Job, PendingTransfer, TransferState
from dicomflow.catalog.transfers import cancel_transfer, retry_transfer
from dicomflow.pipeline import transfers

DONE, FAILED, QUEUED, CANCELLED = (
    InstanceState.DONE,
    InstanceState.FAILED,
    InstanceState.QUEUED,
    InstanceState.CANCELLED,
)


def test_message_makes_copies_then_the_job_then_tells_the_edge(hospital: Any) -> None:
    """What the edge may read is byte for byte what was stored, and it hears of it last."""
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    job: Job = read(hospital, Job, job_key("edge", "t1"))
    assert ["1.2.1.1", "1.2.1.2", "1.2.2.1"] == [each.sop_instance_uid for each in job.instances]
    for each in job.instances:
        assert each.sha256 == hospital.digest(f"outbound/edge/t1/{each.number}.dcm")
    assert (PendingTransfer("t1", 1),) == pending(hospital)
    assert ("queued", {"queued": 3}) == state(hospital)
    assert not [key for key in hospital.keys("outbound/edge/") if key.startswith("outbound/edge2")]


@pytest.mark.parametrize(("uid", "count"), [("1.2", 3), ("1.2.1", 2), ("1.2.2.1", 1)])
def test_uid_may_be_of_a_study_series_or_instance(hospital: Any, uid: str, count: int) -> None:
    """One UID says what is sent."""
    send(hospital, transfer="t1", to="PACS", uid=uid)
    assert ("queued", {"queued": count}) == state(hospital)


def test_message_that_comes_twice_changes_nothing(hospital: Any) -> None:
    """Redelivery makes no second transfer, and does not put back one that has ended."""
    for _ in range(2):
        assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert 1 == len(hospital.rows("transfer"))
    give_back(hospital, DONE, DONE, DONE)
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert ("done", {"done": 3}) == state(hospital)
    assert () == pending(hospital)
    assert ["outbound/edge/pending.json"] == hospital.keys("outbound/")


def test_message_of_the_sample_is_taken_without_its_address(hospital: Any, caplog: Any) -> None:
    """The sample's job names an AE title; host and port are ignored with a line, and JobId makes a repeat the same."""
    body = {
        "JobId": "9f0c-job",
        "sourceAE": "CLOUD",
        "destinationAE": "PACS_AE",
        "destinationHost": "10.0.0.1",
        "destinationPort": 104,
        "DCMObjs": [
            {
                "d0020000D": "1.2",
                "series": [
                    {"d0020000E": "1.2.1", "SOPs": [{"d00080018": "1.2.1.2"}]},
                    {"d0020000E": "1.2.2"},
                ],
            }
        ],
    }
    for _ in range(2):
        assert OK == send(hospital, **body)
    row = hospital.rows("transfer")[0]
    assert ("9f0c-job", "PACS_AE", "edge", "CLOUD") == (
        row["transfer_id"],
        row["destination"],
        row["edge"],
        row["requested_by"],
    )
    assert ["1.2.1.2", "1.2.2.1"] == [each["sop_instance_uid"] for each in hospital.rows("transfer_instance")]
    assert "transfer_address_ignored" in caplog.messages
    job = bytes(hospital.store.get(job_key("edge", "9f0c-job")).bytes())
    assert b"10.0.0.1" not in job


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"to": "PACS", "uid": "9.9"}, "the catalog has no such study, series or instance"),
        ({"to": "ELSEWHERE", "uid": "1.2"}, None),
        ({"to": "PACS", "uid": "1.2", "edge": "edge-3"}, "the edge edge-3 has no destinations in its settings"),
    ],
)
def test_request_that_cannot_be_begun_is_there_with_its_reason(
    hospital: Any, message: dict[str, Any], reason: str | None
) -> None:
    """What is asked for in vain is no dead letter: it has a row that says why."""
    beat(hospital, "edge-2", "OTHER")
    beat(hospital, "edge-3")
    assert OK == send(hospital, transfer="t1", **message)
    row = hospital.rows("transfer")[0]
    assert "failed" == row["state"]
    assert (reason or "no edge says that it knows a destination 'ELSEWHERE'") == row["reason"]


def test_message_that_is_none_is_recorded_and_done(hospital: Any) -> None:
    """What is neither ours nor the sample's is a problem with a name."""
    assert OK == hospital.handle("transfers", "nonsense", "[]", '{"uid": "1.2"}', '{"DCMObjs": [{}]}')
    assert [f"message:m{n}" for n in range(4)] == [
        row["object_key"] for row in hospital.rows("stored_object") if row["problem"]
    ]


def test_returns_settle_the_transfer_and_clear_its_copies(hospital: Any) -> None:
    """Progress makes it under way, the end settles it, and the edge hears that nothing waits."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert OK == give_back(hospital, DONE, final=False)
    assert ("under_way", {"done": 1, "queued": 2}) == state(hospital)
    assert OK == give_back(hospital, DONE, FAILED, DONE, sequence=2)
    assert ("partial", {"done": 2, "failed": 1}) == state(hospital)
    assert () == pending(hospital)
    assert ["outbound/edge/pending.json"] == hospital.keys("outbound/")
    assert 0xA900 == hospital.rows("transfer_instance")[1]["status"]


def test_returns_in_another_order_or_of_another_edge_change_nothing(hospital: Any) -> None:
    """What is older than what is known, or not the edge's own, is no news."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    give_back(hospital, DONE, DONE, DONE, sequence=5)
    give_back(hospital, FAILED, final=False, sequence=4)
    assert ("done", {"done": 3}) == state(hospital)
    send(hospital, transfer="t2", to="PACS", uid="1.2")
    assert OK == give_back(hospital, DONE, DONE, DONE, transfer="t2", edge="edge-2")
    assert ("queued", {"queued": 3}) == state(hospital, "t2")


def test_retry_sends_only_what_did_not_arrive(hospital: Any) -> None:
    """The next round's job has what failed; what a late return of the last round says has arrived, has."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    give_back(hospital, DONE, FAILED, FAILED)
    with hospital.deps.engine.begin() as connection:
        assert retry_transfer(connection, hospital.now(), "t1")
    assert OK == send(hospital, transfer="t1")
    job: Job = read(hospital, Job, job_key("edge", "t1"))
    assert (2, [1, 2]) == (job.round, [each.number for each in job.instances])
    assert (PendingTransfer("t1", 2),) == pending(hospital)
    give_back(hospital, DONE, DONE, FAILED, sequence=2)  # of round 1
    assert ("queued", {"done": 2, "queued": 1}) == state(hospital)
    give_back(hospital, DONE, DONE, DONE, sequence=3, round=2)
    assert ("done", {"done": 3}) == state(hospital)


def test_cancel_is_told_until_the_edge_has_answered(hospital: Any) -> None:
    """A cancelled transfer is listed as that, and what had arrived before stays true."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    with hospital.deps.engine.begin() as connection:
        assert "edge" == cancel_transfer(connection, hospital.now(), "t1")
    assert OK == send(hospital, transfer="t1")
    assert (PendingTransfer("t1", 1, is_cancelled=True),) == pending(hospital)
    give_back(hospital, DONE, CANCELLED, CANCELLED)
    assert ("cancelled", {"done": 1, "cancelled": 2}) == state(hospital)
    assert () == pending(hospital)


def test_cancel_before_the_copies_sends_nothing(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that is cancelled while its copies are made is never told to the edge."""
    real = transfers._copy

    def cancelled(*arguments: Any) -> None:
        real(*arguments)
        with hospital.deps.engine.begin() as connection:
            cancel_transfer(connection, hospital.now(), "t1")

    monkeypatch.setattr(transfers, "_copy", cancelled)
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert "outbound/edge/pending.json" not in hospital.keys("outbound/")
    monkeypatch.undo()
    with hospital.deps.engine.begin() as connection:
        assert retry_transfer(connection, hospital.now(), "t1")
    for _, body in hospital.messages.pop("transfers"):
        assert OK == hospital.handle("transfers", body)
    assert 2 == read(hospital, Job, job_key("edge", "t1")).round
    assert (PendingTransfer("t1", 2),) == pending(hospital)


def test_object_that_is_gone_fails_alone(hospital: Any) -> None:
    """What the store lacks has its reason, and the others are sent."""
    hospital.store.delete("edge/d1/1.2/1.2.1/1.2.1.2.dcm")
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert ("queued", {"queued": 2, "failed": 1}) == state(hospital)
    job: Job = read(hospital, Job, job_key("edge", "t1"))
    assert [0, 2] == [each.number for each in job.instances]
    give_back(hospital, DONE, sequence=1)
    assert "partial" == state(hospital)[0]


def test_many_copies_are_made_by_several_messages(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message makes so many copies and sends the next one; the edge hears when all are there."""
    monkeypatch.setattr(transfers, "COPIES_A_MESSAGE", 2)
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert "outbound/edge/t1/job.json" not in hospital.keys("outbound/")
    [(_, body)] = hospital.messages["transfers"]
    assert OK == hospital.handle("transfers", body)
    assert (PendingTransfer("t1", 1),) == pending(hospital)


def test_store_that_fails_makes_the_message_come_again(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that was not made keeps the job back; the repeat makes what is missing."""
    real, failing = obstore.copy, iter([True, False, False])

    def copy(store: Any, source: str, target: str) -> None:
        if next(failing):
            raise OSError("away")
        real(store, source, target)

    monkeypatch.setattr(transfers.obstore, "copy", copy)
    found = send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert 1 == len(found["batchItemFailures"])
    assert "outbound/edge/t1/job.json" not in hospital.keys("outbound/")
    monkeypatch.undo()
    assert OK == send(hospital, transfer="t1", to="PACS", uid="1.2")
    assert (PendingTransfer("t1", 1),) == pending(hospital)


def test_two_that_tell_an_edge_at_once_leave_the_truth(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who put first what it had read later is put right by itself."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    real, others = obstore.put, [True]

    def put(store: Any, key: str, content: bytes, **options: Any) -> Any:
        if key == pending_key("edge") and others and others.pop():
            send(hospital, transfer="t2", to="PACS", uid="1.2.1")  # which puts both, before this put of one
        return real(store, key, content, **options)

    monkeypatch.setattr(transfers.obstore, "put", put)
    transfers.tell_edge(hospital.deps, "edge")
    assert {"t1", "t2"} == {each.transfer for each in pending(hospital)}


def test_states_end_nowhere_but_in_the_four(hospital: Any) -> None:
    """Of nothing that arrived the transfer failed."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    give_back(hospital, reason="the edge edge knows no destination 'PACS'")
    assert (TransferState.FAILED, {FAILED: 3}) == state(hospital)
    assert "the edge edge knows no destination 'PACS'" == hospital.rows("transfer")[0]["reason"]


def test_instance_that_is_named_and_not_there_refuses_the_transfer(hospital: Any) -> None:
    """Of three that the sample's message names the catalog has two: nothing is sent as if it were all."""
    known = [row["sop_instance_uid"] for row in hospital.rows("instance")][:2]
    sops = [{"d00080018": each} for each in (*known, "1.2.3.999")]
    series = [{"d0020000E": "1.2.1", "SOPs": sops}]
    send(hospital, JobId="t1", destinationAE="PACS", DCMObjs=[{"d0020000D": "1.2", "series": series}])
    (row,) = hospital.rows("transfer")
    assert ("failed", "the catalog has 2 of the 3 instances that are named") == (row["state"], row["reason"])


def test_instance_that_is_named_twice_is_sent_once(hospital: Any) -> None:
    """By its own UID, its series' and its study's."""
    known = hospital.rows("instance")[0]["sop_instance_uid"]
    send(hospital, transfer="t1", to="PACS", uids=[known, "1.2.1", "1.2", known])
    assert ("queued", {"queued": 3}) == state(hospital)


def test_cancelled_transfer_shows_no_hold_up(hospital: Any) -> None:
    """What held it up when it was cancelled holds up nothing any more."""
    send(hospital, transfer="t1", to="PACS", uid="1.2")
    give_back(hospital, final=False, reason="the destination does not answer")
    assert "the destination does not answer" == hospital.rows("transfer")[0]["reason"]
    with hospital.deps.engine.begin() as connection:
        cancel_transfer(connection, hospital.now(), "t1")
    give_back(hospital, DONE, CANCELLED, CANCELLED, sequence=2, reason="the destination does not answer")
    assert ("cancelled", None) == (hospital.rows("transfer")[0]["state"], hospital.rows("transfer")[0]["reason"])
