"""Reports on the association of their request: once, only while the peer waits for them, and lost in no case."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from modality import ACTION, CT, Modality, action_dataset, action_information
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from waiting import WAIT_SECONDS

from dicomflow.dicom.references import Reference
from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
)
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import Command, CommandField, encode_command, encode_response
from dicomflow.dimse.events import AssociationAborted, AssociationReleased, CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.requestor import Requestor
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.prompt import PromptReport
from dicomflow.edge.commitment.reporter import Reporter
from dicomflow.edge.commitment.requests import CommitmentRequest, Commitments
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import LEDGER_FILE, Ledger, LedgerEntry
from dicomflow.edge.progress import PROGRESS_FILE
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings, DeliverySettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import stem_of

CONTEXTS = ((STORAGE_COMMITMENT, (EXPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)))
REPORTED = CommandField.N_EVENT_REPORT_RQ


@pytest.fixture
def ledger(spool: Spool) -> Iterator[Ledger]:
    """Give the spool's ledger, with one instance that is received and not stored."""
    found = Ledger(spool.root / LEDGER_FILE, store="file:///unused")
    now = datetime.now(UTC).isoformat()
    uids = (CT, EXPLICIT_VR_LITTLE_ENDIAN, "1.2.3", "1.2.4")
    entry = LedgerEntry(
        "1.2.1",
        hashlib.sha256(bytes(10)).hexdigest(),
        *uids,
        10,
        "a1",
        "CT1",
        "EDGE",
        "10.0.0.1",
        now,
        "d1",
        "key/1.2.1.dcm",
    )
    found.record_received([entry])
    (spool.delivering / "d1").mkdir()
    stem = stem_of(entry.association_id, 0, entry.peer, entry.sha256)
    (spool.delivering / "d1" / f"{stem}.dcm").write_bytes(bytes(10))
    yield found
    found.close()


def commitments_of(spool: Spool) -> Commitments:
    """Give the requests of a spool as the reporter has them."""
    return Commitments(spool.root, StoreWitness(DeliverySettings(store_url="file:///unused"), spool.root))


def settings(port: int = 1, **fields: Any) -> CommitmentSettings:
    """Give settings with one peer; its fields may be among those given."""
    peer = {"same_association_seconds": fields.pop("same_association_seconds", 60)}
    peers = {"CT1": CommitmentPeer(host="127.0.0.1", port=port, **peer)}
    return CommitmentSettings(**({"level": "spooled", "peers": peers, "settle_seconds": 0} | fields))


@pytest.fixture
def scu_of(receiver_with: Any, scu_with: Any, ledger: Ledger) -> Callable[..., Any]:
    """Associate for commitment and Verification with a receiver of these settings, and ask for a report.

    What the requestor goes on with is sent with the request: the receiver has no moment in which it seems to wait.
    """
    del ledger

    def _scu_of(
        wanted: CommitmentSettings, sop: str = "1.2.1", go_on: Callable[[Requestor], None] = lambda _requestor: None
    ) -> Any:
        scu = scu_with(receiver_with(commitment=wanted).port, contexts=CONTEXTS)
        scu.associate()
        scu.requestor.send(
            1, encode_command(ACTION), action_information("1.2.9", sop, syntax=EXPLICIT_VR_LITTLE_ENDIAN)
        )
        go_on(scu.requestor)
        scu.flush()
        assert Status.SUCCESS == scu.response().status
        return scu

    return _scu_of


def take_report(scu: Any) -> tuple[Command, Dataset]:
    """Return the report that comes on an association."""
    event = scu.next_event()
    assert isinstance(event, CommandReceived), event
    data = scu.next_event()
    assert isinstance(data, DataSetReceived)
    encoded = b"".join(data.fragments)
    while not data.is_last:
        data = scu.next_event()
        encoded += b"".join(data.fragments)
    return event.command, read_dataset(BytesIO(encoded), is_implicit_VR=False, is_little_endian=True)


def answer(scu: Any, command: Command, status: int) -> None:
    """Answer a report."""
    scu.requestor.send(1, encode_response(command, status))
    scu.flush()


