"""The scan: four UIDs in the head of a data set, in each encoding, and nothing a hostile one can make it do."""

import contextlib
import io
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from data_sets import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IDENTITY,
    IMPLICIT,
    JPEG,
    UNDEFINED,
    deflate,
    element,
    identifying,
    item,
    sequence,
)
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, data, dcmread

from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.scan import Identity, Outcome, read_identity, scan
from dicomflow.errors import PeerError

CLASS, INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
# Those that come with the package; the function for test files would fetch the others.
FILES = sorted(
    path
    for path in Path(data.__file__).parent.glob("*_files/**/*")
    if path.is_file() and path.read_bytes()[128:132] == b"DICM" and path.name != "meta_missing_tsyntax.dcm"
)


def read(data_set: bytes, syntax: str) -> Identity:
    """Do what the receiver does: scan, then the walk for what the scan leaves to it."""
    found = scan(data_set, syntax, complete=True)
    return found if isinstance(found, Identity) else read_identity(io.BytesIO(data_set), syntax)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG])
def test_identity_is_found_in_each_encoding(syntax: str):
    """With its padding, since a sender's bytes are echoed."""
    for data_set in (identifying(syntax), bytearray(identifying(syntax)), memoryview(identifying(syntax))):
        assert IDENTITY == scan(data_set, syntax, complete=False)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_head_cut_anywhere_asks_for_more_and_finds_nothing_else(syntax: str):
    """Byte by byte, the answer is "more" until it is the identity."""
    data_set = identifying(syntax)
    outcomes = [scan(data_set[:length], syntax, complete=False) for length in range(len(data_set) + 1)]
    found = outcomes.index(IDENTITY)
    assert {Outcome.NEED_MORE} == set(outcomes[:found])
    assert {IDENTITY} == set(outcomes[found:])


def test_data_set_that_ends_early_has_what_it_has():
    """A whole data set gives no reason to ask for more, and what is missing is looked for before that is said."""
    data_set = identifying()[: -len(element(0x00280010, "US", b"\0\1"))]
    without_series = data_set[: -len(element(SERIES, "UI", b"1.2.6\0"))]
    assert Outcome.NEED_MORE is scan(without_series, EXPLICIT, complete=False)
    expected = Identity(IDENTITY.sop_class_uid, IDENTITY.sop_instance_uid, IDENTITY.study_instance_uid, None)
    assert Outcome.UNUSUAL is scan(without_series, EXPLICIT, complete=True)
    assert expected == read(without_series, EXPLICIT)
    assert Identity(None, None, None, None) == read(b"", EXPLICIT)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
@pytest.mark.parametrize("item_defined", [True, False], ids=["item-defined", "item-undefined"])
def test_uids_within_sequences_are_not_taken(syntax: str, *, defined: bool, item_defined: bool):
    """Nested sequences of defined and undefined length are passed; the UIDs in them belong to other objects."""
    inner = b"".join(element(tag, "UI", b"9.9.9\0", syntax) for tag in (CLASS, INSTANCE, STUDY, SERIES))
    nested = sequence(0x00081199, item(inner, syntax, defined=item_defined), syntax=syntax, defined=defined)
    outer = sequence(
        0x00081140, *[item(inner + nested, syntax, defined=item_defined)] * 2, syntax=syntax, defined=defined
    )
    empty = sequence(0x00081115, syntax=syntax, defined=defined)
    data_set = identifying(syntax, between=empty + outer)
    assert IDENTITY == scan(data_set, syntax, complete=False)
    assert read_identity(io.BytesIO(data_set), syntax) == scan(data_set, syntax, complete=False)


def test_deeply_nested_sequences_do_not_recurse():
    """Nesting is a counter: a hundred times the interpreter's limit costs nothing."""
    depth = 100 * sys.getrecursionlimit()
    opened = (element(0x00081140, "SQ", b"", length=UNDEFINED) + element(0xFFFEE000, "", b"", length=UNDEFINED)) * depth
    closed = (element(0xFFFEE00D, "", b"") + element(0xFFFEE0DD, "", b"")) * depth
    assert IDENTITY == scan(identifying(between=opened + closed), EXPLICIT, complete=False)


