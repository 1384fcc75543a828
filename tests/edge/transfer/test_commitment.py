"""What a destination commits to, refuses, or says nothing of, when it is asked for storage commitment."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock
from obstore.store import LocalStore
from transfer_site import Pacs, Site, uid

from dicomflow.bucket.transfer import InstanceState, PendingTransfer
from dicomflow.edge.settings import Destination
from dicomflow.edge.spool.lane import Lane

DONE, FAILED, QUEUED = InstanceState.DONE, InstanceState.FAILED, InstanceState.QUEUED


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """Give a destination that may be asked."""
    started = Pacs(commits=True)
    yield started
    started.close()


@pytest.fixture
def site(tmp_path: Path, pacs: Pacs, clock: Clock, part10: Callable[..., bytes]) -> Site:
    """Give an edge that asks it."""
    made = Site(tmp_path, pacs.port, clock, part10, LocalStore(tmp_path / "objects", mkdir=True))
    made.destinations["PACS"] = made.destinations["PACS"].model_copy(update={"commitment": True})
    made.restart()
    return made


@pytest.fixture
def listener(site: Site, receiver_with: Callable[..., Any]) -> Any:
    """Give the edge's own receiver, on the spool of its transfers."""
    return receiver_with(asked=("PACS",))


@pytest.fixture
def lane(site: Site) -> Lane:
    """Have the receiver use the site's spool."""
    return Lane(site.spool)


def told(site: Site) -> list[tuple[InstanceState, int | None, str]]:
    """Return what is told of each instance, once it is time to tell."""
    site.clock.now += 6
    site.courier.step()
    return [(each.state, each.status, each.reason) for each in site.returns().instances]


def test_report_on_the_same_association_ends_the_transfer(site: Site, pacs: Pacs):
    """What is committed on the association of the request has arrived; nothing is sent or asked twice."""
    pacs.reports_at_once = True
    site.listen_seconds = 30.0
    site.restart()
    site.offer()
    site.step()
    site.step()
    assert ([(DONE, 0, "committed")] * 3, True) == (told(site), site.returns().is_final)
    assert ([0], 1) == (pacs.report_status, len(pacs.asked))
    assert {uid(n): 1 for n in range(3)} == pacs.taken
    assert [1, 1, 1] == [each.attempts for each in site.returns().instances]


def test_transfer_is_under_way_until_a_report_comes_on_another_association(site: Site, pacs: Pacs, listener: Any):
    """Before the report nothing is done, after it all is, and a report that is repeated is answered as the first."""
    site.offer()
    site.step()
    assert ({QUEUED}, False) == ({state for state, _, _ in told(site)}, site.returns().is_final)
    assert "storage commitment" in told(site)[0][2]
    assert 0 == pacs.report(to=listener.port)
    site.step()
    assert ([(DONE, 0, "committed")] * 3, True) == (told(site), site.returns().is_final)
    assert 0 == pacs.report(to=listener.port)
    site.step()
    assert 1 == len(pacs.asked)


@pytest.mark.parametrize(("reason", "text"), [(0x0112, "0112H"), (0x0213, "0213H"), (None, "0110H")])
def test_refused_instance_fails_with_the_reason_and_is_sent_by_a_retry(
    site: Site, pacs: Pacs, listener: Any, reason: int | None, text: str
):
    """A refusal ends its instance alone, with the destination's Failure Reason; a retry sends and asks for it again."""
    pacs.refuses[uid(1)] = reason
    site.offer()
    site.step()
    assert 0 == pacs.report(to=listener.port)
    site.step()
    assert [DONE, FAILED, DONE] == [state for state, _, _ in told(site)]
    assert told(site)[1][2].endswith(f"does not commit to it: {text}")
    pacs.refuses.clear()
    job = site.offer(number=2)
    site.offer(number=2, instances=(job.instances[1],))
    site.step()
    assert 0 == pacs.report(to=listener.port)
    site.step()
    assert ([(DONE, 0, "committed")], True) == (told(site), site.returns().is_final)
    assert {uid(0): 1, uid(1): 2, uid(2): 1} == pacs.taken


