"""File meta information: written as PS3.10 7.1 has it, read back by us and by pydicom."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import data, dcmread

from dicomflow.dicom.part10 import FileMeta, decode_file_meta, encode_file_meta
from dicomflow.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomflow.errors import PeerError

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
META = encode_file_meta(CT, "1.2.3.4", EXPLICIT, "MODALITY", "EDGE")
# Those that come with the package; the function for test files would fetch the others.
FILES = sorted(
    path
    for path in Path(data.__file__).parent.glob("*_files/**/*")
    if path.is_file() and path.read_bytes()[128:132] == b"DICM"
)


def test_meta_is_read_by_pydicom_element_by_element():
    """Every element that is written, with its value, in ascending order, and a group length that fits."""
    meta = dcmread(io.BytesIO(META)).file_meta
    expected = {
        0x00020000: len(META) - 128 - 4 - 12,
        0x00020001: b"\x00\x01",
        0x00020002: CT,
        0x00020003: "1.2.3.4",
        0x00020010: EXPLICIT,
        0x00020012: IMPLEMENTATION_CLASS_UID,
        0x00020013: IMPLEMENTATION_VERSION_NAME,
        0x00020016: "MODALITY",
        0x00020017: "MODALITY",
        0x00020018: "EDGE",
    }
    assert expected == {int(element.tag): element.value for element in meta}
    assert sorted(expected) == [int(element.tag) for element in meta]
    assert bytes(128) + b"DICM" == META[:132]


def test_same_arguments_give_the_same_bytes():
    """So that a file received again has the same digest."""
    assert META == encode_file_meta(CT, "1.2.3.4", EXPLICIT, "MODALITY", "EDGE")


def test_data_set_begins_where_the_meta_says():
    """Whatever follows is not looked at."""
    data_set = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
    expected = FileMeta(CT, "1.2.3.4", EXPLICIT, "MODALITY", "EDGE", len(META))
    assert expected == decode_file_meta(META + data_set)
    assert expected == decode_file_meta(memoryview(META + data_set))


_uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: "1." + ".".join(map(str, parts)))
_titles = st.text(st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E), max_size=16)


@given(_uids, _uids, _uids, _titles, _titles)
def test_meta_round_trips(sop_class: str, sop_instance: str, syntax: str, calling: str, called: str):
    """Write, read: the same values; every value has an even length."""
    encoded = encode_file_meta(sop_class, sop_instance, syntax, calling, called)
    assert FileMeta(sop_class, sop_instance, syntax, calling, called, len(encoded)) == decode_file_meta(encoded)
    assert 0 == len(encoded) % 2


@pytest.mark.parametrize("length", range(128, len(META), 3))
def test_meta_cut_short_is_an_error_or_lacks_what_is_optional(length: int):
    """Behind the transfer syntax each cut between elements reads as a shorter group."""
    try:
        decoded = decode_file_meta(META[:length])
    except PeerError:
        return
    assert (CT, "1.2.3.4", EXPLICIT) == (decoded.sop_class_uid, decoded.sop_instance_uid, decoded.transfer_syntax_uid)
    assert length - decoded.data_set_offset in {0, 1}  # one byte of a tag may be left


@pytest.mark.parametrize(
    "head",
    [b"", bytes(200), META[:132], META[128:], META[:132] + META[144:188], META[:140] + b"\xff\xff\xff\xff"],
    ids=["empty", "zeros", "no-group", "no-preamble", "no-syntax", "length-of-64-kib"],
)
def test_what_is_no_part_10_file_is_an_error(head: bytes):
    """No prefix, no group 0002, or no transfer syntax in it."""
    with pytest.raises(PeerError):
        decode_file_meta(head)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_meta_of_a_test_file_agrees_with_pydicom(path: Path):
    """Transfer syntax, SOP class and instance, and where the data set begins."""
    whole = path.read_bytes()
    with path.open("rb") as file:
        expected = dcmread(file, force=True, stop_before_pixels=True, specific_tags=[]).file_meta
    if "TransferSyntaxUID" not in expected:
        with pytest.raises(PeerError):
            decode_file_meta(whole)
        return
    decoded = decode_file_meta(whole)
    assert str(expected.TransferSyntaxUID) == decoded.transfer_syntax_uid
    assert str(expected.get("MediaStorageSOPClassUID", "")) == decoded.sop_class_uid
    assert str(expected.get("MediaStorageSOPInstanceUID", "")) == decoded.sop_instance_uid
    assert str(expected.get("SourceApplicationEntityTitle", "")) == decoded.calling_ae_title
    assert whole[decoded.data_set_offset : decoded.data_set_offset + 2] != b"\x02\x00"
