"""A data set's elements as fields: tag, VR, bytes, and of a sequence its items, down to the innermost (PS3.5 7).

For whoever gives elements on as they are, in another encoding or in another notation: nothing is decoded. An ordinary
data set is read from its head in one go; any other one as receiver and index read it, by `dicom.walk`. Nesting, and
how many elements there are, is bounded.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from dicomflow.dicom.encoding import (
    EXPLICIT,
    ITEM,
    ITEM_DELIMITATION,
    ITEM_GROUP,
    LONG_FORM_VRS,
    SEQUENCE_DELIMITATION,
    SHORT_FORM_VRS,
    UNDEFINED,
    Encoding,
    judge_encoding,
)
from dicomflow.dicom.walk import MAX_ELEMENTS, DataSet, Element
from dicomflow.errors import PeerError

__all__ = [
    "PIXELS",
    "PIXEL_DATA",
    "DataSetFields",
    "Field",
    "Item",
    "first_value",
    "read_fields",
    "read_items",
    "vr_of",
]

PIXEL_DATA: Final = 0x7FE00010
_HEAD_BYTES: Final = 60 << 10
_MAX_DEPTH: Final = 50
_PIXEL_REPRESENTATION: Final = 0x00280103
# Their values are of as many bytes as pixels have, and may be of any length.
PIXELS: Final = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009})
_DELIMITED: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
# Dictionary entries with a choice of VRs: what implicit VR means is in PS3.5 A.1 and in the data set itself.
_WORDS: Final = frozenset({"OB or OW", "US or OW", "US or SS or OW"})

Item: TypeAlias = "tuple[Field, ...]"


class Field(NamedTuple):
    """One element. `at` is where its value begins, counted from the data set's first byte, `stop` where it ends.

    `value` is None where it was left in the file, and for a sequence, which has `items` instead. `vr` is what stands
    there, or what the standard's dictionary says where nothing does.
    """

    tag: int
    vr: str
    at: int
    length: int
    stop: int
    value: bytes | None
    items: "tuple[Item, ...] | None" = None


@dataclass(frozen=True, slots=True)
class DataSetFields:
    """The elements of a data set, in their order, and how it is encoded."""

    encoding: Encoding
    fields: tuple[Field, ...]

    def find(self, tag: int) -> Field | None:
        """Return an element of the top level."""
        return next((field for field in self.fields if field.tag == tag), None)


def read_fields(file: BinaryIO, transfer_syntax_uid: str, size_bytes: int, most_value_bytes: int) -> DataSetFields:
    """Read the elements of the data set that begins where the file stands; one that is deflated is the caller's.

    Args:
        file: it is sought in.
        transfer_syntax_uid: what it is said to be encoded in.
        size_bytes: of the data set.
        most_value_bytes: longer values, and pixels, are left in the file; sequences are read whole.

    Raises:
        PeerError: it cannot be read on, or has too many elements.
    """
    start = file.tell()
    head = file.read(min(_HEAD_BYTES, size_bytes))
    encoding = judge_encoding(head, transfer_syntax_uid)
    if encoding == EXPLICIT:
        fields = _quick(head, size_bytes)
        if fields is not None and _ends_with(file, start, fields, size_bytes):
            return DataSetFields(encoding, tuple(fields))
    file.seek(start)
    return _patient(file, transfer_syntax_uid, most_value_bytes)


def read_items(value: bytes, encoding: Encoding) -> "tuple[Item, ...] | None":
    """Return the items of a sequence that stands as UN, in implicit VR (PS3.5 6.2.2); None where it holds none.

    Some devices write the VRs all the same.
    """
    for within in (replace(encoding, is_implicit=True), encoding):
        try:
            return _items(value, 0, len(value), within, "SQ", _Budget())[0]
        except PeerError:
            continue
    return None


def first_value(fields: Sequence[Field], tag: int) -> bytes | None:
    """Return the bytes of an element of one level; None where it has none, or they were left in the file."""
    return next((field.value for field in fields if field.tag == tag), None)


def _quick(head: bytes, size_bytes: int) -> list[Field] | None:
    """Read a data set in Explicit VR Little Endian up to its pixels; None where it is not as simple as it should be."""
    fields: list[Field] = []
    short_header, long_length = struct.Struct("<HH2sH").unpack_from, struct.Struct("<I").unpack_from
    offset, last, end = 0, -1, len(head)
    budget = _Budget()
    while offset + 8 <= end:
        group, element, vr, length = short_header(head, offset)
        tag = group << 16 | element
        if tag <= last or group in {0x0000, 0x0002, ITEM_GROUP}:
            return None
        last = tag
        at = offset + 8
        if vr in LONG_FORM_VRS:
            if offset + 12 > end:
                return None
            (length,) = long_length(head, at)
            at = offset + 12
        elif vr not in SHORT_FORM_VRS:
            return None
        name = _VR_NAMES[vr]
        if tag in PIXELS:
            stop = UNDEFINED if length == UNDEFINED else at + length
            fields.append(Field(tag, name, at, length, stop, None))
            return fields
        stop = at + length
        items = None
        if name == "SQ" or length == UNDEFINED:
            try:
                items, stop = _items(head, at, length, EXPLICIT, name, budget)
            except PeerError:
                return None  # it may go on behind the head
        elif stop > end:
            return None
        is_sequence = items is not None
        fields.append(
            Field(tag, "SQ" if is_sequence else name, at, length, stop, None if is_sequence else head[at:stop], items)
        )
        offset = stop
    return fields if offset == end == size_bytes else None


def _ends_with(file: BinaryIO, start: int, fields: list[Field], size_bytes: int) -> bool:
    """Tell whether nothing stands behind the last field, which may be pixels; of those with items its end is set."""
    if not fields:
        return False
    last = fields[-1]
    if last.stop == size_bytes:
        return True
    if last.length == UNDEFINED and last.tag in PIXELS and size_bytes > 8:
        file.seek(start + size_bytes - len(_DELIMITED))
        if file.read(len(_DELIMITED)) == _DELIMITED:
            fields[-1] = last._replace(stop=size_bytes)
            return True
    return False


def _patient(file: BinaryIO, transfer_syntax_uid: str, most_value_bytes: int) -> DataSetFields:
    data_set = DataSet(file, transfer_syntax_uid, MAX_ELEMENTS)
    encoding = data_set.encoding
    fields: list[Field] = []
    budget = _Budget()
    for element in data_set.elements():
        vr = element.vr or vr_of(element.tag)
        field = Field(element.tag, vr, element.value, element.length, element.stop, None)
        if element.tag not in PIXELS:
            field = _with_value(data_set, element, field, encoding, most_value_bytes, budget)
        fields.append(field)
    return DataSetFields(encoding, _decided(fields, encoding))


def _with_value(
    data_set: DataSet, element: Element, field: Field, encoding: Encoding, most_value_bytes: int, budget: "_Budget"
) -> Field:
    size = element.stop - element.value
    is_sequence = field.vr == "SQ" or element.length == UNDEFINED
    if size > most_value_bytes and not is_sequence:
        return field
    value = data_set.read(element.value, size)
    if not is_sequence:
        return field._replace(value=value)
    within = replace(encoding, is_implicit=True) if element.vr == "UN" else encoding
    try:
        items, _ = _items(value, 0, element.length, within, element.vr, budget)
    except PeerError:
        if budget.is_spent:
            raise
        return field._replace(vr="UN", value=value)  # what it holds is for whoever can read it
    return field._replace(vr="SQ", items=_moved(items, element.value))


def _moved(items: "tuple[Item, ...]", by: int) -> "tuple[Item, ...]":
    """Count the offsets of items from the data set's first byte, as they were read from a value."""
    return tuple(
        tuple(
            field._replace(
                at=field.at + by,
                stop=field.stop + by,
                items=None if field.items is None else _moved(field.items, by),
            )
            for field in item
        )
        for item in items
    )


