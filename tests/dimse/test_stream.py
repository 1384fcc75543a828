"""The stream: PDUs and fragments are the same however the bytes are split, and lengths allocate nothing."""

import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dimse.pdu import PduType, encode_abort, encode_release_request
from dicomflow.dimse.status import AbortReason
from dicomflow.dimse.stream import MAX_PDU_BYTES, DataSetRun, Fragment, Pdu, PduStream, StreamError

COMMAND = b"command set, as bytes"
FIRST = b"the first part of a data set"
LAST = b"and the last"


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    """Encode a PDV item (PS3.8 9.3.5.1)."""
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def p_data(*items: bytes) -> bytes:
    """Encode a P-DATA-TF."""
    body = b"".join(items)
    return struct.pack(">BxI", 4, len(body)) + body


def feed(stream: PduStream, *pieces: bytes) -> list[Pdu | Fragment]:
    """Feed pieces, and keep what comes out past the life of its buffer."""
    parts: list[Pdu | Fragment] = []
    for piece in pieces:
        parts.extend(
            part._replace(data=memoryview(bytes(part.data))) if isinstance(part, Fragment) else part
            for part in stream.feed(memoryview(piece))
        )
    return parts


def joined(parts: list[Pdu | Fragment]) -> list[tuple[object, ...]]:
    """Put the parts of each PDV together: what must not depend on how the bytes were split."""
    result: list[tuple[object, ...]] = []
    data = b""
    for part in parts:
        if isinstance(part, Pdu):
            result.append(part)
            continue
        data += part.data
        if part.is_end:
            result.append((part.context_id, part.is_command, part.is_last, data))
            data = b""
        else:
            assert not part.is_last
    assert data == b""
    return result


MIXED = (
    p_data(pdv(1, 3, COMMAND), pdv(1, 0, FIRST))
    + p_data(pdv(1, 0, b""), pdv(1, 2, LAST))
    + p_data(pdv(3, 0xFE, b""))
    + encode_release_request()
    + encode_abort(2, 1)
)
EXPECTED = [
    (1, True, True, COMMAND),
    (1, False, False, FIRST),
    (1, False, False, b""),
    (1, False, True, LAST),
    (3, False, True, b""),
    Pdu(PduType.RELEASE_RQ, bytes(4)),
    Pdu(PduType.ABORT, b"\0\0\x02\x01"),
]


def test_stream_given_whole_yields_every_part():
    """Many PDVs in a PDU, command and data in one PDU, an empty last fragment; reserved control bits are ignored."""
    assert EXPECTED == joined(feed(PduStream(), MIXED))


def test_stream_given_byte_by_byte_yields_the_same():
    """No header and no value needs to arrive in one piece."""
    assert EXPECTED == joined(feed(PduStream(), *(bytes([byte]) for byte in MIXED)))


@pytest.mark.parametrize("cut", range(1, len(MIXED)))
def test_pdvs_split_at_every_byte_give_the_same_parts(cut: int):
    """Whatever byte a segment ends with, the parts are the same."""
    assert EXPECTED == joined(feed(PduStream(), MIXED[:cut], MIXED[cut:]))


def test_trailing_bytes_wait_for_the_rest_of_their_pdu():
    """What is not complete yields nothing, and is not lost."""
    stream = PduStream()
    assert [Pdu(PduType.RELEASE_RQ, bytes(4))] == feed(stream, encode_release_request() + b"\x07\x00\x00")
    assert [Pdu(PduType.ABORT, b"\0\0\0\0")] == feed(stream, encode_abort(0, 0)[3:])


def test_fragments_are_views_of_the_received_buffer():
    """The data set is not copied on its way."""
    received = bytearray(p_data(pdv(1, 2, FIRST)))
    (part,) = PduStream().feed(memoryview(received))
    assert isinstance(part, Fragment)
    received[12] ^= 0xFF
    assert FIRST[0] ^ 0xFF == part.data[0]


def through_run(data: bytes) -> tuple[bytes, list[tuple[object, ...]]]:
    """Feed what follows a command on context 1; give what the run took, and what came out behind it."""
    run = DataSetRun()
    run.context_id = 1
    parts = list(PduStream().feed(memoryview(data), run))
    return b"".join(run.views), joined(parts)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (p_data(pdv(1, 2, LAST)), (1, False, True, LAST)),
        (p_data(pdv(3, 0, LAST)), (3, False, False, LAST)),
        (p_data(pdv(1, 1, COMMAND)), (1, True, False, COMMAND)),
        (p_data(pdv(1, 0, b"")), (1, False, False, b"")),
        (encode_release_request(), Pdu(PduType.RELEASE_RQ, bytes(4))),
        (encode_release_request() + b"\x04", Pdu(PduType.RELEASE_RQ, bytes(4))),
    ],
    ids=["last", "other-context", "command", "empty", "release", "trailing"],
)
def test_run_takes_whole_pdus_of_its_data_set_and_nothing_else(behind: bytes, expected: object):
    """What ends the data set, or does not belong to it, is yielded, and stands behind what the run took."""
    whole = p_data(pdv(1, 0, FIRST)) * 3
    assert (FIRST * 3, [expected]) == through_run(whole + behind)


def test_run_leaves_pdus_of_several_pdvs_and_those_cut_short():
    """They go the usual way, in the same order."""
    two = p_data(pdv(1, 0, FIRST), pdv(1, 0, LAST))
    assert (FIRST, [(1, False, False, FIRST), (1, False, False, LAST)]) == through_run(p_data(pdv(1, 0, FIRST)) + two)
    run = DataSetRun()
    run.context_id = 1
    (part,) = PduStream().feed(memoryview(p_data(pdv(1, 0, FIRST)))[:-1], run)
    assert isinstance(part, Fragment)
    assert (FIRST[:-1], False, []) == (bytes(part.data), part.is_end, run.views)


