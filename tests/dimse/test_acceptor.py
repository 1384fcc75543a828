"""The acceptor: one test for each cell of PS3.8 Table 9-10 that a receiver can meet, and what it tells its caller."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from dicomflow.dimse.acceptor import Acceptor, State
from dicomflow.dimse.command import Command, CommandField, encode_command, encode_response
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationReleased,
    AssociationRequested,
    CommandReceived,
    ConnectionLost,
    DataSetReceived,
    Event,
)
from dicomflow.dimse.items import ProposedContext
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.negotiation import negotiate
from dicomflow.dimse.pdu import (
    AbortSource,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    decode_associate_accept,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_associate_request,
    encode_release_request,
    encode_release_response,
)
from dicomflow.dimse.requestor import RequestorState
from dicomflow.dimse.status import AbortReason
from dicomflow.errors import InternalError

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
CONTEXTS = (ProposedContext(1, "1.2.840.10008.1.1", (IMPLICIT,)), ProposedContext(3, CT, (IMPLICIT,)))
ECHO = encode_command(Command(CommandField.C_ECHO_RQ, message_id=1))
STORE = encode_command(Command(CommandField.C_STORE_RQ, message_id=2, data_set_type=1))

REQUEST = encode_associate_request(AssociateRequest("CALLED", "CALLING", CONTEXTS, 16_384))
PDUS = {
    "AC": encode_associate_accept(AssociateAccept((), 0)),
    "RJ": encode_associate_reject(AssociateReject(1, 1, 1)),
    "RQ": REQUEST,
    "P-DATA": encode_message(1, ECHO, 0),
    "RELEASE-RQ": encode_release_request(),
    "RELEASE-RP": encode_release_response(),
    "ABORT": encode_abort(2, 6),
    "unknown": b"\x09\x00\x00\x00\x00\x04\x00\x00\x00\x00",
    "invalid": struct.pack(">BxIIBB", 4, 6, 0, 1, 3),
    "too long": struct.pack(">BxI", 1, 1 << 21),
}
NOTHING, RELEASE_RP = b"", encode_release_response()
USER, UNRECOGNIZED, UNEXPECTED, INVALID = encode_abort(0, 0), encode_abort(2, 1), encode_abort(2, 2), encode_abort(2, 6)
BY_US, BY_PEER = "aborted by us", "aborted by the peer"

# Rows of PS3.8 Table 9-10 as (what is sent, next state, what is told), by the state they are met in.
STA2 = {
    "AC": (USER, State.STA13, BY_US),
    "RJ": (USER, State.STA13, BY_US),
    "RQ": (NOTHING, State.STA3, AssociationRequested),
    "P-DATA": (USER, State.STA13, BY_US),
    "RELEASE-RQ": (USER, State.STA13, BY_US),
    "RELEASE-RP": (USER, State.STA13, BY_US),
    "ABORT": (NOTHING, State.STA1, None),
    "unknown": (USER, State.STA13, BY_US),
    "invalid": (USER, State.STA13, BY_US),
    "too long": (USER, State.STA13, BY_US),
}
STA3 = {
    **dict.fromkeys(("AC", "RJ", "RQ", "P-DATA", "RELEASE-RQ", "RELEASE-RP"), (UNEXPECTED, State.STA13, BY_US)),
    "ABORT": (NOTHING, State.STA1, BY_PEER),
    "unknown": (UNRECOGNIZED, State.STA13, BY_US),
    "invalid": (INVALID, State.STA13, BY_US),
    "too long": (INVALID, State.STA13, BY_US),
}
STA6 = {
    **dict.fromkeys(("AC", "RJ", "RQ", "RELEASE-RP"), (UNEXPECTED, State.STA13, BY_US)),
    "P-DATA": (NOTHING, State.STA6, CommandReceived),
    "RELEASE-RQ": (RELEASE_RP, State.STA13, AssociationReleased),
    "ABORT": (NOTHING, State.STA1, BY_PEER),
    "unknown": (UNRECOGNIZED, State.STA13, BY_US),
    "invalid": (INVALID, State.STA13, BY_US),
    "too long": (INVALID, State.STA13, BY_US),
}
STA13 = {
    **dict.fromkeys(("AC", "RJ", "P-DATA", "RELEASE-RQ", "RELEASE-RP"), (NOTHING, State.STA13, None)),
    "RQ": (UNEXPECTED, State.STA13, None),
    "ABORT": (NOTHING, State.STA1, None),
    "unknown": (UNRECOGNIZED, State.STA13, None),
    "invalid": (INVALID, State.STA13, None),
    "too long": (INVALID, State.STA13, None),
}
CELLS = [
    pytest.param(state, name, *cell, id=f"{state.name}-{name}")
    for state, column in ((State.STA2, STA2), (State.STA3, STA3), (State.STA6, STA6), (State.STA13, STA13))
    for name, cell in column.items()
]


def drain(acceptor: Acceptor, data: bytes) -> list[Event]:
    """Receive bytes and return all they led to."""
    return list(acceptor.receive(memoryview(data)))


def acceptor_in(state: State) -> Acceptor:
    """Bring an acceptor into a state, with nothing left to send."""
    acceptor = Acceptor()
    if state is not State.STA2:
        drain(acceptor, REQUEST)
    if state is State.STA13:
        acceptor.reject(AssociateReject(1, 1, 7))
    elif state is State.STA6:
        assert acceptor.request is not None
        acceptor.accept(negotiate(acceptor.request, max_length=131_072))
    acceptor.data_to_send()
    assert state is acceptor.state
    return acceptor


def told(events: list[Event]) -> object:
    """Name the one event, if any."""
    if not events:
        return None
    (event,) = events
    if isinstance(event, AssociationAborted):
        return BY_PEER if event.by_peer else BY_US
    return type(event)


@pytest.mark.parametrize(("state", "name", "sent", "next_state", "expected"), CELLS)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "bytes"])
def test_received_pdu_leads_to_the_action_of_its_cell(
    state: State, name: str, sent: bytes, next_state: State, expected: object, *, is_whole: bool
):
    """PS3.8 Table 9-10, events 3, 4, 6, 10, 12, 13, 16 and 19, whole and byte by byte."""
    acceptor = acceptor_in(state)
    pieces = [PDUS[name]] if is_whole else [bytes([byte]) for byte in PDUS[name]]
    events = [event for piece in pieces for event in drain(acceptor, piece)]
    assert (sent, next_state, expected) == (acceptor.data_to_send(), acceptor.state, told(events))


@pytest.mark.parametrize(
    ("state", "expected"),
    [(State.STA2, None), (State.STA3, ConnectionLost), (State.STA6, ConnectionLost), (State.STA13, None)],
)
def test_closed_transport_ends_the_association(state: State, expected: object):
    """Event 17: AA-5, AA-4 and AR-5; nothing is sent."""
    acceptor = acceptor_in(state)
    assert expected is told(list(acceptor.receive_eof()))
    assert (State.STA1, b"") == (acceptor.state, acceptor.data_to_send())


def test_local_answers_lead_to_their_states():
    """Events 7 and 8: AE-7 sends the acceptance, AE-8 the rejection."""
    acceptor = acceptor_in(State.STA3)
    assert acceptor.request is not None
    accept = negotiate(acceptor.request, max_length=65_536)
    acceptor.accept(accept)
    assert State.STA6 is acceptor.state
    assert accept == decode_associate_accept(acceptor.data_to_send()[6:])
    rejecting = acceptor_in(State.STA3)
    rejecting.reject(AssociateReject(1, 1, 3))
    assert (State.STA13, bytes.fromhex("03000000000400010103")) == (rejecting.state, rejecting.data_to_send())


@pytest.mark.parametrize("state", [State.STA2, State.STA3, State.STA6])
def test_local_abort_is_sent_with_its_source(state: State):
    """Event 15: AA-1."""
    acceptor = acceptor_in(state)
    event = acceptor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "why")
    assert (False, "why") == (event.by_peer, event.message)
    assert (State.STA13, USER) == (acceptor.state, acceptor.data_to_send())


@pytest.mark.parametrize("state", [State.STA2, State.STA6, State.STA13])
def test_answer_without_a_request_is_a_bug_of_ours(state: State):
    """An acceptance belongs to Sta3, a message to Sta6."""
    acceptor = acceptor_in(state)
    with pytest.raises(InternalError):
        acceptor.accept(AssociateAccept((), 0))
    with pytest.raises(InternalError):
        acceptor.reject(AssociateReject(1, 1, 1))
    if state is not State.STA6:
        with pytest.raises(InternalError):
            acceptor.send(1, ECHO)


@pytest.mark.parametrize("cut", [REQUEST[:6] + REQUEST[6:200] + b"\xff" * (len(REQUEST) - 200)])
def test_request_that_cannot_be_decoded_is_aborted_as_a_user(cut: bytes):
    """Event 19 in Sta2 is AA-1: A-ABORT 0/0."""
    acceptor = Acceptor()
    assert BY_US == told(drain(acceptor, cut))
    assert (State.STA13, USER) == (acceptor.state, acceptor.data_to_send())


def test_abort_of_another_length_is_an_invalid_pdu():
    """Event 19 in Sta6."""
    acceptor = acceptor_in(State.STA6)
    assert BY_US == told(drain(acceptor, b"\x07\x00\x00\x00\x00\x02\x00\x00"))
    assert INVALID == acceptor.data_to_send()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode_message(99, ECHO, 0), encode_abort(2, 5)),
        (encode_message(2, ECHO, 0), encode_abort(2, 5)),
        (encode_message(3, STORE, 0) + encode_message(1, ECHO, 0), encode_abort(2, 5)),
        (encode_message(1, ECHO[:-1], 0), encode_abort(0, 0)),
        (encode_message(1, b"", 0), encode_abort(0, 0)),
    ],
    ids=["unaccepted-context", "even-context", "interleaved", "undecodable", "empty-command"],
)
def test_message_that_breaks_the_rules_is_aborted_with_its_reason(data: bytes, expected: bytes):
    """Section 12's table: 2/5 for what is unexpected, 2/6 for what is invalid, 0/0 for a command set."""
    acceptor = acceptor_in(State.STA6)
    events = drain(acceptor, data)
    assert isinstance(events[-1], AssociationAborted)
    assert (expected, State.STA13) == (acceptor.data_to_send(), acceptor.state)