def test_commitment_report_on_the_same_association_is_taken(
    receiver_with: Any, spool: Spool, ledger: Ledger, until: Any
):
    """pynetdicom, which stays after its request, gets the report there, and nothing is left to report."""
    reports: list[tuple[int, Dataset]] = []

    def _take(event: Any) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    application = AE("CT1")
    application.acse_timeout = application.dimse_timeout = application.network_timeout = WAIT_SECONDS
    application.add_requested_context(StorageCommitmentPushModel, EXPLICIT_VR_LITTLE_ENDIAN)
    receiver = receiver_with(commitment=settings())
    association = application.associate("127.0.0.1", receiver.port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, _take)])
    assert association.is_established
    association._reactor_checkpoint = gate = _Gate()
    assert gate.is_reached.wait(WAIT_SECONDS)
    status, _ = association.send_n_action(
        action_dataset("1.2.9", "1.2.1"), 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
    )
    assert 0 == status.Status
    gate.open()
    until(lambda: reports)
    until(lambda: not list(Commitments(spool.root).open_requests()))
    association.release()
    ((event_type, information),) = reports
    assert (1, "1.2.9") == (event_type, information.TransactionUID)
    assert ["1.2.1"] == [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence]
    assert 0 == Reporter(commitments_of(spool), ledger, settings()).run_due()


class _Gate(threading.Event):
    """Holds the thread that pynetdicom runs beside a requestor while a request is made, which is not safe in 3.0.4."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached = threading.Event()
        self._is_open = False

    def open(self) -> None:
        """Let the thread go on."""
        self._is_open = True
        super().set()

    def set(self) -> None:
        """Do nothing before `open`."""
        if self._is_open:
            super().set()

    def wait(self, timeout: float | None = None) -> bool:
        """Say that the thread is held, and hold it."""
        self.is_reached.set()
        return super().wait(timeout)


def test_report_of_what_is_unknown_says_so_on_the_same_association(scu_of: Any, spool: Spool, until: Any):
    """Failures are reported there too, each with its reason, once all that came before the request is gathered."""
    scu = scu_of(settings(), "1.2.77")
    assert not scu.has_answer(0.6)
    (spool.root / PROGRESS_FILE).write_text(f'{{"gathered_until": {time.time() + 1}}}')
    command, information = take_report(scu)
    assert (REPORTED, 2) == (command.command_field, command.event_type_id)
    assert [0x0112] == [item.FailureReason for item in information.FailedSOPSequence]
    answer(scu, command, Status.SUCCESS)
    until(lambda: not list(Commitments(spool.root).open_requests()))
    assert isinstance(scu.release(), AssociationReleased)


def test_report_that_is_not_answered_is_sent_again_on_a_new_association(
    scu_of: Any, spool: Spool, ledger: Ledger, until: Any
):
    """The peer leaves without an answer: the attempt is counted, and the next is on a new association."""
    modality = Modality()
    try:
        asked_at = time.time()
        scu = scu_of(settings(same_association_seconds=60))
        take_report(scu)
        (held,) = Commitments(spool.root).open_requests()
        assert 1 == held.attempts
        assert held.next_at > asked_at + 60
        scu.socket.close()
        until(lambda: next(Commitments(spool.root).open_requests()).next_at <= time.time())
        assert 1 == Reporter(commitments_of(spool), ledger, settings(modality.port)).run_due()
    finally:
        modality.close()
    assert 1 == len(modality.reports)
    assert [] == list(Commitments(spool.root).open_requests())


def test_report_that_is_refused_is_kept_for_a_new_association(scu_of: Any, spool: Spool, until: Any):
    """A status other than Success is a failed attempt, and the association goes on."""
    scu = scu_of(settings())
    command, _ = take_report(scu)
    answered_at = time.time()
    answer(scu, command, Status.PROCESSING_FAILURE)
    until(lambda: answered_at + 5 < next(Commitments(spool.root).open_requests()).next_at <= time.time() + 10)
    assert Status.SUCCESS == scu.echo().status
    (kept,) = Commitments(spool.root).open_requests()
    assert (1, "") == (kept.attempts, kept.undelivered)


@pytest.mark.parametrize("then", ["release", "echo"])
def test_report_is_left_to_a_new_association_when_the_peer_goes_on(scu_of: Any, spool: Spool, until: Any, then: str):
    """A peer that releases, or asks for something else, does not wait for the report: it gets none there."""
    echo = Command(CommandField.C_ECHO_RQ, message_id=9, affected_sop_class_uid=VERIFICATION.encode())
    ways = {"release": Requestor.release, "echo": lambda requestor: requestor.send(3, encode_command(echo))}
    scu = scu_of(settings(), go_on=ways[then])
    event = scu.next_event()
    assert isinstance(event, AssociationReleased | CommandReceived)
    until(lambda: next(Commitments(spool.root).open_requests()).next_at <= time.time())
    (kept,) = Commitments(spool.root).open_requests()
    assert 0 == kept.attempts
    assert not scu.has_answer(0.6) or then == "release"


def test_report_waits_for_the_level_while_the_peer_stays(
    scu_of: Any, ledger: Ledger, spool: Spool, until: Any, objects: Path
):
    """Stored a moment after the request: the report comes then, and not before."""
    scu = scu_of(settings(level="stored", same_association_seconds=60))
    assert not scu.has_answer(0.6)
    (objects / "key").mkdir(parents=True)
    (objects / "key/1.2.1.dcm").write_bytes(bytes(10))
    ledger.record_stored([("key/1.2.1.dcm", datetime.now(UTC))])
    command, _ = take_report(scu)
    assert 1 == command.event_type_id
    answer(scu, command, Status.SUCCESS)
    until(lambda: not list(Commitments(spool.root).open_requests()))


def test_report_is_left_to_a_new_association_when_the_level_is_late(scu_of: Any, spool: Spool, until: Any):
    """When its time is over the request is the reporter's, and the association goes on."""
    scu = scu_of(settings(level="stored", same_association_seconds=0.3))
    until(lambda: next(Commitments(spool.root).open_requests()).next_at <= time.time())
    assert Status.SUCCESS == scu.echo().status


