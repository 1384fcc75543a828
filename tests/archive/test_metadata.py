"""Headers in the DICOM JSON model: strict JSON, every element, and what comes back is what was there (PS3.18 F)."""

import io
import json
import struct
from typing import Any

import pytest
from data_sets import element, item, sequence
from framed import GREY, ROOT, encode, image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomflow.archive.metadata import MAX_INLINE_BYTES, MetadataWriter
from dicomflow.dicom.fields import read_fields
from dicomflow.dicom.part10 import decode_file_meta

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
EXPLICIT = f"{ROOT}.1"


def strict(text: str) -> Any:
    """Parse JSON as a browser does: without NaN."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def written(data_set: bytes, syntax: str = EXPLICIT) -> Any:
    """Write a data set, and parse it."""
    fields = read_fields(io.BytesIO(data_set), syntax, len(data_set), 64 << 10)
    return strict(MetadataWriter().write(fields, syntax, "http://archive/bulkdata"))


def of(vr: str, value: bytes, tag: int = 0x00104000, syntax: str = EXPLICIT) -> Any:
    """Write one element, and return what is told of it."""
    return written(element(tag, vr, value, syntax), syntax)[f"{tag:08X}"]


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("LO", b"", {"vr": "LO"}),
        ("LO", b"  ", {"vr": "LO"}),
        ("LO", b"a\\\\ b ", {"vr": "LO", "Value": ["a", None, "b"]}),
        ("ST", b" a\\b\0", {"vr": "ST", "Value": [" a\\b"]}),
        ("UI", b"1.2.3\0", {"vr": "UI", "Value": ["1.2.3"]}),
        ("IS", b"007 \\-12\\x", {"vr": "IS", "Value": [7, -12, "x"]}),
        ("IS", b"12345678901234567890", {"vr": "IS", "Value": ["12345678901234567890"]}),
        ("DS", b"+1.\\.5\\1.E3\\NaN\\1e999", {"vr": "DS", "Value": [1.0, 0.5, 1000.0, "NaN", "1e999"]}),
        ("FD", struct.pack("<3d", 1.5, float("nan"), float("-inf")), {"vr": "FD", "Value": [1.5, "NaN", "-Infinity"]}),
        ("FL", struct.pack("<f", 0.1), {"vr": "FL", "Value": [0.1]}),
        ("SV", struct.pack("<2q", -5, 2**62), {"vr": "SV", "Value": [-5, str(2**62)]}),
        ("US", struct.pack("<2H", 1, 65535), {"vr": "US", "Value": [1, 65535]}),
        ("US", b"abc", {"vr": "UN", "InlineBinary": "YWJj"}),
        ("AT", struct.pack("<HH", 0x18, 0x1063), {"vr": "AT", "Value": ["00181063"]}),
        ("OB", b"\x01\x02", {"vr": "OB", "InlineBinary": "AQI="}),
        ("OB", b"", {"vr": "OB"}),
        ("UN", b"text", {"vr": "UN", "InlineBinary": "dGV4dA=="}),
        ("PN", b"A^B^^^==C\\==", {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Phonetic": "C"}, None]}),
        ("LT", b'a\x01"\x1b[', {"vr": "LT", "Value": ['a\x01"\x1b[']}),
        ("DA", b"20260101-", {"vr": "DA", "Value": ["20260101-"]}),
    ],
)
def test_value_of_each_kind(vr: str, value: bytes, expected: Any) -> None:
    """Empty elements are a VR alone, empty values null, numbers numbers where every reader has them exactly."""
    assert expected == of(vr, value)


def test_digits_of_a_decimal_stay() -> None:
    """1.50 is not made 1.5: the text of the number is what was sent."""
    fields = read_fields(io.BytesIO(element(0x00281053, "DS", b"1.50")), EXPLICIT, 12, 1000)
    assert '"00281053":{"vr":"DS","Value":[1.50]}' in MetadataWriter().write(fields, EXPLICIT, "")


def test_text_is_decoded_by_the_character_set_in_force() -> None:
    """An item may declare another; bytes that are none of it do not spoil the page."""
    name, other = 0x00100010, 0x00101001
    inner = element(0x00080005, "CS", b"ISO_IR 192") + element(name, "PN", "Грета".encode())
    data_set = element(0x00080005, "CS", b"ISO_IR 100") + sequence(0x00081115, item(inner))
    found = written(data_set + element(name, "PN", b"M\xfcller") + element(other, "PN", "ü".encode("utf-16")))
    assert "Müller" == found["00100010"]["Value"][0]["Alphabetic"]
    assert "Грета" == found["00081115"]["Value"][0]["00100010"]["Value"][0]["Alphabetic"]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_numbers_are_the_same_from_each_encoding(syntax: str) -> None:
    """Binary ones are little endian in JSON; the VR of implicit ones is the dictionary's."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    data_set = b"".join(
        (
            element(0x00080060, "CS", b"CT", syntax),
            sequence(0x00081140, item(element(0x00081155, "UI", b"1.2\0", syntax), syntax), syntax=syntax),
            element(0x00280010, "US", struct.pack(order + "H", 512), syntax),
            element(0x00281101, "US", struct.pack(order + "3H", 256, 0, 16), syntax),
            element(0x00281201, "OW", struct.pack(order + "2H", 1, 2), syntax),
            element(0x00291001, "UN", b"\1\2", syntax),
        )
    )
    assert {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00081140": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]},
        "00083002": {"vr": "UI", "Value": [syntax]},
        "00280010": {"vr": "US", "Value": [512]},
        "00281101": {"vr": "US", "Value": [256, 0, 16]},
        "00281201": {"vr": "OW", "InlineBinary": "AQACAA=="},
        "00291001": {"vr": "UN", "InlineBinary": "AQI="},
    } == written(data_set, syntax)