def test_nothing_is_understood_after_an_abort_of_ours():
    """What still arrives cannot be trusted to be framed; there is one abort, and no event."""
    acceptor = acceptor_in(State.STA6)
    events = drain(acceptor, PDUS["unknown"] + PDUS["P-DATA"] + PDUS["unknown"])
    assert BY_US == told(events)
    assert UNRECOGNIZED == acceptor.data_to_send()
    assert [] == drain(acceptor, PDUS["RQ"] + PDUS["unknown"])
    assert b"" == acceptor.data_to_send()


@pytest.mark.parametrize("name", PDUS)
@pytest.mark.parametrize("state", [State.STA2, State.STA3, State.STA6, State.STA13])
def test_nothing_is_understood_after_an_abort_of_the_peers(state: State, name: str):
    """In Sta1 the transport is to be closed: what still arrives is neither an event nor an answer."""
    acceptor = acceptor_in(state)
    drain(acceptor, PDUS["ABORT"])
    assert State.STA1 is acceptor.state
    assert [] == drain(acceptor, PDUS[name])
    assert (State.STA1, b"") == (acceptor.state, acceptor.data_to_send())


def test_message_behind_a_request_in_one_segment_is_read():
    """A sender need not wait for the acceptance before its bytes are on the wire."""
    acceptor = Acceptor()
    events = []
    for event in acceptor.receive(memoryview(REQUEST + PDUS["P-DATA"])):
        events.append(type(event))
        if isinstance(event, AssociationRequested):
            acceptor.accept(negotiate(event.request, max_length=0))
    assert [AssociationRequested, CommandReceived] == events


