"""Find the four UIDs that identify an object in the first kilobytes of its data set (PS3.5 7).

Values are skipped by their length and nesting is a counter, so a hostile data set costs neither memory nor
recursion. Of what this scanner cannot read it says so, and the caller has it walked in its file instead.
"""

import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, Final, Literal

from dicomflow.dicom.encoding import (
    ITEM,
    ITEM_DELIMITATION,
    ITEM_GROUP,
    LONG_FORM_VRS,
    SEQUENCE_DELIMITATION,
    SHORT_FORM_VRS,
    UNDEFINED,
)
from dicomflow.dicom.part10 import FileMeta
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    MAX_UID_LENGTH,
)
from dicomflow.dicom.walk import inflate, open_data_set
from dicomflow.errors import PeerError

__all__ = ["HEAD_BYTES", "Identity", "Outcome", "identify", "read_identity", "scan"]

HEAD_BYTES: Final = 16 << 10
"""Of a Part 10 file: nearly always enough."""

_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_MODALITY: Final = 0x00080060
_UIDS: Final = frozenset((_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES))
_WANTED: Final = _UIDS | {_MODALITY}
_VRS: Final = SHORT_FORM_VRS | LONG_FORM_VRS
# A UID is at most 64 bytes, so of a value longer than this only one thing matters: it must be refused by its length.
_MAX_KEPT_BYTES: Final = 1024
_TOO_LONG: Final = b"?" * (MAX_UID_LENGTH + 1)
# A Part 10 file goes on with group 0002 behind its prefix; a data set may hold "DICM" there by chance (PS3.10 7.1).
_PREFIX_AND_META: Final = b"DICM\x02\x00"
_PREFIX_OFFSET: Final = 128
# Nearly always enough of a deflated data set; if not, it is walked, and more is inflated.
_MAX_INFLATED_BYTES: Final = 1 << 20

_ORDERS: Final[tuple[tuple[str, Literal["little", "big"]], ...]] = (("<", "little"), (">", "big"))
_TAG_AND_LENGTH: Final = {order: struct.Struct(order + "HHI") for order, _ in _ORDERS}
_SHORT_FORMS: Final = {order: frozenset(int.from_bytes(vr, name) for vr in SHORT_FORM_VRS) for order, name in _ORDERS}


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
    UNUSUAL = "deflated, a construct that this scanner leaves to the walk, or a UID is not where it belongs"


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
    is_implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    if is_implicit and bytes(head[4:6]) in _VRS:
        return Outcome.UNUSUAL  # perhaps in explicit VR, against what was declared
    order = ">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<"
    outcome = _walk(head, order, is_implicit=is_implicit, values=values)
    if outcome is Outcome.UNUSUAL or (outcome is Outcome.NEED_MORE and not complete):
        return outcome
    if values.keys() >= _UIDS or _TOO_LONG in values.values():
        return _identity(values)
    return Outcome.UNUSUAL  # out of order, perhaps, or not encoded as declared: whoever walks on finds it


def read_identity(data_set: BinaryIO, transfer_syntax_uid: str) -> Identity:
    """Look for the four UIDs in all of a data set, in a file that stands at its first byte.

    Values that are not wanted are sought over; a deflated data set is inflated up to `walk.MAX_INFLATED_BYTES`.

    Raises:
        PeerError: the data set cannot be read, or not within the bounds of `dicom.walk`, as far as its UIDs.
    """
    start = data_set.tell()
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        found = scan(inflate(data_set, _MAX_INFLATED_BYTES), EXPLICIT_VR_LITTLE_ENDIAN, complete=False)
        if isinstance(found, Identity):
            return found
        data_set.seek(start)
    values: dict[int, bytes] = {}
    with open_data_set(data_set, transfer_syntax_uid) as opened:
        for element in opened.elements():
            if element.tag in _WANTED and element.tag not in values:
                is_short = element.stop - element.value <= _MAX_KEPT_BYTES
                value = opened.read(element.value, element.length) if is_short else _TOO_LONG
                if not is_short or len(value) == element.length:  # half a UID is another one
                    values[element.tag] = value
            if element.tag >= _SERIES and values.keys() >= _UIDS:
                break
    return _identity(values)


def identify(file: BinaryIO, head: bytes, meta: FileMeta) -> Identity:
    """Look for the four UIDs in a Part 10 file: in its head, or in all of it. Raises as `read_identity` does.

    Args:
        file: the file, which may be sought.
        head: its first `HEAD_BYTES`, or all of it.
        meta: the meta information that the head begins with.
    """
    data_set = memoryview(head)[meta.data_set_offset :]
    found = scan(data_set, meta.transfer_syntax_uid, complete=len(head) < HEAD_BYTES)
    if isinstance(found, Identity):
        return found
    file.seek(meta.data_set_offset)
    return read_identity(file, meta.transfer_syntax_uid)


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
            if tag == SEQUENCE_DELIMITATION:
                depth -= 1
            elif tag != ITEM:
                return Outcome.UNUSUAL
            elif length == UNDEFINED:
                depth += 1
            else:
                offset += length
            continue
        if group == ITEM_GROUP:  # within an item, or outside all sequences, where elements stand
            if depth == 0 or tag != ITEM_DELIMITATION:
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
        if length == UNDEFINED:
            depth += 1
            offset = value
            continue
        offset = value + length
        if depth == 0 and tag in _WANTED and tag not in values:
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
    if bytes(head[offset + 4 : offset + 6]) not in LONG_FORM_VRS or bytes(head[offset + 6 : offset + 8]) != b"\0\0":
        return Outcome.UNUSUAL
    if offset + 12 > len(head):
        return Outcome.NEED_MORE
    (length,) = struct.unpack_from(order + "I", head, offset + 8)
    if length == UNDEFINED and bytes(head[offset + 4 : offset + 6]) != b"SQ":
        return Outcome.UNUSUAL
    return offset + 12, length
