"""Part 10 files: the file meta information that stands before a data set (PS3.10 7.1).

Writes the preamble and group 0002 for a received data set, and reads them back from the head of a file.
It never touches the data set, and does no I/O.
"""

import struct
from dataclasses import dataclass
from typing import Final

from dicomflow.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, strip_padding
from dicomflow.errors import PeerError

__all__ = ["PREAMBLE_LENGTH", "FileMeta", "decode_file_meta", "encode_file_meta", "with_transfer_syntax"]

PREAMBLE_LENGTH: Final = 128
_PREFIX: Final = b"DICM"
_START: Final = bytes(PREAMBLE_LENGTH) + _PREFIX
_LONG_FORM_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # reads as the standard's list
# (0002,0000) UL, 4 bytes: its own element is 12 bytes long.
_GROUP_LENGTH: Final = struct.Struct("<HH2sHI")
_SHORT_ELEMENT: Final = struct.Struct("<HH2sH")
_LONG_ELEMENT: Final = struct.Struct("<HH2s2xI")


@dataclass(frozen=True, slots=True)
class FileMeta:
    """File meta information of a stored object; `data_set_offset` counts bytes from the file's start."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    data_set_offset: int


def _short(element: int, vr: bytes, value: bytes) -> bytes:
    """Encode a group 0002 element with a two-byte length; UI pads with NUL, text with a space (PS3.5 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT_ELEMENT.pack(0x0002, element, vr, len(value)) + value


_VERSION: Final = _LONG_ELEMENT.pack(0x0002, 0x0001, b"OB", 2) + b"\x00\x01"
_IMPLEMENTATION: Final = _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()) + _short(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()
)


def encode_file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    calling_ae_title: str | None = None,
    called_ae_title: str | None = None,
) -> bytes:
    """Encode preamble, prefix and group 0002, Explicit VR Little Endian; the data set follows as received.

    AE titles stand in it where both are given.

    The same arguments give the same bytes, so that a file received again can be recognised by its digest.
    """
    titles = b""
    if calling_ae_title is not None and called_ae_title is not None:
        calling = _short(0x0016, b"AE", calling_ae_title.encode("ascii"))
        called = _short(0x0018, b"AE", called_ae_title.encode("ascii"))
        titles = calling + _short(0x0017, b"AE", calling_ae_title.encode("ascii")) + called
    group = b"".join(
        (
            _VERSION,
            _short(0x0002, b"UI", sop_class_uid.encode("ascii")),
            _short(0x0003, b"UI", sop_instance_uid.encode("ascii")),
            _short(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
            _IMPLEMENTATION,
            titles,
        )
    )
    return _START + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(group)) + group


def decode_file_meta(head: bytes | memoryview) -> FileMeta:
    """Decode the file meta information at the head of a Part 10 file.

    Raises:
        PeerError: no preamble and prefix, or group 0002 is cut short or lacks the transfer syntax UID.
    """
    head = bytes(head)
    if head[PREAMBLE_LENGTH : len(_START)] != _PREFIX:
        raise PeerError("no Part 10 file: 'DICM' does not stand at offset 128")
    values: dict[int, bytes] = {}
    offset = len(_START)
    try:
        while head[offset : offset + 2] == b"\x02\x00":
            _, element, vr, length = _SHORT_ELEMENT.unpack_from(head, offset)
            offset += _SHORT_ELEMENT.size
            if vr in _LONG_FORM_VRS:
                (length,) = struct.unpack_from("<I", head, offset)
                offset += 4
            if offset + length > len(head):
                raise PeerError(f"file meta information ends after {len(head):,} bytes, in (0002,{element:04X})")
            values[element] = head[offset : offset + length]
            offset += length
    except struct.error as error:
        raise PeerError(f"file meta information ends after {len(head):,} bytes") from error
    if 0x0010 not in values:
        raise PeerError("file meta information has no Transfer Syntax UID (0002,0010)")
    return FileMeta(
        sop_class_uid=strip_padding(values.get(0x0002, b"")),
        sop_instance_uid=strip_padding(values.get(0x0003, b"")),
        transfer_syntax_uid=strip_padding(values[0x0010]),
        calling_ae_title=values.get(0x0016, b"").decode("ascii", "replace").strip(" \0"),
        called_ae_title=values.get(0x0018, b"").decode("ascii", "replace").strip(" \0"),
        data_set_offset=offset,
    )


def with_transfer_syntax(head: bytes, transfer_syntax_uid: str) -> bytes:
    """Return preamble and file meta information of a Part 10 file with another transfer syntax; all else stays.

    Raises:
        PeerError: as `decode_file_meta`.
    """
    end = decode_file_meta(head).data_set_offset
    parts: list[bytes] = []
    offset = len(_START)
    while offset < end:
        begin = offset
        _, element, vr, length = _SHORT_ELEMENT.unpack_from(head, offset)
        offset += _SHORT_ELEMENT.size
        if vr in _LONG_FORM_VRS:
            (length,) = struct.unpack_from("<I", head, offset)
            offset += 4
        offset += length
        if element == 0x0010:
            parts.append(_short(0x0010, b"UI", transfer_syntax_uid.encode("ascii")))
        elif element:  # the group length is told anew
            parts.append(head[begin:offset])
    group = b"".join(parts)
    return head[: len(_START)] + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(group)) + group