def test_command_and_data_in_one_pdu_are_both_read():
    """All PDVs of a PDU belong to one message, but command and data may share it (PS3.8 E.2)."""
    items = b"".join(
        struct.pack(">IBB", len(data) + 2, 3, control) + data
        for control, data in ((3, STORE), (0, b"abcd"), (2, b"ef"))
    )
    acceptor = acceptor_in(State.STA6)
    events = drain(acceptor, struct.pack(">BxI", 4, len(items)) + items)
    command, data_set = events
    assert isinstance(command, CommandReceived)
    assert isinstance(data_set, DataSetReceived)
    assert (b"abcdef", True) == (b"".join(data_set.fragments), data_set.is_last)
    assert acceptor.is_between_messages


def test_acceptor_awaits_the_rest_of_what_has_begun():
    """At each byte within a request or a message, and at none behind it: the rest may wait for our acknowledgement."""
    acceptor = Acceptor()
    for number, byte in enumerate(REQUEST):
        assert bool(number) == acceptor.awaits_rest
        drain(acceptor, bytes([byte]))
    assert not acceptor.awaits_rest
    acceptor = acceptor_in(State.STA6)
    for number, byte in enumerate(encode_message(3, STORE, 0, b"0123456789")):
        assert bool(number) == acceptor.awaits_rest
        drain(acceptor, bytes([byte]))
    assert not acceptor.awaits_rest


