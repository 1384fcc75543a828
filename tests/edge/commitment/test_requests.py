"""Storage commitment: what is kept, what is reported, and that nothing more is claimed than is true."""

import errno
import hashlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pytest
from data_sets import element, item, sequence
from modality import ACTION, Modality, action_information
from obstore.exceptions import PermissionDeniedError
from pydicom.filereader import read_dataset
from waiting import WAIT_SECONDS, wait_for

from dicomflow.bucket.feedback import NOT_VISIBLE
from dicomflow.dicom.references import Reference, read_references
from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
)
from dicomflow.dimse.command import Command
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment import reporter as reporter_module
from dicomflow.edge.commitment import requests as requests_module
from dicomflow.edge.commitment.reporter import Reporter, report_commitments
from dicomflow.edge.commitment.requests import (
    CommitmentRequest,
    Commitments,
    Report,
    accept_action,
    count_requests,
    encode_report,
    make_report,
)
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import LEDGER_FILE, Ledger, LedgerEntry
from dicomflow.edge.progress import PROGRESS_FILE, read_gathered_until
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings, DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import stem_of
from dicomflow.errors import PermanentError, TransientError
from dicomflow.send.association import SendAssociation

CT = "1.2.840.10008.5.1.4.1.1.2"
NOW = 1_000_000.0
REQUEST = CommitmentRequest("1.2.9", "CT1", "EDGE", (Reference(CT, "1.2.1"), Reference(CT, "1.2.2")), NOW)


@pytest.fixture
def ledger(tmp_path: Path, spool: Spool) -> Iterator[Ledger]:
    """Give an empty ledger."""
    assert spool.root == tmp_path / "spool"
    found = Ledger(tmp_path / "spool" / LEDGER_FILE, store=(tmp_path / "objects").as_uri())
    yield found
    found.close()


@pytest.fixture
def receive(ledger: Ledger, spool: Spool) -> Callable[..., None]:
    """Put an instance into a delivery: into the ledger, and its file, whole if it has ten zeros, into the spool."""
    folder = spool.delivering / "d1"
    folder.mkdir()

    def _receive(sop: str, *, sop_class: str = CT, sha256: str = hashlib.sha256(bytes(10)).hexdigest()) -> None:
        (folder / f"{stem_of('a1', 0, '10.0.0.1', sha256)}.dcm").write_bytes(bytes(10))
        ledger.record_received(
            [
                LedgerEntry(
                    sop,
                    sha256,
                    sop_class,
                    EXPLICIT_VR_LITTLE_ENDIAN,
                    "1.2.3",
                    "1.2.4",
                    10,
                    "a1",
                    "CT1",
                    "EDGE",
                    "10.0.0.1",
                    datetime.now(UTC).isoformat(),
                    "d1",
                    f"key/{sop}.dcm",
                )
            ]
        )

    return _receive


@pytest.fixture
def store(ledger: Ledger, objects: Path) -> Callable[..., None]:
    """Store an instance that is in the ledger."""

    def _store(sop: str) -> None:
        (objects / "key").mkdir(parents=True, exist_ok=True)
        (objects / f"key/{sop}.dcm").write_bytes(bytes(10))
        ledger.record_stored([(f"key/{sop}.dcm", datetime.now(UTC))])

    return _store


def _accept(commitments: Commitments, command: Command, information: bytes, syntax: str) -> Status:
    return accept_action(commitments, command, information, syntax, calling_ae_title="CT1", called_ae_title="EDGE")[0]


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])
def test_action_is_kept_before_it_is_answered(commitments: Commitments, spool: Spool, syntax: str):
    """A request survives: another process finds it with all its references."""
    information = action_information("1.2.9", "1.2.1", "1.2.2", syntax=syntax)
    assert Status.SUCCESS == _accept(commitments, ACTION, information, syntax)
    (kept,) = Commitments(spool.root).open_requests()
    assert replace(REQUEST, requested_at=kept.requested_at) == kept