@pytest.mark.parametrize(
    "odd",
    [
        element(0xFFFEE000, "", b""),
        element(0xFFFEE00D, "", b""),
        element(0xFFFEE0DD, "", b""),
        element(0x00081140, "SQ", element(0x00080050, "SH", b"ab"), length=UNDEFINED),
        element(0x00081140, "SQ", element(0xFFFEE00D, "", b""), length=UNDEFINED),
        sequence(0x00081140, element(0xFFFEE000, "", element(0xFFFEE0DD, "", b""), length=UNDEFINED)),
        element(0x00090010, "UN", item(b""), length=UNDEFINED) + element(0xFFFEE0DD, "", b""),
        b"\x08\x00\x50\x00??\x00\x00",
        b"\x08\x00\x50\x00\x00\x00\x00\x00",
    ],
    ids=[
        "item-outside",
        "item-end-outside",
        "sequence-end-outside",
        "element-between-items",
        "item-end-without-item",
        "sequence-end-within-item",
        "un-undefined",
        "unknown-vr",
        "implicit-vr",
    ],
)
def test_construct_out_of_the_ordinary_is_left_to_the_walk(odd: bytes):
    """No guess is made here: an attacker must not show one identity and another to whoever reads the object."""
    assert Outcome.UNUSUAL is scan(identifying(between=odd), EXPLICIT, complete=True)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_long_leading_element_needs_more_and_the_walk_skips_it(syntax: str):
    """A value of 100 kB before group 0020 is passed by seeking."""
    between = element(0x00091010, "OB", bytes(100_000), syntax)
    data_set = identifying(syntax, between=between)
    assert Outcome.NEED_MORE is scan(data_set[:65_536], syntax, complete=False)
    assert IDENTITY == read_identity(io.BytesIO(data_set), syntax)
    assert IDENTITY == scan(data_set, syntax, complete=True)


def test_undefined_length_of_unknown_vr_is_walked():
    """(PS3.5 6.2.2): such a value is a sequence in implicit VR."""
    nested = item(element(STUDY, "UI", b"9.9\0", IMPLICIT), IMPLICIT)
    between = element(0x00091010, "UN", nested, length=UNDEFINED) + element(0xFFFEE0DD, "", b"")
    assert IDENTITY == read(identifying(between=between), EXPLICIT)


class Watched(io.BytesIO):
    """A file that knows how much was asked of it at once."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and remember the size."""
        Watched.most = max(Watched.most, size if size is not None and size >= 0 else sys.maxsize)
        return super().read(size)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("tag", [0x00080016, 0x00080018, 0x00080080, 0x00091010, 0x0020000D], ids=hex)
@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFE])
def test_huge_length_fields_allocate_nothing(syntax: str, tag: int, length: int):
    """Neither the scan nor the fallback asks for memory by a length that it read."""
    data_set = identifying(syntax)[:18] + element(tag, "UN", bytes(2_000), syntax, length)
    Watched.most = 0
    tracemalloc.start()
    try:
        found = scan(data_set, syntax, complete=False)
        assert isinstance(found, Identity | Outcome)
        with contextlib.suppress(PeerError):
            read_identity(Watched(data_set), syntax)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert Watched.most <= len(data_set)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_overlong_uid_is_known_to_be_unusable(syntax: str):
    """It is not waited for: what is longer than any UID is refused by its length."""
    data_set = element(CLASS, "UI", b"1" * 100, syntax)
    assert b"1" * 100 == read(data_set, syntax).sop_class_uid
    found = scan(element(CLASS, "UI", b"1" * 10, syntax, 60_000), syntax, complete=False)
    assert isinstance(found, Identity)
    assert found.sop_class_uid is not None
    assert len(found.sop_class_uid) > 64


