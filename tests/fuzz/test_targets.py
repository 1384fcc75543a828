"""Fuzz targets: whatever the bytes, a parser ends in a value or in its documented exception.

DICOMFLOW_FUZZ_EXAMPLES is the number of inputs for each target; `--hypothesis-seed` makes a run different.
"""

import io
import itertools
import os
import struct
from collections.abc import Callable
from typing import Any

from data_sets import element, item, sequence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta
from dicomflow.dicom.references import Reference, encode_references, read_references, read_report
from dicomflow.dicom.scan import Identity, Outcome, read_identity, scan
from dicomflow.dicom.uids import STORAGE_COMMITMENT, is_usable, strip_padding
from dicomflow.dimse.acceptor import Acceptor, State
from dicomflow.dimse.command import Command, CommandError, CommandField, decode_command, encode_command, encode_response
from dicomflow.dimse.events import AssociationRequested, CommandReceived, DataSetReceived
from dicomflow.dimse.items import AnsweredContext, PduError, ProposedContext, Role, UserIdentity
from dicomflow.dimse.message import encode_message
from dicomflow.dimse.negotiation import Offer, accepted_contexts, negotiate
from dicomflow.dimse.pdu import (
    AssociateAccept,
    AssociateRequest,
    decode_associate_accept,
    decode_associate_request,
    encode_abort,
    encode_associate_accept,
    encode_associate_request,
    encode_release_request,
)
from dicomflow.dimse.requestor import Requestor, RequestorState
from dicomflow.dimse.stream import MAX_PDU_BYTES, Fragment, Pdu, PduStream, StreamError
from dicomflow.errors import PeerError