class _Budget:
    """Counts elements and items; raises `PeerError` when there are too many."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_ELEMENTS

    @property
    def is_spent(self) -> bool:
        return self.left < 0

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise PeerError(f"the data set holds more than {MAX_ELEMENTS:,} elements and items")


def _items(
    data: bytes, offset: int, length: int, encoding: Encoding, vr: str, budget: _Budget, depth: int = 0
) -> "tuple[tuple[Item, ...], int]":
    """Read a sequence's items from its first on; return them and the offset behind the sequence (PS3.5 7.5)."""
    if depth > _MAX_DEPTH:
        raise PeerError(f"sequences are nested deeper than {_MAX_DEPTH}")
    if vr == "UN":
        encoding = replace(encoding, is_implicit=True)  # PS3.5 6.2.2
    end = len(data) if length == UNDEFINED else offset + length
    if end > len(data):
        raise PeerError("a sequence runs past its data set")
    header = struct.Struct(encoding.order + "HHI").unpack_from
    items: list[Item] = []
    while True:
        if length != UNDEFINED and offset == end:
            return tuple(items), offset
        if offset + 8 > end:
            raise PeerError("a sequence ends within an item")
        group, element, size = header(data, offset)
        offset += 8
        tag = group << 16 | element
        if tag == SEQUENCE_DELIMITATION and length == UNDEFINED:
            return tuple(items), offset
        if tag != ITEM:
            raise PeerError("what stands in a sequence is no item")
        budget.take()
        fields, offset = _item(
            data, offset, min(end, offset + size) if size != UNDEFINED else end, size, encoding, budget, depth
        )
        items.append(fields)


