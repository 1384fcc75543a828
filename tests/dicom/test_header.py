"""The header of every object of pydicom's own test files is read as pydicom reads it."""

import contextlib
import datetime as dt
import io
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from data_sets import ODD, identifying
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue

from dicomflow.dicom.attributes import ATTRIBUTES, Attribute, Level
from dicomflow.dicom.header import MAX_VALUE_BYTES, Header, read_header, read_header_from
from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.errors import PeerError

EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
# The files that lie in the package: its own look-up would fetch the others from the network.
FILES = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*.dcm")
    if path.read_bytes()[128:132] == b"DICM" and path.name != "meta_missing_tsyntax.dcm"
)


def read(data: bytes) -> Header:
    """Read a whole object's header, by whichever reader can."""
    return read_header(data, complete=True) or read_header_from(io.BytesIO(data))


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """Encode an element in explicit VR little endian with a two-byte length."""
    tag = group.to_bytes(2, "little") + number.to_bytes(2, "little")
    return tag + vr.encode() + len(value).to_bytes(2, "little") + value


def part10(*elements: bytes, transfer_syntax: str = EXPLICIT) -> bytes:
    """Put a file meta group before some elements."""
    return encode_file_meta("1.2.840.10008.5.1.4.1.1.2", "1.2.3", transfer_syntax, "A", "B") + b"".join(elements)


def expected_value(attribute: Attribute, data_set: Dataset) -> Any:
    """Return what pydicom says an attribute is, in the catalog's types where the two have the same notion of it."""
    value = data_set.get(attribute.keyword)
    if value is None or value == "" or (isinstance(value, MultiValue) and not value):
        return None
    if not attribute.many:
        return plain(attribute, value)
    several = isinstance(value, MultiValue | list)
    return [plain(attribute, part) for part in (value if several else [value])]


def plain(attribute: Attribute, value: Any) -> Any:
    """Return one of pydicom's values as a plain one."""
    if attribute.vr in {"DS", "IS", "US"}:
        return {"DS": float, "IS": int, "US": int}[attribute.vr](value)
    if attribute.vr == "DA":
        return dt.datetime.strptime(str(value).replace(".", ""), "%Y%m%d").date()  # noqa: DTZ007  # a device's date
    if attribute.vr == "TM":
        clock = str(value).replace(":", "").partition(".")
        whole = clock[0].ljust(6, "0")
        return dt.time(int(whole[:2]), int(whole[2:4]), int(whole[4:6]), int(clock[2].ljust(6, "0") or 0))
    return str(value).strip(" ")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_header_of_a_test_file_agrees_with_pydicom(path: Path):
    """A full parse finds the same values; the two readers agree with each other."""
    data = path.read_bytes()
    header = read(data)
    assert read_header_from(io.BytesIO(data)) == header
    data_set = dcmread(path, stop_before_pixels=True)
    unparsed = {keyword for texts in header.raw_values.values() for keyword in texts}
    for attribute in ATTRIBUTES:
        if attribute.keyword in unparsed or attribute.tag == 0x00020010 or attribute.vr == "DT":
            continue
        actual = header.values.get(attribute.keyword)
        if attribute.vr == "SQ":
            assert bool(data_set.get(attribute.keyword)) == bool(actual), attribute.keyword
        elif not (attribute.keyword in {"SOPClassUID", "SOPInstanceUID"} and attribute.keyword not in data_set):
            assert expected_value(attribute, data_set) == actual, attribute.keyword


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_header_read_warns_and_logs_nothing(path: Path, caplog: pytest.LogCaptureFixture):
    """Warnings of pydicom quote values, which are patient data: none is shown, none reaches a log."""
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        read(path.read_bytes())
    assert [] == [record for record in caplog.records if record.name.startswith("pydicom")]


@pytest.mark.parametrize("path", FILES[::7], ids=lambda path: path.name)
def test_header_cut_anywhere_asks_for_more_or_is_the_same(path: Path):
    """Of a part of an object the walk says that it needs more, and never another header."""
    data = path.read_bytes()
    whole = read_header(data, complete=True)
    for length in range(132, min(len(data), 20_000), 97):
        assert read_header(data[:length], complete=False) in (None, whole), length


def test_values_that_do_not_parse_are_none_with_their_text():
    """The raw text stands at the level of its attribute."""
    header = read(part10(element(8, 0x20, "DA", b"2026-11-"), element(0x20, 0x13, "IS", b"five")))
    assert (None, None) == (header.values["StudyDate"], header.values["InstanceNumber"])
    assert {Level.STUDY: {"StudyDate": "2026-11-"}, Level.INSTANCE: {"InstanceNumber": "five"}} == header.raw_values


@pytest.mark.parametrize("name", ODD)
def test_odd_data_set_is_read_by_the_index_as_by_the_receiver(name: str):
    """The UIDs are those under which the object was filed, and another encoding than declared is told."""
    syntax, make = ODD[name]
    header = read(part10(make(), transfer_syntax=syntax))
    found = [header.values[f"{level}InstanceUID"] for level in ("SOP", "Study", "Series")]
    assert ["1.2.3.4", "1.2.5", "1.2.6"] == found
    assert (" declared " in name and "plain" not in name) == (header.problem is not None)


def test_encoding_that_contradicts_its_transfer_syntax_is_told_in_words():
    """Both are named, and no value is."""
    syntax, make = ODD["implicit declared explicit"]
    expected = "the data set is in Implicit VR Little Endian, and its transfer syntax says Explicit VR Little Endian"
    assert expected == read(part10(make(), transfer_syntax=syntax)).problem