EXAMPLES = int(os.environ.get("DICOMFLOW_FUZZ_EXAMPLES", "100"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{last}" for last in ("", ".1", ".1.99", ".2"))
OFFER = Offer(services=frozenset({STORAGE_COMMITMENT}))
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
REQUEST = AssociateRequest(
    "CALLED",
    "CALLING",
    (ProposedContext(1, "1.2.840.10008.1.1", (IMPLICIT,)), ProposedContext(3, CT, (EXPLICIT, IMPLICIT))),
    16_384,
    asynchronous_window=(2, 2),
    roles=(Role(CT, scu=True, scp=False),),
    common_extended=((CT, "1.2.840.10008.4.2", (CT, "1.2")),),
    user_identity=UserIdentity(2, response_requested=True, primary=b"user", secondary=b"passcode"),
)
ACCEPT = AssociateAccept(
    (AnsweredContext(1, 0, IMPLICIT), AnsweredContext(3, 0, EXPLICIT)), 16_384, user_identity_response=b"ticket"
)
ECHO = encode_command(Command(CommandField.C_ECHO_RQ, message_id=1, affected_sop_class_uid=b"1.2.840.10008.1.1"))
STORE = encode_command(
    Command(
        CommandField.C_STORE_RQ,
        message_id=2,
        affected_sop_class_uid=CT.encode(),
        affected_sop_instance_uid=b"1.2.3",
        priority=0,
        data_set_type=1,
        move_originator_ae_title="VIEWER",
        move_originator_message_id=5,
    )
)
REFUSED = encode_response(decode_command(STORE), 0xA900, "a comment", (0x00080018,))
MESSAGES = encode_message(1, ECHO, 64) + encode_message(3, STORE, 70, bytes(300))
CONNECTION = encode_associate_request(REQUEST) + MESSAGES + encode_release_request()
ANSWERS = (
    encode_associate_accept(ACCEPT) + encode_message(1, REFUSED, 64) + encode_release_request() + encode_abort(2, 2)
)


def _data_set(order: str, *, implicit: bool) -> bytes:
    def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        size = len(value) if length is None else length
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if implicit or tag >> 16 == 0xFFFE:
            return head + struct.pack(order + "I", size) + value
        if vr in {b"SQ", b"UN"}:
            return head + vr + b"\0\0" + struct.pack(order + "I", size) + value
        return head + vr + struct.pack(order + "H", size) + value

    inner = element(0x00081155, b"UI", b"1.2\0")
    item = element(0xFFFEE000, b"", inner, 0xFFFFFFFF) + element(0xFFFEE00D, b"", b"")
    sequence = element(0x00081140, b"SQ", item * 2, 0xFFFFFFFF) + element(0xFFFEE0DD, b"", b"")
    return (
        element(0x00080005, b"CS", b"ISO_IR 100")
        + element(0x00080016, b"UI", CT.encode() + b"\0")
        + element(0x00080018, b"UI", b"1.2.3\0")
        + sequence
        + element(0x00091010, b"UN", item, 0xFFFFFFFF)
        + element(0xFFFEE0DD, b"", b"")
        + element(0x0020000D, b"UI", b"1.2.4\0")
        + element(0x0020000E, b"UI", b"1.2.5\0")
        + element(0x00280010, b"US", b"\0\1")
    )


DATA_SETS = (_data_set("<", implicit=True), _data_set("<", implicit=False), _data_set(">", implicit=False))
ACTIONS = tuple(
    element(0x00081195, "UI", b"1.2.9\0", syntax)
    + sequence(
        0x00081199,
        *(
            item(
                element(0x00081150, "UI", CT.encode() + b"\0", syntax)
                + element(0x00081155, "UI", b"1.2.%d\0" % number, syntax),
                syntax,
                defined=is_defined,
            )
            for number in range(3)
        ),
        syntax=syntax,
        defined=is_defined,
    )
    for syntax in (IMPLICIT, EXPLICIT)
    for is_defined in (True, False)
)
META = encode_file_meta(CT, "1.2.3", EXPLICIT, "CALLING", "CALLED")


def run_stream(data: bytes) -> None:
    """Cut bytes into PDUs, whole and in pieces: the same parts, or the same error."""
    assert _parts(data, len(data) or 1) == _parts(data, 1 + len(data) % 7)


def _parts(data: bytes, size: int) -> tuple[list[Any], str | None]:
    stream = PduStream()
    parts: list[Any] = []
    try:
        for start in range(0, len(data), size):
            for part in stream.feed(memoryview(data)[start : start + size]):
                if isinstance(part, Pdu):
                    assert len(part.body) <= MAX_PDU_BYTES
                    parts.append(part)
                elif parts and isinstance(parts[-1], list) and not parts[-1][3]:
                    parts[-1] = _join(parts[-1], part)
                elif part.data or part.is_end:
                    parts.append(_join([part.context_id, part.is_command, False, False, b""], part))
    except StreamError as error:
        return parts, str(error)
    return parts, None


def _join(pdv: list[Any], part: Fragment) -> list[Any]:
    return [*pdv[:2], part.is_last, part.is_end, pdv[4] + bytes(part.data)]


def run_acceptor(data: bytes) -> None:
    """Serve a connection: it never raises, and the split does not matter."""
    assert _serve(data, len(data) or 1) == _serve(data, 1 + len(data) % 97)


def _serve(data: bytes, size: int) -> tuple[list[Any], bytes]:
    """Return the events, data sets in one piece each and only if they are whole, and what was sent."""
    acceptor = Acceptor()
    events: list[Any] = []
    data_set = sent = b""
    for start in range(0, len(data), size):
        is_over = acceptor.state in {State.STA1, State.STA13}
        for event in acceptor.receive(memoryview(data)[start : start + size]):
            assert not is_over
            if isinstance(event, DataSetReceived):
                data_set += b"".join(event.fragments)
                if event.is_last:
                    events.append(data_set)
                    data_set = b""
                continue
            data_set = b""
            events.append(event)
            if isinstance(event, AssociationRequested):
                acceptor.accept(negotiate(event.request, max_length=16_384))
            elif isinstance(event, CommandReceived) and not event.command.has_data_set:
                acceptor.send(event.context.context_id, encode_response(event.command, 0))
        sent += acceptor.data_to_send()
    events += acceptor.receive_eof()
    assert State.STA1 is acceptor.state
    return events, sent


def run_requestor(data: bytes) -> None:
    """Read a peer's answers: it never raises."""
    requestor = Requestor(REQUEST)
    size = 1 + len(data) % 97
    for start in range(0, len(data), size):
        for event in requestor.receive(memoryview(data)[start : start + size]):
            assert event is not None
        requestor.parts_to_send()
    list(requestor.receive_eof())
    assert RequestorState.STA1 is requestor.state


def run_associate_request(data: bytes) -> None:
    """Decode a request; what decodes can be answered, and the answer decodes."""
    try:
        request = decode_associate_request(data)
    except PduError:
        return
    accept = negotiate(request, max_length=16_384, user_identity_response=b"", offer=OFFER)
    assert accept == decode_associate_accept(encode_associate_accept(accept)[6:])
    assert all(is_usable(context.transfer_syntax) for context in accepted_contexts(request, accept).values())


def run_associate_accept(data: bytes) -> None:
    """Decode an acceptance."""
    try:
        accepted_contexts(REQUEST, decode_associate_accept(data))
    except PduError:
        return


def run_command(data: bytes) -> None:
    """Decode a command set; what decodes can be written again and answered."""
    try:
        command = decode_command(data)
    except CommandError:
        return
    assert command.command_field == decode_command(encode_command(command)).command_field
    assert decode_command(encode_response(command, 0xC000, "why")).is_response


def run_scan(data: bytes) -> None:
    """Find an identity in every syntax; the fallback ends too, and agrees where both say something."""
    for syntax in SYNTAXES:
        try:
            found = scan(data, syntax, complete=True)
        except PeerError:
            continue
        assert isinstance(found, Identity | Outcome)


def run_identity(data: bytes) -> None:
    """Read with the fallback: an identity, or the documented error."""
    for syntax in SYNTAXES:
        try:
            found = read_identity(io.BytesIO(data), syntax)
        except PeerError:
            continue
        assert found.sop_instance_uid is None or isinstance(strip_padding(found.sop_instance_uid), str)


def run_references(data: bytes) -> None:
    """Read what a request for commitment names: what can be kept, and is the same when it is written and read again."""
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        try:
            transaction, references = read_references(data, syntax)
        except PeerError:
            continue
        assert all(map(is_usable, (transaction, *itertools.chain(*references))))
        encoded = encode_references(transaction, references, (), EXPLICIT)
        assert (transaction, references) == read_references(encoded, EXPLICIT)


def run_report(data: bytes) -> None:
    """Read what a report on commitment says: the same when it is written and read again."""
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        try:
            transaction, committed, failed = read_report(data, syntax)
        except PeerError:
            continue
        reasons = tuple((each, 0x0110 if reason is None else reason) for each, reason in failed)
        encoded = encode_references(transaction, committed, reasons, EXPLICIT)
        assert (transaction, committed, reasons) == read_report(encoded, EXPLICIT)


def run_file_meta(data: bytes) -> None:
    """Decode the head of a file."""
    try:
        meta = decode_file_meta(data)
    except PeerError:
        return
    assert 132 <= meta.data_set_offset <= len(data)


_REPORTED = (Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3"), Reference("1.2.840.10008.5.1.4.1.1.4", "1.2.4"))
REPORTS = tuple(
    encode_references("1.2.9", _REPORTED[:1], [(_REPORTED[1], 0x0112)], syntax) for syntax in (IMPLICIT, EXPLICIT)
)

# Each target with inputs that it reads to their end, from which others are made.
TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "stream": (run_stream, (CONNECTION, ANSWERS, MESSAGES)),
    "acceptor": (run_acceptor, (CONNECTION,)),
    "requestor": (run_requestor, (ANSWERS,)),
    "associate_request": (run_associate_request, (encode_associate_request(REQUEST)[6:],)),
    "associate_accept": (run_associate_accept, (encode_associate_accept(ACCEPT)[6:],)),
    "command": (run_command, (ECHO, STORE, REFUSED)),
    "scan": (run_scan, DATA_SETS),
    "identity": (run_identity, DATA_SETS),
    "file_meta": (run_file_meta, (META,)),
    "references": (run_references, ACTIONS),
    "report": (run_report, REPORTS),
}

_edits = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 3), st.binary(max_size=6)), max_size=6)