def test_report_that_does_not_name_an_instance_fails_it(site: Site, pacs: Pacs, listener: Any):
    """Silence about one instance of a report is no commitment to it."""
    site.offer(count=2)
    site.step()
    items = pacs.asked[0][1].ReferencedSOPSequence
    named, left_out = (str(item.ReferencedSOPInstanceUID) for item in items)
    assert 0 == pacs.report(to=listener.port, committed=[items[0]])
    site.step()
    states = {uid(each.number): each.state for each in site.returns().instances}
    assert {named: DONE, left_out: FAILED} == states
    assert {"committed", "arrived, and the destination's report on storage commitment does not name it"} == {
        reason for _, _, reason in told(site)
    }


def test_destination_that_never_reports_is_told_of_after_the_stated_time(site: Site, pacs: Pacs, clock: Clock):
    """It is waited for `commitment_hours`, and asked once."""
    site.offer()
    site.step()
    clock.now += 24 * 3600 - 1
    site.step()
    assert not site.returns().is_final
    clock.now += 10
    site.step()
    expected = (FAILED, 0, "arrived, and no storage commitment within 24 hours")
    assert ([expected] * 3, True) == (told(site), site.returns().is_final)
    assert (1, {uid(n): 1 for n in range(3)}) == (len(pacs.asked), pacs.taken)


def test_late_report_changes_nothing_and_is_taken(site: Site, pacs: Pacs, clock: Clock, listener: Any):
    """A report after the end is answered, so that it is not repeated for ever, and the end stays."""
    site.offer()
    site.step()
    clock.now += 25 * 3600
    site.step()
    assert 0 == pacs.report(to=listener.port)
    site.step()
    assert {FAILED} == {state for state, _, _ in told(site)}
    assert set() == site.askers[0]._questions.reported()


def test_destination_without_the_service_fails_with_that_reason(tmp_path: Path, site: Site, clock: Clock):
    """What cannot be asked for is not waited for: after three tries the instances say why."""
    plain = Pacs()
    try:
        site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": plain.port})
        site.restart()
        site.offer()
        for _ in range(5):
            site.step()
            clock.now += 120
        assert {(FAILED, 0)} == {(state, status) for state, status, _ in told(site)}
        assert "accepts no presentation context for 1.2.840.10008.1.20.1" in told(site)[0][2]
        assert {uid(n): 1 for n in range(3)} == plain.taken
    finally:
        plain.close()


@pytest.mark.parametrize(("status", "tries"), [(0x0110, 3), (0x0122, 3), (0x0213, 20)])
def test_request_that_is_not_taken_is_repeated(site: Site, pacs: Pacs, clock: Clock, status: int, tries: int):
    """A request without room is asked again until the time is over, any other three times; each by a new UID."""
    pacs.action_status = status
    site.offer()
    for _ in range(20):
        site.step()
        clock.now += 120
    assert tries == len({asked.TransactionUID for _, asked in pacs.asked}) == len(pacs.asked)
    assert ({FAILED} if tries == 3 else {QUEUED}) == {state for state, _, _ in told(site)}
    pacs.action_status = 0
    clock.now += 25 * 3600
    site.step()
    assert {FAILED} == {state for state, _, _ in told(site)}
    assert f"{status:04X}H" in told(site)[0][2]


def test_destination_that_goes_away_is_asked_when_it_is_back(site: Site, pacs: Pacs, clock: Clock):
    """Between C-STORE and N-ACTION the destination may go: what it has is not sent again, and is asked for later."""
    away = Pacs(commits=True)
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": away.port})
    site.restart()
    site.offer()
    site.courier.step()
    site.lanes[0].step()
    away.close()
    site.step()
    assert {QUEUED} == {state for state, _, _ in told(site)}
    assert "storage commitment is not asked for: cannot connect" in site.returns().reason
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"port": pacs.port})
    site.restart()
    site.step()
    assert (3, 1, {}) == (sum(away.taken.values()), len(pacs.asked), dict(pacs.taken))


def test_restart_after_the_request_waits_for_its_report(site: Site, pacs: Pacs, listener: Any):
    """What was asked is on disk: after a restart nothing is sent or asked again, and the report counts."""
    site.offer()
    site.step()
    site.restart()
    site.step()
    assert 1 == len(pacs.asked)
    assert 0 == pacs.report(to=listener.port)
    site.restart()
    site.step()
    assert ([(DONE, 0, "committed")] * 3, True) == (told(site), site.returns().is_final)
    assert {uid(n): 1 for n in range(3)} == pacs.taken