def test_deflated_data_set_is_inflated_up_to_group_0020():
    """The scan leaves it to the fallback, which inflates no more than it needs."""
    data_set = deflate(identifying(after=bytes(64 << 20)))
    assert Outcome.UNUSUAL is scan(data_set, DEFLATED, complete=True)
    tracemalloc.start()
    try:
        assert IDENTITY == read_identity(io.BytesIO(data_set), DEFLATED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_deflated_data_set_is_read_no_further_than_it_is_inflated():
    """A gigabyte of pixels behind group 0020 stays in its file."""
    pixels = random.Random(1).randbytes(8 << 20)
    file = io.BytesIO(deflate(identifying(after=pixels)))
    assert IDENTITY == read_identity(file, DEFLATED)
    assert file.tell() < 2 << 20


@pytest.mark.parametrize("data_set", [b"", b"\xff" * 100, deflate(identifying())[:20], b"no deflated bytes at all"])
def test_damaged_deflated_data_set_is_an_error_or_lacks_its_uids(data_set: bytes):
    """Whatever the bytes are."""
    try:
        found = read_identity(io.BytesIO(data_set), DEFLATED)
    except PeerError:
        return
    assert None is found.series_instance_uid


def test_deflated_preamble_is_refused_too():
    """A Part 10 file within a deflated data set."""
    with pytest.raises(PeerError):
        read_identity(io.BytesIO(deflate(bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\0\0\0\0")), DEFLATED)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("preamble", [bytes(128), b"II*\0" + bytes(124), b"\x08\x00\x05\x00CS\x78\x00" + b"a" * 120])
def test_data_set_with_a_preamble_inside_is_refused(preamble: bytes, syntax: str):
    """Some senders put a whole Part 10 file on the wire."""
    head = preamble + b"DICM" + element(0x00020000, "UL", b"\0\0\0\0") + identifying(syntax)
    with pytest.raises(PeerError):
        scan(head, syntax, complete=False)


@pytest.mark.parametrize("tag", [0x00020010, 0x00020000, 0x00000002], ids=hex)
def test_group_of_another_place_is_refused(tag: int):
    """Groups 0000 and 0002 do not belong into a data set (PS3.10 7.1, PS3.7 6.3.1)."""
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        with pytest.raises(PeerError):
            scan(element(tag, "UI", b"1.2\0", syntax) + identifying(syntax), syntax, complete=False)


def test_dicm_at_offset_128_by_chance_is_no_preamble():
    """Any text may stand there; a Part 10 file goes on with group 0002."""
    head = element(0x00080005, "CS", b"ISO_IR 100")
    name = element(0x00080008, "CS", b"A" * (128 - len(head) - 8) + b"DICM")
    data_set = head + name + identifying()[len(head) :]
    assert b"DICM" == data_set[128:132]
    assert IDENTITY == scan(data_set, EXPLICIT, complete=False)


def test_multi_valued_uid_is_given_as_it_stands():
    """Which the check of its syntax refuses."""
    found = scan(identifying(sop_instance=b"1.2.3\\1.2.4\0"), EXPLICIT, complete=False)
    assert b"1.2.3\\1.2.4\0" == getattr(found, "sop_instance_uid", None)


@pytest.mark.parametrize("name", ["sop_class", "sop_instance", "study", "series"])
def test_missing_uid_is_none_and_an_empty_one_empty(name: str):
    """Both are refused by the caller, with the element's tag."""
    absent = read(identifying(**{name: None}), EXPLICIT)
    empty = read(identifying(**{name: b""}), EXPLICIT)
    attribute = name if name.startswith("sop_class") else f"{name}_instance" if not name.startswith("sop") else name
    assert (None, b"") == (getattr(absent, f"{attribute}_uid"), getattr(empty, f"{attribute}_uid"))


def expected_identity(data_set: Dataset) -> tuple[str | None, ...]:
    """Return what pydicom says of the four, as text."""
    keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    return tuple(None if keyword not in data_set else str(data_set.get(keyword) or "") for keyword in keywords)


def text(identity: Identity) -> tuple[str | None, ...]:
    """Return an identity's values without padding."""
    values = (
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
    )
    return tuple(None if value is None else value.rstrip(b"\0 ").decode() for value in values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_identity_of_a_test_file_agrees_with_pydicom(path: Path):
    """A full parse finds the same UIDs, and so do the scan and the fallback each by itself."""
    whole = path.read_bytes()
    meta = decode_file_meta(whole)
    data_set = whole[meta.data_set_offset :]
    try:
        expected = expected_identity(dcmread(path, stop_before_pixels=True))
    except Exception:  # noqa: BLE001  # pydicom has files that it cannot read itself
        with pytest.raises(PeerError):
            read(data_set, meta.transfer_syntax_uid)
        return
    assert expected == text(read(data_set, meta.transfer_syntax_uid))
    assert expected == text(read_identity(io.BytesIO(data_set), meta.transfer_syntax_uid))


_tags = st.sampled_from([0x00080005, CLASS, INSTANCE, 0x00081140, 0x00091010, STUDY, SERIES, 0x7FE00010, 0xFFFEE000])
_vrs = st.sampled_from(["UI", "CS", "SQ", "UN", "OB", "LO"])
_parts = st.lists(
    st.tuples(_tags, _vrs, st.binary(max_size=70), st.none() | st.sampled_from([0, 7, UNDEFINED])), max_size=8
)


@given(parts=_parts, syntax=st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]), cut=st.integers(0, 600))
def test_any_head_gives_an_outcome_or_the_documented_error(parts: list[Any], syntax: str, cut: int):
    """And a longer head never changes an identity that was found."""
    data_set = b"".join(element(tag, vr, value, syntax, length) for tag, vr, value, length in parts)
    try:
        first = scan(data_set[:cut], syntax, complete=False)
        whole = scan(data_set, syntax, complete=False)
    except PeerError:
        return
    if isinstance(first, Identity):
        assert first == whole


def test_fallback_reads_from_where_the_file_stands(tmp_path: Path):
    """The file meta information before the data set is not read again."""
    path = tmp_path / "object.dcm"
    path.write_bytes(b"anything" + identifying())
    file: BinaryIO
    with path.open("rb") as file:
        file.seek(8)
        assert IDENTITY == read_identity(file, EXPLICIT)