def test_report_is_never_sent_on_the_same_association_to_a_peer_that_cannot(scu_of: Any, spool: Spool):
    """With 0 seconds the request is the reporter's from the start."""
    scu = scu_of(settings(same_association_seconds=0))
    (kept,) = Commitments(spool.root).open_requests()
    assert 0 == kept.next_at
    assert not scu.has_answer(0.6)


def test_request_of_a_worker_that_died_is_reported_when_its_time_is_over(scu_of: Any, spool: Spool, ledger: Ledger):
    """While a worker may report nobody else does; afterwards the reporter does."""
    modality = Modality()
    try:
        scu_of(settings(modality.port, level="stored", same_association_seconds=60))  # never by the worker
        reporter = Reporter(commitments_of(spool), ledger, settings(modality.port))
        assert 0 == reporter.run_due()
        (held,) = Commitments(spool.root).open_requests()
        Commitments(spool.root).update(replace(held, next_at=time.time()))
        assert 1 == reporter.run_due()
    finally:
        modality.close()


def test_response_to_no_report_is_aborted(scu_of: Any):
    """A response with the number of no report of ours is a protocol error, as before."""
    scu = scu_of(settings(same_association_seconds=0))
    answer(scu, Command(REPORTED, message_id=1, affected_sop_class_uid=STORAGE_COMMITMENT.encode()), Status.SUCCESS)
    assert isinstance(scu.next_event(), AssociationAborted)


def test_second_request_before_the_first_is_answered_is_left_to_a_new_association(
    scu_of: Any, spool: Spool, until: Any
):
    """One report at a time on an association: the first is taken there, the second is the reporter's at once."""
    scu = scu_of(settings())
    command, _ = take_report(scu)
    information = action_information("1.2.10", "1.2.1", syntax=EXPLICIT_VR_LITTLE_ENDIAN)
    scu.requestor.send(1, encode_command(replace(ACTION, message_id=2)), information)
    scu.flush()
    assert Status.SUCCESS == scu.response().status
    answer(scu, command, Status.SUCCESS)
    until(lambda: 1 == len(list(Commitments(spool.root).open_requests())))
    (kept,) = Commitments(spool.root).open_requests()
    assert ("1.2.10", 0, 0) == (kept.transaction_uid, kept.next_at, kept.attempts)


def test_answer_that_comes_too_late_changes_nothing(spool: Spool, ledger: Ledger):
    """After its time the request is the reporter's: an answer neither removes nor changes it."""
    del ledger
    commitments = commitments_of(spool)
    request = CommitmentRequest("1.2.9", "CT1", "EDGE", (Reference(CT, "1.2.1"),), time.time(), next_at=time.time() + 9)
    commitments.add(request)
    acceptor = _Sink()
    context = AcceptedContext(1, STORAGE_COMMITMENT, EXPLICIT_VR_LITTLE_ENDIAN)
    report = PromptReport(
        request,
        commitments,
        settings(),
        acceptor,
        context,
        message_id=1,
        began_at=time.monotonic(),
        seconds=60,
    )
    report.go_on()
    assert 1 == acceptor.sent
    report._owned_until = time.monotonic()
    report.take_status(Status.SUCCESS)
    assert report.is_over
    (kept,) = commitments.open_requests()
    assert replace(request, attempts=1) == kept


class _Sink(Acceptor):
    """An acceptor whose association is not negotiated."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def send(self, context_id: int, command: bytes, data_set: bytes | None = None) -> None:
        """Count what is sent."""
        assert (1, True, True) == (context_id, bool(command), bool(data_set))
        self.sent += 1
