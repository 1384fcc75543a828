"""Find the four UIDs that identify an object in the first kilobytes of its data set (PS3.5 7).

Values are skipped by their length and nesting is a counter, so a hostile data set costs neither memory nor
recursion. Of what this scanner cannot read it says so, and the caller reads it with pydicom instead.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, Final, Literal, cast

from dicomflow.dicom.quiet import without_warnings
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MAX_UID_LENGTH,
)
from dicomflow.errors import PeerError

__all__ = ["Identity", "Outcome", "read_identity", "scan"]

_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_MODALITY: Final = 0x00080060
_WANTED: Final = frozenset((_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES))
_ITEM_GROUP: Final = 0xFFFE
_ITEM: Final = 0xFFFEE000
_ITEM_DELIMITATION: Final = 0xFFFEE00D
_SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
# A UID is at most 64 bytes, so of a value longer than this only one thing matters: it must be refused by its length.
_MAX_KEPT_BYTES: Final = 1024
_TOO_LONG: Final = b"?" * (MAX_UID_LENGTH + 1)
# A Part 10 file goes on with group 0002 behind its prefix; a data set may hold "DICM" there by chance (PS3.10 7.1).
_PREFIX_AND_META: Final = b"DICM\x02\x00"
_PREFIX_OFFSET: Final = 128
# Group 0020 stands within the first kilobytes of a data set; a megabyte leaves room for long leading elements.
_MAX_INFLATED_BYTES: Final = 1 << 20
_INFLATED_CHUNK_BYTES: Final = 64 << 10

_ORDERS: Final[tuple[tuple[str, Literal["little", "big"]], ...]] = (("<", "little"), (">", "big"))
_TAG_AND_LENGTH: Final = {order: struct.Struct(order + "HHI") for order, _ in _ORDERS}
_SHORT_FORM_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # reads as the standard's list
)
_SHORT_FORMS: Final = {order: frozenset(int.from_bytes(vr, name) for vr in _SHORT_FORM_VRS) for order, name in _ORDERS}
_LONG_FORM_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # as above


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifying UIDs as they stand in the data set, padding included; None where the element is absent."""

    sop_class_uid: bytes | None
    sop_instance_uid: bytes | None
    study_instance_uid: bytes | None
    series_instance_uid: bytes | None
    # Tells nothing about which object it is; deliveries may be ranked by it.
    modality: bytes | None = field(default=None, compare=False)


class Outcome(Enum):
    """Why `scan` gives no identity."""

    NEED_MORE = "the bytes end before group 0020 does"
    UNUSUAL = "deflated, or a construct this scanner leaves to pydicom"


def scan(head: bytes | bytearray | memoryview, transfer_syntax_uid: str, *, complete: bool) -> Identity | Outcome:
    """Look for the four UIDs in the head of a data set, given from its first byte.

    Args:
        head: the first bytes of the data set, in the transfer syntax's byte order.
        transfer_syntax_uid: decides VR encoding and byte order.
        complete: `head` is the whole data set, so its end is no reason to ask for more.

    Raises:
        PeerError: the data set starts with a Part 10 preamble, or holds group 0000 or 0002.
    """
    if head[_PREFIX_OFFSET : _PREFIX_OFFSET + len(_PREFIX_AND_META)] == _PREFIX_AND_META:
        raise PeerError("the data set starts with a Part 10 preamble")
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return Outcome.UNUSUAL
    values: dict[int, bytes] = {}
    outcome = _walk(
        head,
        ">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<",
        is_implicit=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
        values=values,
    )
    if outcome is Outcome.UNUSUAL or (outcome is Outcome.NEED_MORE and not complete):
        return outcome
    return _identity(values)