@pytest.mark.parametrize(
    ("change", "information", "status"),
    [
        ({"requested_sop_class_uid": CT.encode()}, action_information("1.2.9", "1.2.1"), 0x0118),
        ({"requested_sop_instance_uid": b"1.2.3"}, action_information("1.2.9", "1.2.1"), 0x0112),
        ({"action_type_id": 2}, action_information("1.2.9", "1.2.1"), 0x0123),
        ({}, action_information(None, "1.2.1"), 0x0115),
        ({}, action_information("1.2.9"), 0x0115),
        ({}, b"\xff" * 11, 0x0115),
        ({}, b"", 0x0115),
    ],
)
def test_action_that_cannot_be_served_is_refused(
    commitments: Commitments, change: dict[str, Any], information: bytes, status: int
):
    """Wrong class, instance, action or content: its own status, and nothing is kept."""
    command = replace(ACTION, **change)
    assert status == _accept(commitments, command, information, IMPLICIT_VR_LITTLE_ENDIAN)
    assert [] == list(commitments.open_requests())


def test_instance_named_twice_is_one_reference(commitments: Commitments):
    """A device that sent an image twice may name it twice: it is reported once, beside the others."""
    information = action_information("1.2.9", "1.2.1", "1.2.2", "1.2.1")
    assert Status.SUCCESS == _accept(commitments, ACTION, information, IMPLICIT_VR_LITTLE_ENDIAN)
    (kept,) = commitments.open_requests()
    assert ["1.2.1", "1.2.2"] == [each.sop_instance_uid for each in kept.references]


def test_action_that_names_too_many_instances_is_refused_for_that(
    commitments: Commitments, monkeypatch: pytest.MonkeyPatch
):
    """With 0213, so that the requestor may ask in parts; nothing of it is kept."""
    information = action_information("1.2.9", "1.2.1", "1.2.2")
    monkeypatch.setattr(requests_module, "read_references", partial(read_references, most=1))
    assert Status.RESOURCE_LIMITATION == _accept(commitments, ACTION, information, IMPLICIT_VR_LITTLE_ENDIAN)
    assert [] == list(commitments.open_requests())


def test_largest_study_is_asked_for_in_a_moment(commitments: Commitments):
    """Ten thousand references, ten of the costly seconds of a worker once, are read and kept in a tenth of them."""
    named = element(0x00081150, "UI", CT.encode() + b"\0")
    items = (item(named + element(0x00081155, "UI", b"1.2.%05d\0" % n), defined=True) for n in range(10_000))
    information = element(0x00081195, "UI", b"1.2.9\0") + sequence(0x00081199, *items, defined=True)

    def _seconds() -> float:
        began_at = time.thread_time()
        assert Status.SUCCESS == _accept(commitments, ACTION, information, EXPLICIT_VR_LITTLE_ENDIAN)
        (kept,) = commitments.open_requests()
        assert kept.references[-1] == Reference(CT, "1.2.09999")
        encode_report(Report("1.2.9", kept.references, ()), EXPLICIT_VR_LITTLE_ENDIAN)
        return time.thread_time() - began_at

    assert min(_seconds() for _ in range(3)) < 1.2


def test_path_in_a_transaction_uid_is_refused(commitments: Commitments, spool: Spool):
    """A UID becomes a file's name only after its check."""
    before = sorted(spool.root.rglob("*"))
    information = action_information("1.2.9", "1.2.1").replace(b"1.2.9\0", b"../x\0\0")
    assert Status.INVALID_ARGUMENT_VALUE == _accept(commitments, ACTION, information, IMPLICIT_VR_LITTLE_ENDIAN)
    assert before == sorted(spool.root.rglob("*"))


def test_repeated_action_is_the_same_request(commitments: Commitments):
    """After a lost response the same references come again: one request, one report."""
    commitments.add(REQUEST)
    commitments.add(replace(REQUEST, references=REQUEST.references[::-1], requested_at=NOW + 5))
    assert [REQUEST] == list(commitments.open_requests())


