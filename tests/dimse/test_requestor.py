"""The requestor: the columns of PS3.8 Table 9-10 for Sta5, Sta6, Sta7, Sta11 and Sta13."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from dicomflow.dimse.acceptor import State
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationAccepted,
    AssociationRejected,
    AssociationReleased,
    CommandReceived,
    ConnectionLost,
    Event,
)
from dicomflow.dimse.items import AnsweredContext
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.pdu import (
    AbortSource,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_associate_request,
    encode_release_request,
    encode_release_response,
)
from dicomflow.dimse.requestor import Requestor, RequestorState
from dicomflow.dimse.status import AbortReason
from dicomflow.errors import InternalError, PermanentError

MakeRequest = Callable[..., AssociateRequest]
S = RequestorState

IMPLICIT = "1.2.840.10008.1.2"
ACCEPT = encode_associate_accept(AssociateAccept((AnsweredContext(1, 0, IMPLICIT), AnsweredContext(3, 4, "")), 16_384))
RESPONSE = encode_command(Command(0x8030, message_id_responded_to=1, status=0))
PDUS = {
    "AC": ACCEPT,
    "RJ": encode_associate_reject(AssociateReject(2, 3, 1)),
    "RQ": bytes.fromhex("01000000000400010000"),
    "P-DATA": encode_message(1, RESPONSE, 0),
    "RELEASE-RQ": encode_release_request(),
    "RELEASE-RP": encode_release_response(),
    "ABORT": encode_abort(2, 6),
    "unknown": b"\x09\x00\x00\x00\x00\x04\x00\x00\x00\x00",
    "invalid": struct.pack(">BxIIBB", 4, 6, 0, 1, 3),
}
NOTHING, RELEASE_RP = b"", encode_release_response()
UNRECOGNIZED, UNEXPECTED, INVALID = encode_abort(2, 1), encode_abort(2, 2), encode_abort(2, 6)
BY_US, BY_PEER = "aborted by us", "aborted by the peer"
ALWAYS = {
    "ABORT": (NOTHING, S.STA1, BY_PEER),
    "unknown": (UNRECOGNIZED, S.STA13, BY_US),
    "invalid": (INVALID, S.STA13, BY_US),
}
STA5 = {
    "AC": (NOTHING, S.STA6, AssociationAccepted),
    "RJ": (NOTHING, S.STA1, AssociationRejected),
    **dict.fromkeys(("RQ", "P-DATA", "RELEASE-RQ", "RELEASE-RP"), (UNEXPECTED, S.STA13, BY_US)),
    **ALWAYS,
}
STA6 = {
    **dict.fromkeys(("AC", "RJ", "RQ", "RELEASE-RP"), (UNEXPECTED, S.STA13, BY_US)),
    "P-DATA": (NOTHING, S.STA6, CommandReceived),
    "RELEASE-RQ": (RELEASE_RP, S.STA13, AssociationReleased),
    **ALWAYS,
}
STA7 = {
    **dict.fromkeys(("AC", "RJ", "RQ"), (UNEXPECTED, S.STA13, BY_US)),
    "P-DATA": (NOTHING, S.STA7, CommandReceived),
    "RELEASE-RQ": (RELEASE_RP, S.STA11, None),
    "RELEASE-RP": (NOTHING, S.STA1, AssociationReleased),
    **ALWAYS,
}
STA11 = {
    **dict.fromkeys(("AC", "RJ", "RQ", "P-DATA", "RELEASE-RQ"), (UNEXPECTED, S.STA13, BY_US)),
    "RELEASE-RP": (NOTHING, S.STA1, AssociationReleased),
    **ALWAYS,
}
STA13 = dict.fromkeys(PDUS, (NOTHING, S.STA13, None))
CELLS = [
    pytest.param(state, name, *cell, id=f"{state.name}-{name}")
    for state, column in ((S.STA5, STA5), (S.STA6, STA6), (S.STA7, STA7), (S.STA11, STA11), (S.STA13, STA13))
    for name, cell in column.items()
]


def drain(requestor: Requestor, data: bytes) -> list[Event]:
    """Receive bytes and return all they led to."""
    return list(requestor.receive(memoryview(data)))


def sent(requestor: Requestor) -> bytes:
    """Return what is to be sent."""
    return b"".join(requestor.parts_to_send())


def requestor_in(state: RequestorState, request: AssociateRequest) -> Requestor:
    """Bring a requestor into a state, with nothing left to send."""
    requestor = Requestor(request)
    if state is not S.STA5:
        drain(requestor, ACCEPT)
    if state in {S.STA7, S.STA11}:
        requestor.release()
    if state is S.STA11:
        drain(requestor, PDUS["RELEASE-RQ"])
    if state is S.STA13:
        requestor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "")
    sent(requestor)
    assert state is requestor.state
    return requestor


def told(events: list[Event]) -> object:
    """Name the one event, if any."""
    if not events:
        return None
    (event,) = events
    if isinstance(event, AssociationAborted):
        return BY_PEER if event.by_peer else BY_US
    return type(event)


@pytest.mark.parametrize(("state", "name", "expected_sent", "next_state", "expected"), CELLS)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "bytes"])
def test_received_pdu_leads_to_the_action_of_its_cell(
    state: RequestorState,
    name: str,
    expected_sent: bytes,
    next_state: RequestorState,
    expected: object,
    make_request: MakeRequest,
    *,
    is_whole: bool,
):
    """PS3.8 Table 9-10, events 3, 4, 6, 10, 12, 13, 16 and 19, whole and byte by byte."""
    requestor = requestor_in(state, make_request())
    pieces = [PDUS[name]] if is_whole else [bytes([byte]) for byte in PDUS[name]]
    events = [event for piece in pieces for event in drain(requestor, piece)]
    assert (expected_sent, next_state, expected) == (sent(requestor), requestor.state, told(events))


def test_request_is_the_first_thing_to_send(make_request: MakeRequest):
    """AE-2."""
    assert encode_associate_request(make_request()) == sent(Requestor(make_request()))


def test_request_with_an_illegal_ae_title_is_refused_before_it_is_sent(make_request: MakeRequest):
    """Not cut in silence."""
    with pytest.raises(PermanentError):
        Requestor(make_request(called_ae_title="SEVENTEEN-LETTERS"))


@pytest.mark.parametrize("state", [S.STA5, S.STA6, S.STA7, S.STA11])
def test_closed_transport_is_a_lost_connection(state: RequestorState, make_request: MakeRequest):
    """Event 17: AA-4."""
    requestor = requestor_in(state, make_request())
    assert ConnectionLost is told(list(requestor.receive_eof()))
    assert S.STA1 is requestor.state


def test_closed_transport_after_the_end_is_expected(make_request: MakeRequest):
    """Event 17 in Sta13: AR-5, nothing to tell."""
    requestor = requestor_in(S.STA13, make_request())
    assert [] == list(requestor.receive_eof())


def test_message_or_release_outside_an_association_is_a_bug_of_ours(make_request: MakeRequest):
    """Both belong to Sta6."""
    requestor = requestor_in(S.STA5, make_request())
    with pytest.raises(InternalError):
        requestor.send(1, RESPONSE)
    with pytest.raises(InternalError):
        requestor.release()


@pytest.mark.parametrize("length", range(1, 8))
def test_peer_that_leaves_no_room_for_a_fragment_is_aborted(length: int, make_request: MakeRequest):
    """A maximum length below 8 holds no fragment of even length (PS3.8 D.1)."""
    requestor = requestor_in(S.STA5, make_request())
    assert BY_US == told(drain(requestor, encode_associate_accept(AssociateAccept((), length))))
    assert encode_abort(0, 0) == sent(requestor)


@pytest.mark.parametrize("pdu", [b"\x03\x00\x00\x00\x00\x03\x00\x01\x01", b"\x02\x00\x00\x00\x00\x02\x00\x01"])
def test_answer_that_cannot_be_decoded_is_aborted(pdu: bytes, make_request: MakeRequest):
    """Event 19 in Sta5: AA-8."""
    requestor = requestor_in(S.STA5, make_request())
    assert BY_US == told(drain(requestor, pdu))
    assert (INVALID, S.STA13) == (sent(requestor), requestor.state)


def test_command_set_that_cannot_be_decoded_is_aborted_as_a_user(make_request: MakeRequest):
    """A-ABORT 0/0."""
    requestor = requestor_in(S.STA6, make_request())
    assert BY_US == told(drain(requestor, encode_message(1, RESPONSE[:30], 0)))
    assert encode_abort(0, 0) == sent(requestor)


def test_release_collision_ends_cleanly(join: Callable[..., Any]):
    """Both ask at once; the requestor answers first, and it is no error (PS3.8 9.2.2, Sta9 to Sta12)."""
    wire = join()
    wire.exchange()
    wire.requestor.release()
    requested = sent(wire.requestor)
    events = drain(wire.requestor, encode_release_request())
    assert [] == events
    assert (requested, RELEASE_RP) == (encode_release_request(), sent(wire.requestor))
    assert AssociationReleased is told(drain(wire.requestor, RELEASE_RP))
    assert S.STA1 is wire.requestor.state


def test_data_within_a_release_collision_is_aborted(make_request: MakeRequest):
    """No data is legal in Sta11, not even what goes on with a message begun before (AA-8)."""
    requestor = requestor_in(S.STA7, make_request())
    begun = encode_command(Command(0x8020, message_id_responded_to=1, status=0xFF00, data_set_type=1))
    more = struct.pack(">BxIIBB", 4, 10, 6, 1, 0) + b"more"
    events = drain(requestor, encode_message(1, begun, 0) + more + PDUS["RELEASE-RQ"] + more)
    assert BY_US == told(events[-1:])
    assert RELEASE_RP + UNEXPECTED == sent(requestor)


def test_rejection_reaches_the_requestor_with_its_reason(join: Callable[..., Any]):
    """Two endpoints joined: the acceptor rejects, the requestor says why."""
    wire = join(answer=lambda _: AssociateReject(1, 1, 7))
    wire.exchange()
    assert AssociationRejected(AssociateReject(1, 1, 7)) == wire.requestor_events[-1]
    assert (S.STA1, State.STA13) == (wire.requestor.state, wire.acceptor.state)


def test_abort_of_either_side_reaches_the_other(join: Callable[..., Any]):
    """With source and reason."""
    wire = join()
    wire.exchange()
    wire.acceptor.abort(AbortSource.PROVIDER, AbortReason.UNEXPECTED_PDU, "")
    wire.exchange()
    assert AssociationAborted(2, 2, by_peer=True, message="aborted by the peer") == wire.requestor_events[-1]
    wire = join()
    wire.exchange()
    wire.requestor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "")
    wire.exchange()
    assert AssociationAborted(0, 0, by_peer=True, message="aborted by the peer") == wire.acceptor_events[-1]
    assert State.STA1 is wire.acceptor.state


def test_data_set_is_sent_without_a_copy(make_request: MakeRequest):
    """The parts to send are views of what was given."""
    requestor = requestor_in(S.STA6, make_request())
    data_set = memoryview(bytes(100_000))
    requestor.send(1, encode_command(Command(CommandField.C_STORE_RQ, message_id=1, data_set_type=1)), data_set)
    views = [part for part in requestor.parts_to_send() if isinstance(part, memoryview)]
    assert len(data_set) == sum(map(len, views))
    assert all(view.obj is data_set.obj for view in views)
