"""The walk: what is odd is read, what is hostile costs little, and edge and index read the same."""

import contextlib
import io
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest
from data_sets import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IDENTITY,
    IMPLICIT,
    ODD,
    UNDEFINED,
    deflate,
    element,
    identifying,
    item,
    references_of,
    sequence,
)
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.encoding import contradiction, declared_encoding, judge_encoding
from dicomflow.dicom.scan import Identity, read_identity, scan
from dicomflow.dicom.walk import MAX_ELEMENTS, open_data_set
from dicomflow.errors import PeerError

_EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
_OPENED = struct.pack("<HH2s2xI", 0x0008, 0x0006, b"UN", UNDEFINED)
_CLOSED = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_NESTED = element(0x00081140, "SQ", b"", length=UNDEFINED) + element(0xFFFEE000, "", b"", length=UNDEFINED)


def walked(data_set: bytes, syntax: str) -> Identity:
    """Read an identity without the quick scan."""
    return read_identity(io.BytesIO(data_set), syntax)


@pytest.mark.parametrize("name", ODD)
def test_odd_data_set_is_read(name: str):
    """What DCMTK, Orthanc or pydicom store is no reason to refuse an image; its padding is as it was sent."""
    syntax, make = ODD[name]
    assert IDENTITY == walked(make(), syntax)