def test_transaction_uid_in_use_is_reported_for_every_item(commitments: Commitments, ledger: Ledger, receive: Any):
    """Other references under an open Transaction UID: a report in which every item has 0131."""
    receive("1.2.5")
    commitments.add(REQUEST)
    other = replace(REQUEST, references=(Reference(CT, "1.2.5"),))
    commitments.add(other)
    duplicate = next(each for each in commitments.open_requests() if each.is_duplicate)
    report = make_report(duplicate, ledger, CommitmentSettings(level="spooled"), NOW, commitments.witness, math.inf)
    assert Report("1.2.9", (), ((Reference(CT, "1.2.5"), 0x0131),)) == report


@pytest.mark.parametrize("accept_hidden", [False, True])
def test_instance_that_no_viewer_sees_is_committed_where_the_site_says_so(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, *, accept_hidden: bool
):
    """0110 at once, since somebody has to decide; after a repair it is committed. Another failure is waited for."""
    settings = CommitmentSettings(level="imported", accept_hidden=accept_hidden)
    receive("1.2.1"), receive("1.2.2"), store("1.2.1"), store("1.2.2")
    ledger.record_imported(["key/1.2.2.dcm"], datetime.now(UTC))
    ledger.record_not_imported([("key/1.2.1.dcm", "ValidationException: simulated")])
    assert make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf) is None
    ledger.record_not_imported([("key/1.2.1.dcm", f"{NOT_VISIBLE}: image set 0 is not primary")])
    report = make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf)
    failed = () if accept_hidden else ((Reference(CT, "1.2.1"), 0x0110),)
    assert report is not None
    assert failed == report.failed
    ledger.record_imported(["key/1.2.1.dcm"], datetime.now(UTC))
    repaired = make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf)
    assert Report("1.2.9", REQUEST.references, ()) == repaired


@pytest.mark.parametrize("level", ["spooled", "stored", "imported"])
def test_commitment_success_only_at_the_configured_level(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, level: str
):
    """No report is made until every instance is at the level; then all of them succeed."""
    settings = CommitmentSettings(level=level)
    receive("1.2.1"), receive("1.2.2")
    reports = [make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf)]
    store("1.2.1"), store("1.2.2")
    reports.append(make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf))
    ledger.record_imported(["key/1.2.1.dcm", "key/1.2.2.dcm"], datetime.now(UTC))
    reports.append(make_report(REQUEST, ledger, settings, NOW + 60, commitments.witness, math.inf))
    made = [report is not None for report in reports]
    assert {"spooled": [True] * 3, "stored": [False, True, True], "imported": [False, False, True]}[level] == made
    assert Report("1.2.9", REQUEST.references, ()) == reports[-1]


def test_commitment_report_lists_every_reference_once(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any
):
    """Stored, unknown, of another class, given up, too late: each instance is in one sequence, with its reason."""
    references = tuple(Reference(CT, f"1.2.{number}") for number in range(5))
    receive("1.2.0"), receive("1.2.2", sop_class="1.2.840.10008.5.1.4.1.1.4"), receive("1.2.3"), receive("1.2.4")
    store("1.2.0")
    ledger.note_problem(ledger.find("1.2.3")[0], "damaged")
    ledger.write()
    request = replace(REQUEST, references=references)
    settings = CommitmentSettings(level="stored", limit_seconds=100)
    assert make_report(request, ledger, settings, NOW + 99, commitments.witness, math.inf) is None
    report = make_report(request, ledger, settings, NOW + 100, commitments.witness, math.inf)
    assert report is not None
    assert (references[0],) == report.committed
    assert [(1, 0x0112), (2, 0x0119), (3, 0x0110), (4, 0x0213)] == [
        (references.index(reference), reason) for reference, reason in report.failed
    ]