def test_release_within_an_object_is_answered_and_drops_it():
    """What is half received is no object; no data follows the release (PS3.8 9.2, AR-2 and AR-4)."""
    acceptor = acceptor_in(State.STA6)
    started = encode_message(3, STORE, 0) + struct.pack(">BxIIBB", 4, 10, 6, 3, 0) + b"half"
    events = drain(acceptor, started + PDUS["RELEASE-RQ"])
    assert [CommandReceived, AssociationReleased] == [type(event) for event in events]
    assert RELEASE_RP == acceptor.data_to_send()


def test_data_set_that_goes_on_after_the_release_is_not_kept():
    """In Sta13 data is ignored (AA-6): nothing of it is held until ARTIM expires, however much comes."""
    acceptor = acceptor_in(State.STA6)
    drain(acceptor, encode_message(3, STORE, 0) + PDUS["RELEASE-RQ"])
    assert acceptor.is_between_messages
    received = bytearray((struct.pack(">BxIIBB", 4, 10, 6, 3, 0) + b"more") * 100)
    with memoryview(received) as view:
        assert [] == list(acceptor.receive(view))
    received.clear()  # which a buffer that is still looked at refuses


def test_data_set_in_two_segments_is_told_in_two_events():
    """Views are handed out before the buffer is filled again; only the last event ends the object."""
    acceptor = acceptor_in(State.STA6)
    message = encode_message(3, STORE, 0, b"0123456789")
    first = drain(acceptor, message[:-4])
    second = drain(acceptor, message[-4:])
    assert isinstance(first[-1], DataSetReceived)
    assert (b"012345", False) == (b"".join(first[-1].fragments), first[-1].is_last)
    assert [DataSetReceived([memoryview(b"6789")], is_last=True)] == second


def test_longest_pdu_is_known_to_the_caller():
    """An over-long P-DATA-TF is accepted and counted."""
    acceptor = acceptor_in(State.STA6)
    list(drain(acceptor, encode_message(3, STORE, 0, bytes(100_000))))
    assert 100_006 == acceptor.longest_p_data_bytes


def test_responses_respect_the_peers_maximum_length(established: Callable[..., Acceptor]):
    """What the request announced counts, and the answer leaves in one piece."""
    acceptor = established(max_length=64)
    acceptor.send(1, encode_response(Command(CommandField.C_ECHO_RQ, message_id=1), 0, "c" * 60))
    data = acceptor.data_to_send()
    offset, lengths = 0, []
    while offset < len(data):
        lengths.append(struct.unpack_from(">I", data, offset + 2)[0])
        offset += 6 + lengths[-1]
    assert 64 == max(lengths)
    assert b"" == acceptor.data_to_send()


@pytest.mark.parametrize("piece", [0, 1, 7, 4096])
def test_two_endpoints_exchange_messages_without_a_network(piece: int, join: Callable[..., Any]):
    """Associate, echo, store, release, whatever the segments."""
    wire = join(piece=piece)
    wire.exchange()
    assert RequestorState.STA6 is wire.requestor.state
    wire.requestor.send(1, ECHO)
    wire.requestor.send(3, STORE, bytes(range(256)) * 100)
    wire.exchange()
    assert [bytes(range(256)) * 100] == wire.data_sets
    for event in [each for each in wire.acceptor_events if isinstance(each, CommandReceived)]:
        wire.acceptor.send(event.context.context_id, encode_response(event.command, 0))
    wire.exchange()
    responses = [each.command for each in wire.requestor_events if isinstance(each, CommandReceived)]
    assert [(1, 0), (2, 0)] == [(each.message_id_responded_to, each.status) for each in responses]
    wire.requestor.release()
    wire.exchange()
    assert (RequestorState.STA1, State.STA13) == (wire.requestor.state, wire.acceptor.state)
    assert isinstance(wire.requestor_events[-1], AssociationReleased)
    assert isinstance(wire.acceptor_events[-1], AssociationReleased)