def test_bulk_data_are_given_by_address_and_small_private_values_are_not() -> None:
    """Below sequences by tags and numbers; pixels always."""
    long = b"\1" * (MAX_INLINE_BYTES + 2)
    inner = item(b"") + item(element(0x00091001, "OB", long))
    data_set = element(0x00091001, "OB", b"\1\2") + sequence(0x00540016, inner) + element(0x60003000, "OW", long)
    found = written(data_set + element(0x7FE00010, "OW", b"\0\0"))
    assert "http://archive/bulkdata/00540016/2/00091001" == found["00540016"]["Value"][1]["00091001"]["BulkDataURI"]
    assert {} == found["00540016"]["Value"][0]
    assert "http://archive/bulkdata/60003000" == found["60003000"]["BulkDataURI"]
    assert {"vr": "OW", "BulkDataURI": "http://archive/bulkdata/7FE00010"} == found["7FE00010"]
    assert "AQI=" == found["00091001"]["InlineBinary"]


def test_what_is_no_sequence_is_given_as_bytes() -> None:
    """One broken element costs none of the others."""
    found = written(element(0x00081140, "SQ", b"no items here!!!") + element(0x00100020, "LO", b"P1"))
    assert ("UN", "P1") == (found["00081140"]["vr"], found["00100020"]["Value"][0])


def test_group_lengths_are_left_out_and_keys_ascend() -> None:
    """PS3.18 F.2.2."""
    data_set = (
        element(0x00080000, "UL", b"\0\0\0\0") + element(0x00100020, "LO", b"P1") + element(0x00080060, "CS", b"CT")
    )
    fields = read_fields(io.BytesIO(data_set), EXPLICIT, len(data_set), 1000)
    assert ["00080060", "00083002", "00100020"] == list(strict(MetadataWriter().write(fields, EXPLICIT, "")))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_pydicom_makes_the_data_set_of_it_again(syntax: str) -> None:
    """An image with sequences and private elements."""
    dataset = image(syntax, GREY.tobytes())
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "größer"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Ärmel^Zoë"
    dataset.AnatomicRegionSequence = Sequence([inner])
    dataset.ImagePositionPatient = ["1.5", "-2", "0.25"]
    dataset.add_new(0x00290010, "LO", "SOMEBODY")
    content = encode(dataset)
    at = decode_file_meta(content).data_set_offset
    fields = read_fields(io.BytesIO(content[at:]), syntax, len(content) - at, 64 << 10)
    page = strict(MetadataWriter().write(fields, "", "http://archive"))
    again = Dataset.from_json(page, lambda _tag, _vr, _uri: GREY.tobytes())
    before = dcmread(io.BytesIO(content))
    for each in before:
        assert each.value == again[each.tag].value, each.tag
    assert len(before) == len(again)