def test_commitment_with_wrong_class_answers_0119(commitments: Commitments, ledger: Ledger, receive: Any):
    """The class is compared, not the instance alone."""
    receive("1.2.1", sop_class="1.2.840.10008.5.1.4.1.1.4")
    request = replace(REQUEST, references=REQUEST.references[:1])
    report = make_report(request, ledger, CommitmentSettings(level="spooled"), NOW, commitments.witness, math.inf)
    assert ((REQUEST.references[0], 0x0119),) == report.failed if report else ()


def _only(level: str, ledger: Ledger, commitments: Commitments, at: float = NOW + 60, **settings: Any) -> int | None:
    """Return what is reported of the first reference: 0 for success, its reason, None for no report yet."""
    request = replace(REQUEST, references=REQUEST.references[:1])
    report = make_report(
        request, ledger, CommitmentSettings(level=level, **settings), at, commitments.witness, math.inf
    )
    return None if report is None else report.failed[0][1] if report.failed else 0


@pytest.mark.parametrize("level", ["spooled", "stored", "imported"])
@pytest.mark.parametrize("gone", ["deleted", "cut", "rotten", "another bucket"])
def test_commitment_is_not_confirmed_from_memory(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, objects: Path, level: str, gone: str
):
    """What the store that is configured now has not (any more) is no such instance, at every level."""
    receive("1.2.1"), store("1.2.1")
    ledger.record_imported(["key/1.2.1.dcm"], datetime.now(UTC))
    assert 0 == _only(level, ledger, commitments)
    if gone == "deleted":
        (objects / "key/1.2.1.dcm").unlink()
    elif gone == "cut":
        (objects / "key/1.2.1.dcm").write_bytes(bytes(9))
    elif gone == "rotten":
        content = bytearray((objects / "key/1.2.1.dcm").read_bytes())
        content[-1] ^= 1
        (objects / "key/1.2.1.dcm").write_bytes(content)
    else:
        commitments.witness = StoreWitness(DeliverySettings(store_url=(objects / "other").as_uri()), objects)
    assert 0x0112 == _only(level, ledger, commitments)


@pytest.mark.parametrize("gone", ["deleted", "rotten", "the delivery"])
def test_commitment_of_what_is_spooled_is_not_confirmed_from_memory(
    commitments: Commitments, ledger: Ledger, receive: Any, spool: Spool, gone: str
):
    """Who is told yes deletes its copy: the spool's has to be there, and whole. The deliverer finds what is wrong."""
    receive("1.2.1")
    assert 0 == _only("spooled", ledger, commitments)
    (path,) = (spool.delivering / "d1").iterdir()
    if gone == "rotten":
        path.write_bytes(bytes(9) + b"1")
    else:
        path.unlink()
        if gone == "the delivery":
            path.parent.rmdir()
    assert _only("spooled", ledger, commitments) is None
    assert 0x0213 == _only("spooled", ledger, commitments, limit_seconds=60)
    ledger.note_problem(ledger.find("1.2.1")[0], "the spooled file is gone")
    ledger.write()
    assert 0x0110 == _only("spooled", ledger, commitments)


@pytest.mark.parametrize("level", ["stored", "imported"])
def test_commitment_is_confirmed_by_any_object_of_the_same_bytes(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, objects: Path, level: str
):
    """What was stored again after the clock was set back is not last in the ledger, and is there all the same."""
    receive("1.2.1"), store("1.2.1")
    again = replace(ledger.find("1.2.1")[0], object_key="again/1.2.1.dcm", delivery_id="d2", received_at="2001-01-01")
    ledger.record_received([again])
    ledger.record_stored([(again.object_key, datetime.now(UTC))])
    ledger.record_imported(["key/1.2.1.dcm"], datetime.now(UTC))
    (objects / "again").mkdir()
    (objects / "key/1.2.1.dcm").rename(objects / again.object_key)
    assert 0 == _only(level, ledger, commitments)
    (objects / again.object_key).unlink()
    assert 0x0112 == _only(level, ledger, commitments)


