"""Values are converted, or kept as text: never invented, never cut."""

import datetime as dt
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dicom.attributes import ATTRIBUTES, Attribute
from dicomflow.dicom.charsets import DEFAULT, character_sets
from dicomflow.dicom.values import convert

BY_KEYWORD = {attribute.keyword: attribute for attribute in ATTRIBUTES}
LATIN = character_sets("ISO_IR 100")


def convert_text(keyword: str, raw: bytes) -> tuple[object, str | None]:
    """Convert a value of an attribute that states its own VR."""
    attribute = BY_KEYWORD[keyword]
    return convert(attribute.tag, attribute.vr, raw, LATIN, is_little_endian=True)


@pytest.mark.parametrize(
    ("keyword", "raw", "value"),
    [
        ("StudyDate", b"20261101", dt.date(2026, 11, 1)),
        ("StudyDate", b"2026.11.01", dt.date(2026, 11, 1)),
        ("StudyTime", b"10", dt.time(10)),
        ("StudyTime", b"1011", dt.time(10, 11)),
        ("StudyTime", b"101112", dt.time(10, 11, 12)),
        ("StudyTime", b"101112.5 ", dt.time(10, 11, 12, 500000)),
        ("StudyTime", b"10:11:12", dt.time(10, 11, 12)),
        ("AcquisitionDateTime", b"20261101", dt.datetime(2026, 11, 1)),  # noqa: DTZ001  # a device's wall clock
        ("AcquisitionDateTime", b"20261101101112.25", dt.datetime(2026, 11, 1, 10, 11, 12, 250000)),  # noqa: DTZ001
        ("InstanceNumber", b" +12 ", 12),
        ("SliceThickness", b"1.5e-3", 0.0015),
        ("PixelSpacing", b"0.5\\0.25", [0.5, 0.25]),
        ("PixelSpacing", b"0.5\\", [0.5, None]),
        ("ImageType", b"A\\B\\ ", ["A", "B", ""]),
        ("PatientName", b"Demo^Patient==", "Demo^Patient"),
        ("StudyDescription", b" text\0", "text"),
        ("ImageComments", b"  text ", "  text"),
        ("Rows", b"\x00\x02", 512),
        ("Modality", b"  ", None),
        ("StudyDate", b"", None),
        ("Rows", b"", None),
    ],
)
def test_value_that_parses_needs_no_raw_text(keyword: str, raw: bytes, value: object):
    """A value of the standard, or of its history, is of its type."""
    assert (value, None) == convert_text(keyword, raw)


@pytest.mark.parametrize(
    ("keyword", "raw", "text"),
    [
        ("StudyDate", b"20260230", "20260230"),
        ("StudyDate", b"20261101-20261102", "20261101-20261102"),
        ("StudyTime", b"256061", "256061"),
        ("StudyTime", b"235960", "235960"),
        ("AcquisitionDateTime", b"2026", "2026"),
        ("InstanceNumber", b"1.5", "1.5"),
        ("InstanceNumber", b"99999999999999999999", "99999999999999999999"),
        ("InstanceNumber", b"1\\2", "1\\2"),
        ("SliceThickness", b"NaN", "NaN"),
        ("SliceThickness", b"1e999", "1e999"),
        ("PixelSpacing", b"0.5\\wide", "0.5\\wide"),
        ("Rows", b"\x00\x02\x00", "000200"),
    ],
)
def test_value_that_does_not_parse_is_none_with_its_text(keyword: str, raw: bytes, text: str):
    """Nothing is guessed, and nothing lost."""
    assert (None, text) == convert_text(keyword, raw)


def test_datetime_with_an_offset_keeps_it_in_the_raw_text():
    """The column is the wall clock; the offset stays readable."""
    expected = dt.datetime(2026, 11, 1, 10, 11, 12)  # noqa: DTZ001  # a device's wall clock
    assert (expected, "20261101101112+0100") == convert_text("AcquisitionDateTime", b"20261101101112+0100")


def test_binary_number_follows_the_data_sets_vr_and_order():
    """A number may be stated as another VR, and in the other byte order."""
    rows = BY_KEYWORD["Rows"]
    assert (-2, None) == convert(rows.tag, "SS", b"\xff\xfe", LATIN, is_little_endian=False)
    assert (65536, None) == convert(rows.tag, "UL", b"\0\0\1\0", LATIN, is_little_endian=True)
    assert (512, None) == convert(rows.tag, "UN", b"\0\2", LATIN, is_little_endian=True)
    assert (512, None) == convert(rows.tag, "IS", b"512 ", LATIN, is_little_endian=True)


@pytest.mark.parametrize(
    ("keyword", "vr", "raw", "value", "told"),
    [
        ("PatientID", "UL", b"\x67\x12\0\0", "4711", None),
        ("StudyDate", "UL", struct.pack("<I", 20260102), dt.date(2026, 1, 2), None),
        ("AccessionNumber", "SL", b"\xff\xff\xff\xff", "-1", None),
        ("PatientName", "SS", b"\x05\0", "5", None),
        ("Modality", "US", b"\3\0", "3", None),
        ("ImageType", "US", b"\3\0\4\0", ["3", "4"], None),
        ("SliceThickness", "FD", b"\0\0\0\0\0\0\xf8\x3f", 1.5, None),
        ("InstanceNumber", "FL", b"\0\0\x80\x3f", 1, None),
        ("SliceThickness", "FL", b"\0\0\xc0\x7f", None, "nan"),
        ("Rows", "UV", b"\xff" * 8, None, "18446744073709551615"),
        ("Rows", "US", b"\1\0\2\0", None, "1\\2"),
        ("Rows", "LO", b"16", 16, None),
        ("StudyDate", "US", b"\1", None, "01"),
        ("PatientID", "SQ", b"\xfe\xff\0\xe0\0\0\0\0", None, "\\xfe\\xff\\x00\\xe0\\x00\\x00\\x00\\x00"),
        ("PatientID", "AT", b"", None, None),
        ("PatientID", "OB", b"P1", "P1", None),
        ("StudyInstanceUID", "UL", b"1.2.3.45", "1.2.3.45", None),
    ],
)
def test_value_of_another_vr_is_of_the_attributes_type(keyword: str, vr: str, raw: bytes, value: object, told: object):
    """A number in the place of a text is written out and read; before this it stopped its whole batch."""
    assert (value, told) == convert(BY_KEYWORD[keyword].tag, vr, raw, LATIN, is_little_endian=True)


def test_text_that_is_not_certain_keeps_its_bytes_beside_it():
    """As text that every database takes; of a long one the beginning."""
    name = BY_KEYWORD["PatientName"].tag
    assert ("Müller", "M\\xfcller") == convert(name, "PN", b"M\xfcller", DEFAULT, is_little_endian=True)
    assert ("ü\ufffdx", "\\xfc\\x00x") == convert(name, "PN", b"\xfc\0x", DEFAULT, is_little_endian=True)
    _, told = convert(name, "PN", b"\xfc" * 10_000, DEFAULT, is_little_endian=True)
    assert told is not None
    assert told.endswith("... of 10,000 bytes")


@given(st.sampled_from(ATTRIBUTES), st.binary(max_size=60), st.sampled_from(["", "US", "UN", "SL", "DS", "PN"]))
def test_convert_any_bytes_ends_in_a_value(attribute: Attribute, raw: bytes, vr: str):
    """No value of a device stops the index, and none holds what a database refuses."""
    value, text = convert(attribute.tag, vr or attribute.vr, raw, LATIN, is_little_endian=True)
    assert text is None or text
    assert "\0" not in f"{value}{text}"