def _item(
    data: bytes, offset: int, end: int, size: int, encoding: Encoding, budget: _Budget, depth: int
) -> "tuple[Item, int]":
    fields: list[Field] = []
    header = struct.Struct(encoding.order + "HHI").unpack_from
    short = struct.Struct(encoding.order + "H").unpack_from
    long = struct.Struct(encoding.order + "I").unpack_from
    while offset < end or size == UNDEFINED:
        if offset + 8 > end:
            raise PeerError("an item ends within an element")
        budget.take()
        group, element, length = header(data, offset)
        tag = group << 16 | element
        if group == ITEM_GROUP:
            if tag != ITEM_DELIMITATION or size != UNDEFINED:
                raise PeerError("a delimiter stands where an element should")
            return _decided(fields, encoding), offset + 8
        at = offset + 8
        if encoding.is_implicit:
            vr = vr_of(tag)
        else:
            raw = data[offset + 4 : at]
            if raw[:2] in SHORT_FORM_VRS:
                (length,) = short(raw, 2)
            elif raw[:2] in LONG_FORM_VRS and offset + 12 <= end:
                (length,) = long(data, at)
                at += 4
            else:
                raise PeerError("an element of an item has no known VR")
            vr = _VR_NAMES[raw[:2]]
        items = None
        stop = at + length
        if vr == "SQ" or length == UNDEFINED:
            items, stop = _items(data, at, length, encoding, vr, budget, depth + 1)
            vr = "SQ"
        if stop > end:
            raise PeerError("an element runs past its item")
        fields.append(Field(tag, vr, at, length, stop, None if items is not None else data[at:stop], items))
        offset = stop
    if offset != end:
        raise PeerError("an item ends within an element")
    return _decided(fields, encoding), offset


def _decided(fields: list[Field], encoding: Encoding) -> "Item":
    """Decide between VRs where the dictionary leaves a choice: signed where the pixels are (PS3.3 C.11)."""
    if not encoding.is_implicit:
        return tuple(fields)
    signed = first_value(fields, _PIXEL_REPRESENTATION) == b"\x01\x00"
    return tuple(
        field._replace(vr="OW" if field.vr in _WORDS else "SS" if signed else "US") if " or " in field.vr else field
        for field in fields
    )


@lru_cache(maxsize=8192)
def vr_of(tag: int) -> str:
    """Return the VR of an element by the standard's dictionary; UN where nobody knows it (PS3.5 6.2.2)."""
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415  # dear, and seldom needed

    group, element = tag >> 16, tag & 0xFFFF
    if group % 2:
        return "LO" if 0x10 <= element <= 0xFF else "UN"
    if not element:
        return "UL"
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


_VR_NAMES: Final = {vr: vr.decode() for vr in SHORT_FORM_VRS | LONG_FORM_VRS}