@pytest.mark.parametrize("level", ["stored", "imported"])
def test_commitment_is_of_the_content_that_came_last(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, objects: Path, level: str
):
    """Another content under the same UID, sent after the clock was set back, is what the sender asks for."""
    receive("1.2.1"), store("1.2.1")
    ledger.record_imported(["key/1.2.1.dcm"], datetime.now(UTC))
    known = ledger.find("1.2.1")[0]
    content = b"other data"
    sha256 = hashlib.sha256(content).hexdigest()
    other = replace(known, sha256=sha256, object_key="other/1.2.1.dcm", delivery_id="d2", received_at="2001-01-01")
    ledger.record_received([replace(other, stored_at=None, imported_at=None, store=None)])
    assert _only(level, ledger, commitments) is None
    ledger.record_stored([(other.object_key, datetime.now(UTC))])
    ledger.record_imported([other.object_key], datetime.now(UTC))
    assert 0x0112 == _only(level, ledger, commitments)
    (objects / "other").mkdir()
    (objects / other.object_key).write_bytes(content)
    assert 0 == _only(level, ledger, commitments)


@pytest.mark.parametrize("level", ["spooled", "stored", "imported"])
@pytest.mark.parametrize(("took", "reason"), [("this store", 0), ("another store", 0x0112), (None, 0x0112)])
def test_edge_that_may_not_read_goes_by_what_its_store_took(
    commitments: Commitments,
    ledger: Ledger,
    receive: Any,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    took: str | None,
    reason: int,
):
    """Where S3 answers 403 for any key, an object counts as long as the same store is configured."""

    async def _forbidden(*_: Any) -> Any:
        raise PermissionDeniedError("403")

    receive("1.2.1"), store("1.2.1")
    ledger.record_imported(["key/1.2.1.dcm"], datetime.now(UTC))
    if took != "this store":
        ledger._store = took
        ledger.record_stored([("key/1.2.1.dcm", datetime.now(UTC))])
    monkeypatch.setattr(obstore, "head_async", _forbidden)
    assert reason == _only(level, ledger, commitments)


def test_store_that_does_not_answer_delays_a_report_to_its_limit(
    commitments: Commitments, ledger: Ledger, receive: Any, store: Any, monkeypatch: pytest.MonkeyPatch
):
    """An outage is neither success nor failure; when the time is up the resource is what is missing."""

    async def _silent(*_: Any) -> Any:
        raise TimeoutError

    receive("1.2.1"), store("1.2.1")
    monkeypatch.setattr(obstore, "head_async", _silent)
    with pytest.raises(TransientError, match="does not say"):
        _only("stored", ledger, commitments)
    assert 0x0213 == _only("stored", ledger, commitments, limit_seconds=60)


@pytest.mark.parametrize(
    ("gathered_until", "at", "reason"),
    [(0.0, NOW + 60, None), (NOW - 1, NOW + 60, None), (NOW + 1, NOW + 9, None), (NOW + 1, NOW + 60, 0x0112)],
)
def test_unknown_instance_is_said_to_be_none_only_when_all_is_gathered(
    ledger: Ledger, gathered_until: float, at: float, reason: int | None
):
    """What was acknowledged before the request may still wait to be gathered, after a restart or behind others."""
    request = replace(REQUEST, references=REQUEST.references[:1])
    settings = CommitmentSettings(level="spooled")
    report = make_report(request, ledger, settings, at, None, gathered_until)
    assert reason == (report.failed[0][1] if report else None)
    late = make_report(request, ledger, settings, NOW + settings.limit_seconds, None, 0.0)
    assert [0x0213] == [each for _, each in late.failed] if late else False


@pytest.mark.parametrize("progress", ["{}", '{"gathered_until": null}', '{"gathered_until": 1e12}', "[]"])
def test_clock_that_was_never_set_makes_nothing_known_too_early(spool: Spool, ledger: Ledger, progress: str):
    """Before 1970 as after: until all is gathered nothing is said to be unknown, and no time ahead is believed."""
    (spool.root / PROGRESS_FILE).write_text(progress)
    at = -1_000_000.0
    request = replace(REQUEST, requested_at=at)
    settings = CommitmentSettings(level="spooled", settle_seconds=0)
    assert make_report(request, ledger, settings, at + 60, None, read_gathered_until(spool.root)) is None
    assert make_report(request, ledger, settings, at + 60, None, at + 30) is not None