def test_request_that_may_not_have_been_taken_is_asked_anew_after_a_restart(site: Site, pacs: Pacs, listener: Any):
    """Killed between request and answer: another Transaction UID is used, and the report on the first ends nothing."""
    site.offer()
    site.step()
    questions = site.askers[0]._questions
    (question,) = questions.open_ones("PACS")
    questions.keep(replace(question, is_taken=False))
    site.restart()
    site.step()
    assert 2 == len(pacs.asked)
    assert 0 == pacs.report(0, to=listener.port)
    site.step()
    assert not site.returns().is_final
    assert 0 == pacs.report(1, to=listener.port)
    site.step()
    assert [(DONE, 0, "committed")] * 3 == told(site)


def test_cancel_ends_what_is_awaited_as_arrived(site: Site, pacs: Pacs):
    """What the destination has it has, and nobody waits any more."""
    site.offer()
    site.step()
    site.list(PendingTransfer("t1", 1, is_cancelled=True))
    site.step()
    assert [(DONE, 0, "cancelled before its storage commitment")] * 3 == told(site)


def test_setting_that_is_gone_ends_what_is_awaited_as_arrived(site: Site, pacs: Pacs):
    """Without `commitment` an instance has arrived when it is taken, those that waited too."""
    site.offer()
    site.step()
    site.destinations["PACS"] = site.destinations["PACS"].model_copy(update={"commitment": False})
    site.restart()
    site.step()
    assert [(DONE, 0, "")] * 3 == told(site)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, of what the test makes of it
def test_report_that_nobody_asked_for_is_refused(site: Site, pacs: Pacs, listener: Any):
    """Another Transaction UID, another AE title, another event: none commits anything."""
    site.offer()
    site.step()
    assert 0x0115 == pacs.report(to=listener.port, transaction="1.2.3.999")
    assert 0x0115 == pacs.report(to=listener.port, transaction="../../etc/passwd")
    assert 0x0113 == pacs.report(to=listener.port, event_type=3)
    assert None is pacs.report(to=listener.port, title="STRANGER")
    site.step()
    assert {QUEUED} == {state for state, _, _ in told(site)}


def test_report_of_another_destination_commits_nothing(site: Site, pacs: Pacs, receiver_with: Callable[..., Any]):
    """Who is asked too, but not this, cannot report on it."""
    listener = receiver_with(asked=("PACS", "OTHER"))
    site.offer()
    site.step()
    assert 0x0115 == pacs.report(to=listener.port, title="OTHER")
    site.step()
    assert {QUEUED} == {state for state, _, _ in told(site)}


def test_many_instances_are_asked_for_in_parts(site: Site, pacs: Pacs, listener: Any, monkeypatch: pytest.MonkeyPatch):
    """No request names more instances than a destination takes at once, and each has its report."""
    monkeypatch.setattr("dicomflow.edge.transfer.asker._INSTANCES_A_QUESTION", 4)
    site.offer(count=10)
    for _ in range(3):
        site.step()
    assert [4, 4, 2] == [len(asked.ReferencedSOPSequence) for _, asked in pacs.asked]
    for which in range(3):
        assert 0 == pacs.report(which, to=listener.port)
    site.step()
    assert ([(DONE, 0, "committed")] * 10, True) == (told(site), site.returns().is_final)


def test_what_is_over_is_forgotten_after_a_week(site: Site, pacs: Pacs, clock: Clock, listener: Any):
    """Neither notes nor reports stay for ever."""
    site.offer()
    site.step()
    assert 0 == pacs.report(to=listener.port)
    site.step()
    clock.now += 30 * 86_400 * 365 * 60  # beyond the files' own times
    site.step()
    assert [] == list((site.spool / "asked").iterdir())


def test_destination_says_for_how_long_it_is_waited_for():
    """A day unless it is set."""
    assert 24.0 == Destination(host="pacs", port=104, ae_title="PACS", commitment=True).commitment_hours