def test_patient_behind_the_pixels_is_found():
    """An attribute that an object is filed by is looked for in all of it."""
    pixels = b"\xe0\x7f\x10\0OW\0\0\0\0\2\0" + bytes(2 << 16)
    header = read(part10(identifying(), pixels, element(0x10, 0x20, "LO", b"P1")))
    assert "P1" == header.values["PatientID"]


@pytest.mark.parametrize("site", ["", "GBK"])
@pytest.mark.parametrize("complete", [True, False])
def test_site_character_set_is_asked_by_calling_ae_title(site: str, *, complete: bool):
    """A device that declares none writes in what its site says."""
    name = element(0x10, 0x10, "PN", "\u738b".encode("gbk"))
    data = part10(identifying().replace(b"ISO_IR 100", bytes(10)), name + element(0x10, 0x20, "LO", b"P1"))

    def site_character_set(calling_ae_title: str) -> str:
        return site if calling_ae_title == "A" else "?"

    if complete:
        header = read_header(data, complete=True, site_character_set=site_character_set)
    else:
        header = read_header_from(io.BytesIO(data), site_character_set)
    assert header is not None
    assert ("\u738b" if site else "\xcd\xf5") == header.values["PatientName"]
    assert ({} if site else {Level.PATIENT: {"PatientName": "\\xcd\\xf5"}}) == header.raw_values


def test_missing_sop_uids_are_taken_from_the_file_meta():
    """An object that names itself only in its meta information is found by that name."""
    header = read(part10())
    assert ("1.2.840.10008.5.1.4.1.1.2", "1.2.3") == (header.values["SOPClassUID"], header.values["SOPInstanceUID"])


def test_calling_ae_title_is_taken_from_the_file_meta():
    """Who sent the object is known from the object alone."""
    assert "A" == read(part10()).calling_ae_title


def test_sequence_that_repeats_is_read_by_its_own_character_set():
    """The same bytes under another character set are another text."""
    item = element(8, 0x0104, "LO", b"\xe4\xf6")
    sequence = b"\x08\x00\x18\x22SQ\0\0" + (len(item) + 8).to_bytes(4, "little") + b"\xfe\xff\x00\xe0"
    sequence += len(item).to_bytes(4, "little") + item
    meanings = []
    for character_set in (b"ISO_IR 100", b"ISO_IR 144", b"ISO_IR 100"):
        values = read(part10(element(8, 5, "CS", character_set), sequence)).values["AnatomicRegionSequence"]
        meanings.append(values[0]["00080104"]["Value"][0])
    assert ["\xe4\xf6", "\u0444\u0456", "\xe4\xf6"] == meanings


def test_value_too_long_to_hold_is_none_with_its_length():
    """A text of many megabytes is not cut, and does not cost its object."""
    length = MAX_VALUE_BYTES + 2
    comments = b"\x20\x00\x00\x40UT\0\0" + length.to_bytes(4, "little") + b"x" * length
    header = read(part10(element(0x10, 0x20, "LO", b"P1"), comments))
    assert (None, "P1") == (header.values["ImageComments"], header.values["PatientID"])
    assert {Level.INSTANCE: {"ImageComments": "4,194,306 bytes, more than are indexed"}} == header.raw_values


@pytest.mark.parametrize("depth", [60, 65, 2_000, 50_000])
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
def test_sequences_nested_without_end_cost_a_moment(depth: int, *, is_closed: bool):
    """An object made to exhaust its reader is indexed without them."""
    sequence = b"\x08\x00\x18\x22SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth if is_closed else b""
    began_at = time.process_time()
    header = read(part10(element(8, 0x60, "CS", b"CT"), sequence + ends + element(0x10, 0x20, "LO", b"P1")))
    assert time.process_time() - began_at < 4
    assert "CT" == header.values["Modality"]
    assert (depth == 60 and is_closed) == bool(header.values.get("AnatomicRegionSequence"))
    assert is_closed == ("P1" == header.values.get("PatientID"))


@pytest.mark.parametrize(
    "data_set",
    [b"\x08\x00", element(8, 0x20, "DA", b"20261101")[:-3], b"\x08\x00\x18\x22SQ\0\0\x08\0\0\0garbage!"],
    ids=["half a tag", "cut value", "sequence of garbage"],
)
def test_malformed_data_set_keeps_what_stands_before(data_set: bytes):
    """An object that breaks off is indexed as far as it goes."""
    assert read(part10(element(8, 5, "CS", b"ISO_IR 192"), data_set)).values["SpecificCharacterSet"] == ["ISO_IR 192"]


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_header_or_a_refusal(data: bytes):
    """Whatever stands in an object, reading it ends in one of the two documented ways."""
    with contextlib.suppress(PeerError):
        assert isinstance(read(part10(data)), Header)


def test_deflated_data_set_that_cannot_be_inflated_is_refused():
    """Garbage in a deflated object is the sender's fault."""
    with pytest.raises(PeerError, match="inflated"):
        read(part10(b"\xff" * 100, transfer_syntax=DEFLATED))


@pytest.mark.parametrize("data", [b"", b"x" * 500, b"\0" * 128 + b"DICM"])
def test_object_that_is_no_part_10_file_is_refused(data: bytes):
    """Other files are told from objects that need more bytes."""
    with pytest.raises(PeerError):
        read_header(data, complete=True)