def test_request_of_a_day_to_come_is_reported_today(commitments: Commitments, ledger: Ledger):
    """The clock was ahead when it came, or when it was put off, and is right again: it does not wait for that day."""
    ahead = time.time() + 86_400 * 365
    request = replace(REQUEST, requested_at=ahead, next_at=ahead + 10, attempts=1)
    commitments.add(request)
    modality = Modality()
    try:
        settings = CommitmentSettings(
            level="spooled",
            settle_seconds=0,
            peers={"CT1": CommitmentPeer(host="127.0.0.1", port=modality.port)},
        )
        assert 1 == Reporter(commitments, ledger, settings).run_due()
    finally:
        modality.close()
    assert [2] == [event_type for event_type, _ in modality.reports]


class _FaultyEvent(threading.Event):
    """Fails when it is waited for the first time, as sleeping does where the clock is set under it."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Fail once."""
        self.faults += 1
        if self.faults == 1:
            raise OSError(errno.EINVAL, "")
        return super().wait(timeout)


def test_fault_of_the_clock_does_not_end_the_reports(spool: Spool, ledger: Ledger, receive: Any, commitments: Any):
    """A reporter that cannot wait goes on."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(replace(REQUEST, requested_at=time.time()))
    modality = Modality()
    stopping = _FaultyEvent()
    arguments = (commitments, _settings(modality.port), "CT1", ledger.distrust, stopping)
    reporter = threading.Thread(target=reporter_module._report_for, args=arguments)
    reporter.start()
    try:
        wait_for(lambda: modality.reports)
        assert stopping.faults > 1
    finally:
        stopping.set()
        reporter.join()
        modality.close()


def test_two_requestors_with_one_transaction_uid_have_a_report_each(commitments: Commitments, ledger: Ledger):
    """A Transaction UID is its requestor's: the second one is neither a repeat nor a duplicate."""
    assert commitments.add(REQUEST)
    assert commitments.add(replace(REQUEST, calling_ae_title="MR 1/2"))
    assert not commitments.add(replace(REQUEST, calling_ae_title="MR 1/2"))
    assert {"CT1", "MR 1/2"} == {each.calling_ae_title for each in commitments.open_requests()}
    assert ["MR 1/2"] == [each.calling_ae_title for each in commitments.open_requests("MR 1/2")]
    commitments.remove(REQUEST)
    assert ["MR 1/2"] == [each.calling_ae_title for each in commitments.open_requests()]


def test_request_that_an_earlier_version_kept_is_taken_over(commitments: Commitments, spool: Spool):
    """Its file had the Transaction UID's name alone; one given up is told apart by its name from now on."""
    undelivered = replace(REQUEST, transaction_uid="1.2.10", undelivered="no address")
    for number, request in enumerate((REQUEST, replace(REQUEST, is_duplicate=True), undelivered)):
        commitments.add(request)
        (path,) = [each for each in (spool.root / "commitments").iterdir() if "_" in each.name]
        path.rename(path.with_name(f"1.2.{number}{'.duplicate' if request.is_duplicate else ''}.json"))
    commitments.take_over()
    assert [REQUEST.transaction_uid] == [
        e.transaction_uid for e in commitments.open_requests("CT1") if not e.is_duplicate
    ][:1]
    assert {"open": 2, "undelivered": 1} == count_requests(spool.root)
    for request in list(commitments.open_requests()):
        commitments.remove(request)
    assert {"open": 0, "undelivered": 0} == count_requests(spool.root)


