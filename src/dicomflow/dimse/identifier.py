"""Identifiers of queries and retrievals: a few elements, each with its value as bytes (PS3.4 C.4.1.1.3, C.4.2.1.4).

Written strictly, in ascending order. Read tolerantly: in whatever encoding its first elements are in, and without a
judgement of the values, which are the asker's to strip and to decode.
"""

import io
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from dicomflow.dicom.encoding import UNDEFINED
from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN
from dicomflow.dicom.walk import open_data_set
from dicomflow.errors import PeerError

__all__ = ["MAX_VALUE_BYTES", "Tag", "decode_identifier", "encode_identifier", "text_value", "uid_list", "uid_value"]

MAX_VALUE_BYTES: Final = 0xFFFE
"""The longest value of a VR with a length of two bytes (PS3.5 7.1.2)."""
_IMPLICIT: Final = struct.Struct("<HHI")
_EXPLICIT: Final = struct.Struct("<HH2sH")


class Tag:
    """The attributes that are asked for and answered, with the keywords of PS3.6."""

    SPECIFIC_CHARACTER_SET: Final = 0x00080005
    SOP_CLASS_UID: Final = 0x00080016
    SOP_INSTANCE_UID: Final = 0x00080018
    STUDY_DATE: Final = 0x00080020
    STUDY_TIME: Final = 0x00080030
    ACCESSION_NUMBER: Final = 0x00080050
    QUERY_RETRIEVE_LEVEL: Final = 0x00080052
    RETRIEVE_AE_TITLE: Final = 0x00080054
    INSTANCE_AVAILABILITY: Final = 0x00080056
    FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
    MODALITY: Final = 0x00080060
    MODALITIES_IN_STUDY: Final = 0x00080061
    PATIENT_ID: Final = 0x00100020
    STUDY_INSTANCE_UID: Final = 0x0020000D
    SERIES_INSTANCE_UID: Final = 0x0020000E
    INSTANCE_NUMBER: Final = 0x00200013
    NUMBER_OF_STUDY_RELATED_SERIES: Final = 0x00201206
    NUMBER_OF_STUDY_RELATED_INSTANCES: Final = 0x00201208
    NUMBER_OF_SERIES_RELATED_INSTANCES: Final = 0x00201209


# PS3.6; all of these VRs have a length of two bytes.
_VRS: Final = {
    Tag.SPECIFIC_CHARACTER_SET: b"CS",
    Tag.SOP_CLASS_UID: b"UI",
    Tag.SOP_INSTANCE_UID: b"UI",
    Tag.STUDY_DATE: b"DA",
    Tag.STUDY_TIME: b"TM",
    Tag.ACCESSION_NUMBER: b"SH",
    Tag.QUERY_RETRIEVE_LEVEL: b"CS",
    Tag.RETRIEVE_AE_TITLE: b"AE",
    Tag.INSTANCE_AVAILABILITY: b"CS",
    Tag.FAILED_SOP_INSTANCE_UID_LIST: b"UI",
    Tag.MODALITY: b"CS",
    Tag.MODALITIES_IN_STUDY: b"CS",
    Tag.PATIENT_ID: b"LO",
    Tag.STUDY_INSTANCE_UID: b"UI",
    Tag.SERIES_INSTANCE_UID: b"UI",
    Tag.INSTANCE_NUMBER: b"IS",
    Tag.NUMBER_OF_STUDY_RELATED_SERIES: b"IS",
    Tag.NUMBER_OF_STUDY_RELATED_INSTANCES: b"IS",
    Tag.NUMBER_OF_SERIES_RELATED_INSTANCES: b"IS",
}


def encode_identifier(values: Mapping[int, bytes], transfer_syntax_uid: str) -> bytes:
    """Encode elements of `Tag` in one of the two Little Endian syntaxes that every peer has; empty values are keys.

    Raises:
        ValueError: a value is longer than its VR allows in explicit VR.
    """
    encoded = bytearray()
    for tag, value in sorted(values.items()):
        vr = _VRS[tag]
        padded = value + (b"\0" if vr == b"UI" else b" ") if len(value) % 2 else value
        if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
            encoded += _IMPLICIT.pack(tag >> 16, tag & 0xFFFF, len(padded))
        elif len(padded) > MAX_VALUE_BYTES:
            raise ValueError(f"a value of {len(padded):,} bytes exceeds {MAX_VALUE_BYTES:,}")
        else:
            encoded += _EXPLICIT.pack(tag >> 16, tag & 0xFFFF, vr, len(padded))
        encoded += padded
    return bytes(encoded)


def decode_identifier(encoded: bytes, transfer_syntax_uid: str) -> dict[int, bytes]:
    """Decode the elements of the top level by their tags, padding included; sequences of undefined length are left out.

    Raises:
        PeerError: it is no data set, or is cut short.
    """
    found: dict[int, bytes] = {}
    with open_data_set(io.BytesIO(encoded), transfer_syntax_uid) as data_set:
        for each in data_set.elements():
            if each.stop > len(encoded):
                raise PeerError(f"the identifier ends after {len(encoded):,} bytes, within a value")
            if each.length != UNDEFINED:
                found.setdefault(each.tag, data_set.read(each.value, each.length))
    return found


def text_value(values: Mapping[int, bytes], tag: int) -> str:
    """Return a text without its padding; empty where there is none, bytes above 7F as Latin-1, which loses none."""
    return values.get(tag, b"").decode("latin-1").strip(" \0")


def uid_value(values: Mapping[int, bytes], tag: int) -> str:
    """Return a UID without its padding, on either side, which some peers write; empty where there is none."""
    return values.get(tag, b"").decode("ascii", "replace").strip(" \0")


def uid_list(uids: Iterable[str]) -> bytes:
    """Return a list of UIDs as one value (PS3.4 C.2.2.2.2)."""
    return "\\".join(uids).encode("ascii")