def read_identity(data_set: BinaryIO, transfer_syntax_uid: str) -> Identity:
    """Read the four UIDs with pydicom from a file that stands at the first byte of the data set.

    Values that are not wanted are skipped by seeking; of a deflated data set the first MiB is inflated.

    Raises:
        PeerError: the data set cannot be read up to group 0020.
    """
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        inflated = _inflate(data_set)
        found = scan(inflated, EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
        if isinstance(found, Identity):
            return found
        return _read_with_pydicom(io.BytesIO(inflated), EXPLICIT_VR_LITTLE_ENDIAN)
    return _read_with_pydicom(cast("BinaryIO", _Bounded(data_set)), transfer_syntax_uid)


class _Bounded:
    """A file that is never asked for more bytes than it has left: a read allocates what it is asked for first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(start)
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        left = max(self._end - self._file.tell(), 0)
        return self._file.read(left if size < 0 else min(size, left))


def _inflate(data_set: BinaryIO) -> bytes:
    """Inflate the head of a deflated data set, reading no more of it than that takes (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    try:
        while len(inflated) < _MAX_INFLATED_BYTES and (chunk := data_set.read(_INFLATED_CHUNK_BYTES)):
            inflated += inflater.decompress(chunk, _MAX_INFLATED_BYTES - len(inflated))
    except zlib.error as error:
        raise PeerError("the deflated data set cannot be inflated") from error
    return bytes(inflated)


def _read_with_pydicom(data_set: BinaryIO, transfer_syntax_uid: str) -> Identity:
    from pydicom.filereader import read_dataset  # noqa: PLC0415  # a large import that ordinary objects never need

    try:
        with without_warnings():
            found = read_dataset(
                data_set,
                is_implicit_VR=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
                is_little_endian=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
                stop_when=lambda tag, _vr, _length: tag > _SERIES,
                specific_tags=sorted(_WANTED),
            )
            raw = {int(tag): found.get_item(tag) for tag in found.keys()}  # noqa: SIM118  # a Dataset iterates over elements
    except Exception as error:  # pydicom raises whatever a malformed data set leads it into
        raise PeerError(f"the data set cannot be read up to group 0020: {type(error).__name__}") from error
    return _identity({tag: _value_bytes(element) for tag, element in raw.items() if tag in _WANTED})


def _identity(values: dict[int, bytes]) -> Identity:
    return Identity(
        values.get(_SOP_CLASS),
        values.get(_SOP_INSTANCE),
        values.get(_STUDY),
        values.get(_SERIES),
        values.get(_MODALITY),
    )


def _walk(
    head: bytes | bytearray | memoryview, order: str, *, is_implicit: bool, values: dict[int, bytes]
) -> Outcome | None:
    """Walk the elements into `values`; None once group 0020's UIDs are passed, or one of the four is too long."""
    tag_and_length, short_forms = _TAG_AND_LENGTH[order], _SHORT_FORMS[order]
    offset = depth = 0
    end = len(head)
    while offset + 8 <= end:
        group, element, length = tag_and_length.unpack_from(head, offset)
        tag = group << 16 | element
        if depth % 2:  # within a sequence, where items stand
            offset += 8
            if tag == _SEQUENCE_DELIMITATION:
                depth -= 1
            elif tag != _ITEM:
                return Outcome.UNUSUAL
            elif length == _UNDEFINED:
                depth += 1
            else:
                offset += length
            continue
        if group == _ITEM_GROUP:  # within an item, or outside all sequences, where elements stand
            if depth == 0 or tag != _ITEM_DELIMITATION:
                return Outcome.UNUSUAL
            depth -= 1
            offset += 8
            continue
        if depth == 0 and tag > _SERIES:
            return None
        if depth == 0 and group in {0x0000, 0x0002}:
            raise PeerError(f"the data set holds ({group:04X},{element:04X}), which belongs outside it")
        value = offset + 8
        if not is_implicit:
            # A short form's VR and two-byte length were read as one number.
            vr, short = (length & 0xFFFF, length >> 16) if order == "<" else (length >> 16, length & 0xFFFF)
            if vr in short_forms:
                length = short
            else:
                found = _explicit_value(head, offset, order)
                if isinstance(found, Outcome):
                    return found
                value, length = found
        if length == _UNDEFINED:
            depth += 1
            offset = value
            continue
        offset = value + length
        if depth == 0 and tag in _WANTED:
            if length > _MAX_KEPT_BYTES and tag != _MODALITY:
                values[tag] = _TOO_LONG
                return None
            if length <= _MAX_KEPT_BYTES and offset <= end:
                values[tag] = bytes(head[value:offset])
                if tag == _SERIES:
                    return None
    return Outcome.NEED_MORE


def _explicit_value(head: bytes | bytearray | memoryview, offset: int, order: str) -> tuple[int, int] | Outcome:
    """Return offset and length of the value of a long form element; only sequences may be of undefined length."""
    vr = bytes(head[offset + 4 : offset + 6])
    if vr not in _LONG_FORM_VRS:
        return Outcome.UNUSUAL
    if offset + 12 > len(head):
        return Outcome.NEED_MORE
    (length,) = struct.unpack_from(order + "I", head, offset + 8)
    if length == _UNDEFINED and vr != b"SQ":
        return Outcome.UNUSUAL
    return offset + 12, length


def _value_bytes(element: object) -> bytes:
    """Return the bytes of a raw element, or of one that pydicom has decoded already."""
    value = getattr(element, "value", None)
    if isinstance(value, bytes):
        return value
    return "\\".join(value).encode() if isinstance(value, list) else str(value or "").encode()