def test_request_that_fails_in_an_unknown_way_holds_up_no_other(
    commitments: Commitments, ledger: Ledger, receive: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """It is logged, put off and tried again; the next one is reported."""
    receive("1.2.1"), receive("1.2.2")
    for uid in ("1.2.8", "1.2.9"):
        commitments.add(replace(REQUEST, transaction_uid=uid, requested_at=time.time()))
    original = reporter_module._send

    def _send(peer: Any, request: CommitmentRequest, report: Report) -> None:
        if request.transaction_uid == "1.2.8":
            raise ValueError("a bug")
        original(peer, request, report)

    monkeypatch.setattr(reporter_module, "_send", _send)
    modality = Modality()
    try:
        assert 1 == Reporter(commitments, ledger, _settings(modality.port)).run_due()
    finally:
        modality.close()
    (kept,) = commitments.open_requests()
    assert ("1.2.8", 1) == (kept.transaction_uid, kept.attempts)
    assert "commitment_failed transaction=1.2.8" in caplog.text


def test_peer_that_does_not_answer_delays_no_other(
    spool: Spool, ledger: Ledger, receive: Any, commitments: Commitments
):
    """Each peer has a thread of its own: with several reports to a silent one, another gets its own at once."""
    receive("1.2.1"), receive("1.2.2")
    for number in range(4):
        commitments.add(replace(REQUEST, calling_ae_title="SILENT", transaction_uid=f"1.1.{number}"))
    commitments.add(replace(REQUEST, requested_at=time.time()))
    modality = Modality()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peers = {
            "SILENT": CommitmentPeer(host="127.0.0.1", port=silent.getsockname()[1]),
            "CT1": CommitmentPeer(host="127.0.0.1", port=modality.port),
        }
        settings = EdgeSettings(
            name="site",
            spool=SpoolSettings(dir=spool.root),
            delivery=DeliverySettings(store_url="file:///unused"),
            commitment=CommitmentSettings(level="spooled", peers=peers),
        )
        stopping = report_commitments(settings, ledger.distrust)
        try:
            wait_for(lambda: modality.reports)
            # The silent one's first attempt ends after thirty seconds: it goes on.
            assert [0] * 4 == [request.attempts for request in commitments.open_requests("SILENT")]
        finally:
            stopping.set()
            modality.close()


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])
def test_report_is_encoded_as_the_standard_says(syntax: str):
    """Transaction UID, successes and failures stand in their sequences; an empty one is left out."""
    report = Report("1.2.9", (), ((Reference(CT, "1.2.1"), 0x0112),))
    encoded = BytesIO(encode_report(report, syntax))
    found = read_dataset(encoded, is_implicit_VR=syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)
    assert (2, "1.2.9") == (report.event_type_id, found.TransactionUID)
    assert "ReferencedSOPSequence" not in found
    (item,) = found.FailedSOPSequence
    assert (CT, "1.2.1", 0x0112) == (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason)


def _settings(port: int, **peer: Any) -> CommitmentSettings:
    return CommitmentSettings(level="spooled", peers={"CT1": CommitmentPeer(host="127.0.0.1", port=port, **peer)})


def test_commitment_report_uses_a_new_association_as_scp(commitments: Commitments, ledger: Ledger, receive: Any):
    """A real SCU takes the report on an association of ours, on which we have the role of SCP."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(replace(REQUEST, requested_at=time.time()))
    modality = Modality()
    try:
        assert 1 == Reporter(commitments, ledger, _settings(modality.port)).run_due()
    finally:
        modality.close()
    ((event_type, information),) = modality.reports
    assert (1, "1.2.9") == (event_type, information.TransactionUID)
    assert ["1.2.1", "1.2.2"] == [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence]
    assert [] == list(commitments.open_requests())


def test_commitment_report_survives_restart_and_is_retried(
    commitments: Commitments, spool: Spool, ledger: Ledger, receive: Any
):
    """A report that nobody takes is kept, tried again later by another run, and then taken."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(replace(REQUEST, requested_at=time.time()))
    tried_at = time.time()
    assert 0 == Reporter(commitments, ledger, _settings(1)).run_due()
    (kept,) = Commitments(spool.root).open_requests()
    assert (1, "") == (kept.attempts, kept.undelivered)
    assert kept.next_at > tried_at + 5
    commitments.update(replace(kept, next_at=time.time() + 3600))
    modality = Modality()
    try:
        again = Reporter(Commitments(spool.root, commitments.witness), ledger, _settings(modality.port))
        assert 0 == again.run_due()
        commitments.update(replace(kept, next_at=0))
        assert 1 == again.run_due()
    finally:
        modality.close()


