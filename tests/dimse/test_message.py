"""Messages: fragments put together on one context, and cut so that they fit the peer's PDUs."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dimse.command import Command, CommandError, CommandField, encode_command
from dicomflow.dimse.events import CommandReceived, DataSetReceived
from dicomflow.dimse.message import (
    LEAST_MAX_LENGTH,
    MAX_COMMAND_BYTES,
    MAX_SENT_PDU_BYTES,
    MessageReader,
    encode_message,
    message_parts,
)
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.status import AbortReason
from dicomflow.dimse.stream import Fragment, PduStream, StreamError

CONTEXTS = {number: AcceptedContext(number, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2") for number in (1, 3)}
STORE = encode_command(Command(CommandField.C_STORE_RQ, message_id=7, data_set_type=1))
ECHO = encode_command(Command(CommandField.C_ECHO_RQ, message_id=8))
HEADER_BYTES = 12


def command(data: bytes, *, last: bool = True, context_id: int = 1) -> Fragment:
    """Make a fragment of a command set."""
    return Fragment(context_id, is_command=True, is_last=last, is_end=True, data=memoryview(data))


def data(data: bytes, *, last: bool = False, context_id: int = 1) -> Fragment:
    """Make a fragment of a data set."""
    return Fragment(context_id, is_command=False, is_last=last, is_end=True, data=memoryview(data))


def test_message_without_a_data_set_is_complete_with_its_command():
    """An echo, then the next message on another context."""
    reader = MessageReader(CONTEXTS)
    received = reader.take(command(ECHO))
    assert isinstance(received, CommandReceived)
    assert (8, CONTEXTS[1]) == (received.command.message_id, received.context)
    assert reader.is_idle
    assert isinstance(reader.take(command(STORE, context_id=3)), CommandReceived)
    assert not reader.is_idle


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_command_over_many_fragments_is_put_together(size: int):
    """Element boundaries may fall anywhere (PS3.8 E.1); odd fragments are read too."""
    reader = MessageReader(CONTEXTS)
    pieces = [STORE[start : start + size] for start in range(0, len(STORE), size)]
    for piece in pieces[:-1]:
        assert None is reader.take(command(piece, last=False))
    received = reader.take(command(pieces[-1]))
    assert isinstance(received, CommandReceived)
    assert 7 == received.command.message_id


def test_command_ended_by_an_empty_fragment_is_complete():
    """Some senders end a stream that way."""
    reader = MessageReader(CONTEXTS)
    assert None is reader.take(command(ECHO, last=False))
    assert isinstance(reader.take(command(b"")), CommandReceived)


def test_empty_last_fragment_ends_the_object():
    """The data set is what came before it."""
    reader = MessageReader(CONTEXTS)
    reader.take(command(STORE))
    assert None is reader.take(data(b"abc"))
    received = reader.take(data(b"", last=True))
    assert isinstance(received, DataSetReceived)
    assert (b"abc", True) == (b"".join(received.fragments), received.is_last)
    assert reader.is_idle


def test_views_are_handed_out_before_their_buffer_is_used_again():
    """`flush` gives what came so far; a message goes on after it."""
    reader = MessageReader(CONTEXTS)
    reader.take(command(STORE))
    assert None is reader.flush()
    reader.take(data(b"ab"))
    reader.take(data(b"cd"))
    flushed = reader.flush()
    assert flushed == DataSetReceived([memoryview(b"ab"), memoryview(b"cd")], is_last=False)
    assert None is reader.flush()
    assert not reader.is_idle
    assert reader.take(data(b"ef", last=True)) == DataSetReceived([memoryview(b"ef")], is_last=True)


def test_dropped_message_leaves_nothing_behind():
    """Neither its views nor its context: the next fragment begins anew, and a data set has no command."""
    reader = begin(command(STORE), data(b"ab"))
    reader.drop()
    assert reader.is_idle
    assert None is reader.flush()
    with pytest.raises(StreamError):
        reader.take(data(b"cd"))
    half = begin(command(STORE[:9], last=False))
    half.drop()
    assert isinstance(half.take(command(ECHO, context_id=3)), CommandReceived)


def begin(*fragments: Fragment) -> MessageReader:
    """Make a reader that has taken some fragments."""
    reader = MessageReader(CONTEXTS)
    for fragment in fragments:
        reader.take(fragment)
    return reader


@pytest.mark.parametrize(
    ("before", "fragment", "reason"),
    [
        ([], command(ECHO, context_id=5), AbortReason.UNEXPECTED_PARAMETER),
        ([], data(b"ab", context_id=5), AbortReason.UNEXPECTED_PARAMETER),
        ([], command(ECHO, context_id=2), AbortReason.UNEXPECTED_PARAMETER),
        ([], command(ECHO, context_id=0), AbortReason.UNEXPECTED_PARAMETER),
        ([], data(b"ab"), AbortReason.UNEXPECTED_PARAMETER),
        ([command(ECHO)], data(b"ab"), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE[:9], last=False)], data(b"ab"), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE[:9], last=False)], command(ECHO, context_id=3), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE)], command(ECHO), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE), data(b"ab")], command(ECHO), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE), data(b"ab")], data(b"cd", context_id=3), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE), data(b"ab")], command(ECHO, context_id=3), AbortReason.UNEXPECTED_PARAMETER),
        ([command(STORE), data(b"ab", last=True)], data(b"cd"), AbortReason.UNEXPECTED_PARAMETER),
        ([], command(bytes(MAX_COMMAND_BYTES + 1), last=False), AbortReason.INVALID_PARAMETER_VALUE),
    ],
    ids=[
        "command-on-unaccepted-context",
        "data-on-unaccepted-context",
        "even-context",
        "context-zero",
        "data-first",
        "data-after-echo",
        "data-within-command",
        "context-changes-within-command",
        "command-instead-of-data",
        "command-within-data",
        "context-changes-within-data",
        "interleaved-message",
        "data-after-the-last",
        "command-too-long",
    ],
)
def test_fragment_out_of_order_is_refused_with_its_reason(before: list[Fragment], fragment: Fragment, reason: int):
    """One message at a time on one accepted context (PS3.8 E.2): 2/5 for the unexpected, 2/6 for the invalid."""
    with pytest.raises(StreamError) as caught:
        begin(*before).take(fragment)
    assert reason == caught.value.reason


def test_command_grows_no_further_than_its_limit():
    """Many small fragments that never end are cut off too."""
    reader = begin(*(command(bytes(1024), last=False) for _ in range(MAX_COMMAND_BYTES // 1024)))
    with pytest.raises(StreamError):
        reader.take(command(b"\0", last=False))


def test_command_that_cannot_be_decoded_is_an_error_of_its_own():
    """The association is aborted with source 0, not 2."""
    with pytest.raises(CommandError):
        MessageReader(CONTEXTS).take(command(ECHO[:-1]))


def pdus(encoded: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Take P-DATA-TF PDUs of one PDV each apart: length field, control header, fragment."""
    offset = 0
    while offset < len(encoded):
        kind, length, item, _, control = struct.unpack_from(">BxIIBB", encoded, offset)
        assert (4, length - 4) == (kind, item)
        yield length, control, encoded[offset + HEADER_BYTES : offset + 6 + length]
        offset += 6 + length