def mutate(whole: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace, insert, cut out or cut off at some offsets."""
    for offset, how, value in edits:
        at = offset % (len(whole) + 1)
        if how == 0:
            whole = whole[:at] + value + whole[at + len(value) :]
        elif how == 1:
            whole = whole[:at] + value + whole[at:]
        elif how == 2:
            whole = whole[:at] + whole[at + len(value) :]
        else:
            whole = whole[:at]
    return whole


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Make inputs for a target: mostly mutations of valid ones, and any bytes."""
    seeds = st.sampled_from(TARGETS[name][1])
    return st.one_of(st.builds(mutate, seeds, _edits), st.builds(mutate, seeds, _edits), st.binary(max_size=200))


def test_valid_inputs_are_read_to_their_end():
    """The seeds reach what the targets are for; a target that refuses its seed at once would test nothing."""
    assert 2 <= sum(isinstance(part, Pdu) for part in _parts(CONNECTION, 1000)[0])
    decode_associate_request(TARGETS["associate_request"][1][0])
    decode_associate_accept(TARGETS["associate_accept"][1][0])
    for encoded in TARGETS["command"][1]:
        decode_command(encoded)
    for run, seeds in TARGETS.values():
        for seed in seeds:
            run(seed)
    assert b"1.2.5\0" == read_identity(io.BytesIO(DATA_SETS[1]), EXPLICIT).series_instance_uid


@fuzzed
@given(inputs("stream"))
def test_stream_ends_in_parts_or_a_stream_error(data: bytes):
    """And the split does not matter."""
    run_stream(data)


@fuzzed
@given(inputs("acceptor"))
def test_acceptor_never_raises(data: bytes):
    """Whatever a peer sends is an event or an abort."""
    run_acceptor(data)


@fuzzed
@given(inputs("requestor"))
def test_requestor_never_raises(data: bytes):
    """Whatever a peer answers is an event or an abort."""
    run_requestor(data)


@fuzzed
@given(inputs("associate_request"))
def test_associate_request_ends_in_a_value_or_a_pdu_error(data: bytes):
    """And what decodes can be answered."""
    run_associate_request(data)


@fuzzed
@given(inputs("associate_accept"))
def test_associate_accept_ends_in_a_value_or_a_pdu_error(data: bytes):
    """And gives contexts of the request only."""
    run_associate_accept(data)


@fuzzed
@given(inputs("command"))
def test_command_ends_in_a_value_or_a_command_error(data: bytes):
    """And what decodes can be answered."""
    run_command(data)


@fuzzed
@given(inputs("scan"))
def test_scan_ends_in_an_outcome_or_a_peer_error(data: bytes):
    """In every transfer syntax."""
    run_scan(data)


@fuzzed
@given(inputs("identity"))
def test_fallback_ends_in_an_identity_or_a_peer_error(data: bytes):
    """In every transfer syntax, whatever pydicom makes of it."""
    run_identity(data)


@fuzzed
@given(inputs("references"))
def test_references_end_in_a_value_or_a_peer_error(data: bytes):
    """In every transfer syntax in which commitment may be asked for."""
    run_references(data)


@fuzzed
@given(inputs("report"))
def test_report_ends_in_a_value_or_a_peer_error(data: bytes):
    """In every transfer syntax in which a peer may report on commitment."""
    run_report(data)


@fuzzed
@given(inputs("file_meta"))
def test_file_meta_ends_in_a_value_or_a_peer_error(data: bytes):
    """And the data set begins within the file."""
    run_file_meta(data)