def test_status_other_than_success_is_a_failed_attempt(commitments: Commitments, ledger: Ledger, receive: Any):
    """A peer that refuses the report gets it again."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(replace(REQUEST, requested_at=time.time()))
    modality = Modality(status=0x0110)
    try:
        assert 0 == Reporter(commitments, ledger, _settings(modality.port)).run_due()
    finally:
        modality.close()
    (kept,) = commitments.open_requests()
    assert 1 == kept.attempts


def test_report_is_not_sent_without_the_role_of_scp(commitments: Commitments, ledger: Ledger, receive: Any):
    """A peer that does not answer the role item gets nothing, unless it is an exception by its settings."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(replace(REQUEST, requested_at=time.time()))
    modality = Modality(grants_role=False)
    try:
        assert 0 == Reporter(commitments, ledger, _settings(modality.port)).run_due()
    finally:
        modality.close()
    assert [] == modality.reports


def test_undelivered_report_is_kept_and_shown(commitments: Commitments, ledger: Ledger, receive: Any):
    """After days the attempts end; the request stays with its reason."""
    receive("1.2.1"), receive("1.2.2")
    commitments.add(REQUEST)
    reporter = Reporter(commitments, ledger, CommitmentSettings(level="spooled"))
    assert 0 == reporter.run_due()
    (kept,) = commitments.open_requests()
    assert "no address" in kept.undelivered
    assert 0 == reporter.run_due()
    assert [kept] == list(commitments.open_requests())


@pytest.fixture
def ask() -> Callable[..., int]:
    """Ask an edge for commitment as a modality does."""

    def _ask(port: int, *sops: str, calling_ae_title: str = "CT1") -> int:
        pairs = [(STORAGE_COMMITMENT, EXPLICIT_VR_LITTLE_ENDIAN)]
        with SendAssociation(
            "127.0.0.1",
            port,
            pairs,
            calling_ae_title=calling_ae_title,
            called_ae_title="EDGE",
            timeout_seconds=WAIT_SECONDS,
        ) as association:
            command = replace(ACTION, message_id=None)
            return association.request(
                STORAGE_COMMITMENT, command, lambda syntax: action_information("1.2.9", *sops, syntax=syntax)
            )

    return _ask


def test_modality_gets_its_report_from_a_running_edge(
    edge_with: Any, scu_with: Any, data_set: Any, until: Any, ask: Callable[..., int]
):
    """Stored, asked, released: the report comes on an association of the edge's when the object is in the store."""
    modality = Modality()
    try:
        edge = edge_with()
        peers = f'[commitment]\nlevel = "stored"\n[commitment.peers.CT1]\nhost = "127.0.0.1"\nport = {modality.port}\n'
        edge.config.write_text(edge.config.read_text() + peers)
        edge.start()
        scu = scu_with(edge.port)
        scu.associate()
        assert Status.SUCCESS == scu.store(data_set()).status
        scu.release()
        assert Status.NOT_AUTHORIZED == ask(edge.port, "1.2.3.4", calling_ae_title="OTHER")
        assert Status.SUCCESS == ask(edge.port, "1.2.3.4")
        until(lambda: modality.reports, explain=edge.tail)
    finally:
        modality.close()
    ((event_type, information),) = modality.reports
    assert 1 == event_type
    assert ["1.2.3.4"] == [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence]


def test_edge_without_peers_refuses_the_abstract_syntax(edge_with: Any, ask: Callable[..., int]):
    """Where nobody could be reported to commitment is not offered."""
    edge = edge_with().start()
    with pytest.raises(PermanentError, match="accepts no presentation context"):
        ask(edge.port, "1.2.3.4")