@pytest.mark.parametrize("item_length", [0, 1, 2, 2**32 - 1])
def test_run_takes_no_pdu_whose_lengths_do_not_fit(item_length: int):
    """The usual way refuses it."""
    run = DataSetRun()
    run.context_id = 1
    with pytest.raises(StreamError):
        list(PduStream().feed(memoryview(struct.pack(">BxIIBB", 4, 10, item_length, 1, 0) + b"abcd"), run))
    assert [] == run.views


def test_pdu_of_no_length_is_complete_with_its_header():
    """A release of length 0 is for the state machine to judge."""
    assert [Pdu(PduType.RELEASE_RQ, b"")] == feed(PduStream(), b"\x05\x00\x00\x00\x00\x00")


def test_huge_length_fields_allocate_nothing():
    """A P-DATA-TF of 2^32-1 bytes with one PDV passes through in constant memory (PS3.8 9.3.5)."""
    stream = PduStream()
    head = struct.pack(">BxIIBB", 4, 2**32 - 1, 2**32 - 5, 1, 0)
    piece = bytes(64 << 10)
    tracemalloc.start()
    try:
        assert [] == list(stream.feed(memoryview(head)))
        for _ in range(256):
            (part,) = stream.feed(memoryview(piece))
            assert (len(piece), False) == (len(part.data), part.is_end)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10
    assert 2**32 - 1 == stream.longest_p_data_bytes


def test_longest_pdu_is_read_to_its_last_byte():
    """After a PDV that leaves 4 GiB less 5 bytes the stream knows where the next PDU begins."""
    stream = PduStream()
    list(stream.feed(memoryview(struct.pack(">BxIIBB", 4, 2**32 - 1, 2**32 - 5, 1, 0))))
    chunk = memoryview(bytes(64 << 20))
    left = 2**32 - 7
    while left:
        taken = min(left, len(chunk))
        (part,) = stream.feed(chunk[:taken])
        left -= taken
    assert part.is_end
    assert [Pdu(PduType.RELEASE_RQ, bytes(4))] == feed(stream, encode_release_request())


def test_pdu_above_the_limit_is_refused_by_its_header():
    """Other PDUs than P-DATA-TF are kept whole, so their length has a limit."""
    within = struct.pack(">BxI", 1, MAX_PDU_BYTES)
    assert [] == feed(PduStream(), within)
    with pytest.raises(StreamError) as caught:
        feed(PduStream(), struct.pack(">BxI", 1, MAX_PDU_BYTES + 1))
    assert AbortReason.INVALID_PARAMETER_VALUE is caught.value.reason


@pytest.mark.parametrize("kind", [0, 8, 0x40, 0xFF])
def test_unknown_pdu_type_is_refused_by_its_header(kind: int):
    """A-ABORT 2/1 (PS3.8 9.3.8)."""
    with pytest.raises(StreamError) as caught:
        feed(PduStream(), struct.pack(">BxI", kind, 4))
    assert AbortReason.UNRECOGNIZED_PDU is caught.value.reason


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "bytes"])
@pytest.mark.parametrize(
    "encoded",
    [
        struct.pack(">BxI", 4, 0),
        struct.pack(">BxI", 4, 5),
        struct.pack(">BxIIBB", 4, 6, 0, 1, 2),
        struct.pack(">BxIIBB", 4, 6, 1, 1, 2),
        struct.pack(">BxIIBB", 4, 6, 3, 1, 2),
        struct.pack(">BxIIBB", 4, 6, 2**32 - 1, 1, 2),
        struct.pack(">BxIIBB", 4, 11, 2, 1, 2),
        p_data(pdv(1, 3, COMMAND), struct.pack(">IBB", 3, 1, 2)),
    ],
    ids=["empty", "five", "item-0", "item-1", "item-too-long", "item-4-gib", "five-left", "second-too-long"],
)
def test_pdv_that_does_not_fit_its_pdu_is_refused(encoded: bytes, *, is_whole: bool):
    """A-ABORT 2/6: item length below 2 or past the PDU, or a rest that holds no PDV."""
    pieces = [encoded] if is_whole else [bytes([byte]) for byte in encoded]
    with pytest.raises(StreamError) as caught:
        feed(PduStream(), *pieces)
    assert AbortReason.INVALID_PARAMETER_VALUE is caught.value.reason


_pdvs = st.lists(
    st.tuples(st.sampled_from((1, 3, 255)), st.integers(0, 3), st.binary(max_size=50)), min_size=1, max_size=4
)
_bodies = st.tuples(st.sampled_from((1, 2, 3, 5, 6, 7)), st.binary(max_size=50))


@given(units=st.lists(_pdvs | _bodies, max_size=6), cuts=st.lists(st.integers(0, 600), max_size=8))
def test_any_pdus_split_anywhere_are_read_as_they_were_written(
    units: list[list[tuple[int, int, bytes]] | tuple[int, bytes]], cuts: list[int]
):
    """Written and read again, whatever the split."""
    encoded = b""
    expected: list[object] = []
    for unit in units:
        if isinstance(unit, tuple):
            encoded += struct.pack(">BxI", unit[0], len(unit[1])) + unit[1]
            expected.append(Pdu(PduType(unit[0]), unit[1]))
        else:
            encoded += p_data(*(pdv(*each) for each in unit))
            expected += [(number, bool(control & 1), bool(control & 2), data) for number, control, data in unit]
    edges = sorted({0, len(encoded), *(min(cut, len(encoded)) for cut in cuts)})
    assert expected == joined(feed(PduStream(), *(encoded[start:end] for start, end in pairwise(edges))))
