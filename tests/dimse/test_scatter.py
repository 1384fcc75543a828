"""Scattered receives: what comes beside its headers is what comes between them."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dimse.pdu import PduType, encode_release_request
from dicomflow.dimse.stream import DataSetRun, Fragment, Pdu, PduStream

SIZE = 2000  # of a fragment, long enough to be worth it


def p_data(control: int, fragment: bytes, context_id: int = 1) -> bytes:
    """Encode a P-DATA-TF of one PDV (PS3.8 9.3.5)."""
    length = len(fragment)
    return struct.pack(">BxIIBB", 4, length + 6, length + 2, context_id, control) + fragment


def received(data: bytes, counts: Iterator[int], *, scatters: bool) -> tuple[list[object], int]:
    """Receive `data` in reads of so many bytes, as an association does; return what it was, and the scattered reads.

    A data set is on context 1 and begins with the first byte; another begins where one ends.
    """
    stream, run = PduStream(), DataSetRun()
    run.context_id = 1
    found: list[object] = []
    offset = scattered = 0
    while offset < len(data):
        wanted = next(counts)
        buffers = stream.buffers(run) if scatters else None
        if buffers:
            scattered += 1
            piece = data[offset : offset + min(wanted, sum(map(len, buffers)))]
            offset += len(piece)
            fill(buffers, piece)
            parts = stream.feed_scattered(len(piece), run)
        else:
            parts = stream.feed(memoryview(data[offset : offset + wanted]), run)
            offset += wanted
        for part in parts:
            take(found, b"".join(run.views))
            run.views.clear()
            if isinstance(part, Pdu):
                found.append(part)
            elif part.is_command or part.context_id != 1:
                if found and isinstance(found[-1], list) and found[-1][0] == (part.context_id, part.is_command):
                    found[-1][1] += part.data
                else:
                    found.append([(part.context_id, part.is_command), bytes(part.data)])
            else:
                take(found, bytes(part.data))
                if part.is_last:
                    found.append("last")
        take(found, b"".join(run.views))
        run.views.clear()
    return found, scattered


def take(found: list[object], data: bytes) -> None:
    """Put bytes of a data set to those before them."""
    if found and isinstance(found[-1], bytes):
        found[-1] += data
    elif data:
        found.append(data)


def fill(buffers: list[memoryview], piece: bytes) -> None:
    """Put bytes into buffers in their order, as the kernel does."""
    for buffer in buffers:
        taken, piece = piece[: len(buffer)], piece[len(buffer) :]
        buffer[: len(taken)] = taken


def reads(*counts: int) -> Iterator[int]:
    """Give these counts, and then large ones."""
    yield from counts
    while True:
        yield 1 << 20


PIXELS = bytes(range(256)) * 400
WHOLE = b"".join(p_data(0, PIXELS[start : start + SIZE]) for start in range(0, 30 * SIZE, SIZE))
LAST = p_data(2, b"the last bytes of a data set")


@pytest.mark.parametrize("first", [12 + SIZE, 13 + SIZE, 500 + SIZE, 2 * (12 + SIZE), 5 * (12 + SIZE) - 1])
@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (LAST, [PIXELS[: 30 * SIZE] + LAST[12:], "last"]),
        (LAST + LAST, [PIXELS[: 30 * SIZE] + LAST[12:], "last", LAST[12:], "last"]),
        (p_data(0, b"short") + LAST, [PIXELS[: 30 * SIZE] + b"short" + LAST[12:], "last"]),
        (p_data(0, b"on another", 3), [PIXELS[: 30 * SIZE], [(3, False), b"on another"]]),
        (p_data(3, b"a command"), [PIXELS[: 30 * SIZE], [(1, True), b"a command"]]),
        (encode_release_request(), [PIXELS[: 30 * SIZE], Pdu(PduType.RELEASE_RQ, bytes(4))]),
        (b"", [PIXELS[: 30 * SIZE]]),
    ],
    ids=["last", "pipelined", "short", "other-context", "command", "release", "cut-off"],
)
def test_whole_pdus_come_to_lie_side_by_side(first: int, behind: bytes, expected: list[object]):
    """The data set is what was sent, whatever stands behind its whole PDUs and wherever the first read ended."""
    found, scattered = received(WHOLE + behind, reads(first, 40), scatters=True)
    assert expected == found
    assert scattered


def test_scattered_fragments_are_one_view():
    """What lies side by side is handed out in one piece."""
    stream, run = PduStream(), DataSetRun()
    run.context_id = 1
    assert [] == list(stream.feed(memoryview(WHOLE)[: 12 + SIZE], run))
    assert PIXELS[:SIZE] == b"".join(run.views)
    run.views.clear()
    buffers = stream.buffers(run)
    assert buffers is not None
    fill(buffers, WHOLE[12 + SIZE :])
    assert [] == list(stream.feed_scattered(len(WHOLE) - 12 - SIZE, run))
    (view,) = run.views
    assert PIXELS[SIZE : 30 * SIZE] == view


@pytest.mark.parametrize(
    "before",
    [
        p_data(2, bytes(SIZE)),  # the data set is over
        p_data(0, bytes(100)),  # too short to be worth it
        p_data(0, bytes(100_000)),  # too long
        p_data(0, bytes(SIZE)) + b"\x04",  # within a header
        p_data(2, bytes(SIZE))[:-1],  # within the last fragment
        p_data(0, bytes(SIZE), 3)[:-1],  # within a fragment of another context
    ],
    ids=["over", "short", "long", "header", "last", "other-context"],
)
def test_nothing_is_scattered_where_the_next_header_is_not_foreseen(before: bytes):
    """The usual way takes it."""
    stream, run = PduStream(), DataSetRun()
    run.context_id = 1
    for part in stream.feed(memoryview(before), run):
        assert isinstance(part, Fragment)
        if part.is_last:
            run.context_id = 0
    assert stream.buffers(run) is None


_pdus = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, 2, 3)),
        st.sampled_from((SIZE, SIZE, SIZE, SIZE, 1024, 5, 0)),
        st.sampled_from((1, 1, 1, 3)),
    ),
    max_size=12,
)


@given(pdus=_pdus, counts=st.lists(st.integers(1, 3 * SIZE), min_size=1, max_size=30), cut=st.integers(0, 13))
def test_any_pdus_read_anyhow_are_the_same_with_and_without(
    pdus: list[tuple[int, int, int]], counts: list[int], cut: int
):
    """Scattered or not, the same data sets, commands and PDUs come out."""
    data = b"".join(p_data(control, bytes([number]) * size, on) for number, (control, size, on) in enumerate(pdus))
    data = data[: len(data) - cut]
    assert received(data, reads(), scatters=False)[0] == received(data, reads(*counts), scatters=True)[0]