@given(size=st.integers(0, 5_000), limit=st.integers(LEAST_MAX_LENGTH, 6_000))
def test_peers_maximum_length_is_respected(size: int, limit: int):
    """No PDU is longer, no fragment is odd but the end of an odd data set, and the bytes are the same."""
    data_set = bytes(range(256)) * 20
    sent = list(pdus(encode_message(1, STORE, limit, data_set[:size])))
    assert all(length <= limit for length, _, _ in sent)
    assert all(len(fragment) % 2 == 0 for _, _, fragment in sent[:-1])
    assert STORE == b"".join(fragment for _, control, fragment in sent if control & 1)
    assert data_set[:size] == b"".join(fragment for _, control, fragment in sent if not control & 1)
    assert [3, 2] == [control for _, control, _ in sent if control & 2]


def test_peer_max_pdu_of_4096_is_respected():
    """4,096 bytes of PDU hold 4,090 of a fragment."""
    sent = list(pdus(encode_message(1, STORE, 4096, bytes(10_000))))
    assert [4090, 4090, 1820] == [len(fragment) for _, control, fragment in sent if not control & 1]


@pytest.mark.parametrize("announced", [0, 2**32 - 1])
def test_max_pdu_zero_from_a_peer_means_unlimited(announced: int):
    """No limit (PS3.8 D.1); what is sent stays within what common toolkits fill all the same."""
    sent = list(pdus(encode_message(1, STORE, announced, bytes(300_000))))
    assert MAX_SENT_PDU_BYTES == max(length for length, _, _ in sent)


def test_empty_data_set_is_sent_as_an_empty_last_fragment():
    """A command that announces a data set is followed by one; the peer would wait for it for ever."""
    assert [3, 2] == [control for _, control, _ in pdus(encode_message(1, STORE, 0, b""))]
    assert [3] == [control for _, control, _ in pdus(encode_message(1, ECHO, 0))]


def test_sent_data_set_is_not_copied():
    """The fragments are views of what was given."""
    data_set = memoryview(bytes(300_000))
    views = [part for part in message_parts(1, STORE, 0, data_set) if isinstance(part, memoryview)]
    assert data_set.obj is not None
    assert all(view.obj is data_set.obj for view in views)
    assert len(data_set) == sum(map(len, views))


@given(size=st.integers(0, 3_000), limit=st.integers(LEAST_MAX_LENGTH, 700), piece=st.integers(1, 400))
def test_message_written_and_read_again_is_the_same(size: int, limit: int, piece: int):
    """Through the stream and the reader, whatever the PDUs and the segments."""
    data_set = (bytes(range(256)) * 12)[:size]
    encoded = encode_message(3, STORE, limit, data_set)
    stream, reader = PduStream(), MessageReader(CONTEXTS)
    commands, received, ended = [], b"", 0
    for start in range(0, len(encoded), piece):
        for fragment in stream.feed(memoryview(encoded)[start : start + piece]):
            assert isinstance(fragment, Fragment)
            event = reader.take(fragment)
            if isinstance(event, CommandReceived):
                commands.append(event.command.message_id)
            elif event is not None:
                received += b"".join(event.fragments)
                ended += event.is_last
        flushed = reader.flush()
        received += b"".join(flushed.fragments) if flushed else b""
    assert ([7], data_set, 1) == (commands, received, ended)
    assert reader.is_idle