@pytest.mark.parametrize("name", ODD)
def test_scan_says_nothing_else_than_the_walk(name: str):
    """An attacker must not show one identity to the one and another to the other."""
    syntax, make = ODD[name]
    assert scan(make(), syntax, complete=True) in {IDENTITY, scan(b"", DEFLATED, complete=True)}


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("actual", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_encoding_is_that_of_the_elements(syntax: str, actual: str):
    """And what it contradicts is said in words."""
    found = judge_encoding(identifying(actual), syntax)
    assert declared_encoding(actual) == found
    assert (actual == syntax) == (contradiction(found, syntax) is None)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("head", [b"", b"\x08", bytes(64), b"\xff" * 64, b"no data set at all, but text"])
def test_encoding_of_what_says_nothing_is_the_declared_one(syntax: str, head: bytes):
    """A guess takes several elements."""
    assert declared_encoding(syntax) == judge_encoding(head, syntax)


@pytest.mark.parametrize("first", [b"\x08\x00\x05\x00??\x04\x00abcd", b"\x08\x00\x05\x00\x04\0\0\0abcd"])
def test_one_odd_element_does_not_change_the_encoding(first: bytes):
    """It is read by itself."""
    assert declared_encoding(EXPLICIT) == judge_encoding(first + identifying(), EXPLICIT)


def test_first_of_two_elements_of_one_tag_counts_everywhere():
    """Whoever reads on must not find another object than whoever stopped."""
    twice = identifying(after=element(0x0020000D, "UI", b"9.9.9\0") + element(0x0020000E, "UI", b"9.9.8\0"))
    again = identifying(between=element(0x00080018, "UI", b"9.9.7\0"))
    for data_set in (twice, again):
        assert IDENTITY == scan(data_set, EXPLICIT, complete=True) == walked(data_set, EXPLICIT)


_HOSTILE: Final[dict[str, Callable[[], bytes]]] = {
    "items": lambda: _OPENED + _EMPTY_ITEM * (1 << 20) + _CLOSED + identifying(),
    "elements": lambda: b"".join(element(0x00090010 + n, "LO", b"") for n in range(60_000)) * 9 + identifying(),
    "deflated": lambda: deflate(_OPENED + _EMPTY_ITEM * (1 << 17) + _CLOSED + identifying()),
    "deflated to 32 MiB": lambda: deflate(_OPENED + _EMPTY_ITEM * (1 << 22) + _CLOSED + identifying()),
    "inflates to 64 MiB": lambda: deflate(element(0x00090010, "OB", bytes(64 << 20)) + identifying()),
    "nested": lambda: _NESTED * 100_000,
    "value": lambda: _OPENED + b"\1" * (8 << 20),
    "defined": lambda: element(0x00081140, "SQ", _EMPTY_ITEM * (1 << 20)) + identifying(),
}
"""Made by the test and not at import, which each process of the tests pays: 2 s and 100 MB."""


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_data_set_costs_little(name: str):
    """Within some seconds of a slow processor: an identity or the documented error."""
    data_set, syntax = _HOSTILE[name](), DEFLATED if "flate" in name else EXPLICIT
    began_at = time.process_time()
    with contextlib.suppress(PeerError):
        assert isinstance(walked(data_set, syntax), Identity)
    assert time.process_time() - began_at < 4


def test_memory_of_a_walk_does_not_grow_with_the_items():
    """They are counted, not kept: 20,000 take no more than the window."""
    data_set = _OPENED + _EMPTY_ITEM * 20_000 + _CLOSED + identifying()
    tracemalloc.start()
    try:
        assert IDENTITY == walked(data_set, EXPLICIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_more_elements_than_the_bound_are_refused_with_it():
    """The number stands in the error."""
    with pytest.raises(PeerError, match=f"more than {MAX_ELEMENTS:,} elements"):
        walked(_OPENED + _EMPTY_ITEM * (MAX_ELEMENTS + 1) + _CLOSED + identifying(), EXPLICIT)


@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_uids_behind_five_megabytes_of_references_are_found(syntax: str, *, defined: bool):
    """A presentation state of many images is a lawful object."""
    inner = EXPLICIT if syntax == DEFLATED else syntax
    data_set = identifying(inner, between=references_of(5_000_000, inner, defined=defined))
    assert IDENTITY == walked(deflate(data_set) if syntax == DEFLATED else data_set, syntax)


def test_padding_behind_the_data_set_ends_it():
    """Zeros are no elements of group 0000."""
    data_set = identifying(series=None) + bytes(512)
    assert None is walked(data_set, EXPLICIT).series_instance_uid


@pytest.mark.parametrize("tag", [0x00020010, 0x00020000])
def test_meta_information_within_a_data_set_is_refused(tag: int):
    """As by the scan (PS3.10 7.1)."""
    with pytest.raises(PeerError, match="belongs outside"):
        walked(element(tag, "UI", b"1.2\0") + identifying(), EXPLICIT)


def test_elements_are_given_with_their_places():
    """Whoever wants a value reads it from its offset."""
    nested = sequence(0x00082218, item(sequence(0x00081140, item(b""))))
    data_set = identifying(between=nested)
    with open_data_set(io.BytesIO(b"before" + data_set), EXPLICIT) as opened:
        assert b"" == opened.read(len(data_set) + 6, 100)
    file = io.BytesIO(b"before" + data_set)
    file.seek(6)
    with open_data_set(file, EXPLICIT) as opened:
        found = list(opened.elements())
        assert data_set == b"".join(opened.read(each.offset, each.stop - each.offset) for each in found)
        (of_sequence,) = (each for each in found if each.vr == "SQ")
        assert (2, nested) == (of_sequence.depth, opened.read(of_sequence.offset, len(nested)))


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([0x00080005, 0x00080018, 0x00081140, 0x00091010, 0x0020000D, 0xFFFEE000, 0xFFFEE0DD]),
            st.sampled_from(["UI", "SQ", "UN", "OB", "??", "\0\0"]),
            st.binary(max_size=40),
            st.none() | st.sampled_from([0, 7, UNDEFINED]),
        ),
        max_size=8,
    ),
    syntax=st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]),
)
def test_any_data_set_ends_in_elements_or_the_documented_error(
    parts: list[tuple[int, str, bytes, int | None]], syntax: str
):
    """They ascend in their places and stay in the data set, and an identity of the scan is the walk's."""
    data_set = b"".join(element(tag, vr, value, syntax, length) for tag, vr, value, length in parts)
    last = 0
    try:
        with open_data_set(io.BytesIO(data_set), syntax) as opened:
            for each in opened.elements():
                assert last <= each.offset < each.value <= each.stop
                last = each.stop
        found = scan(data_set, syntax, complete=True)
    except PeerError:
        return
    if isinstance(found, Identity) and found.series_instance_uid is not None:
        assert found == walked(data_set, syntax)
