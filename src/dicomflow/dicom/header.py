"""The indexed attributes of a Part 10 object, read from its head.

Ordinary objects are walked element by element, and only indexed elements are decoded. What that quick walk cannot read
(an element beyond the head or out of order, a deflated data set, an unusual VR) is left to `dicom.walk` and a seekable
file. An attribute whose value cannot be read has none, and a text that says why: no attribute costs the object.
"""

import base64
import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final

from dicomflow.dicom.attributes import ATTRIBUTES, BY_TAG, Level
from dicomflow.dicom.charsets import DEFAULT, CharacterSets, character_sets
from dicomflow.dicom.encoding import (
    ITEM,
    ITEM_GROUP,
    LONG_FORM_VRS,
    SHORT_FORM_VRS,
    UNDEFINED,
    Encoding,
    contradiction,
    declared_encoding,
)
from dicomflow.dicom.part10 import FileMeta, decode_file_meta
from dicomflow.dicom.quiet import without_warnings
from dicomflow.dicom.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, is_usable
from dicomflow.dicom.values import Converted, Value, as_text, convert
from dicomflow.dicom.walk import DataSet, Element, open_data_set
from dicomflow.errors import PeerError

__all__ = ["MAX_VALUE_BYTES", "Header", "SiteCharacterSet", "read_header", "read_header_from"]

MAX_VALUE_BYTES: Final = 4 << 20
"""An indexed value longer than this is refused with its tag: nothing is cut off, and memory stays bounded."""

_CHUNK_BYTES: Final = 64 << 10
_CHARACTER_SET: Final = 0x00080005
_TRANSFER_SYNTAX: Final = 0x00020010
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_STUDY: Final = 0x0020000D
_SERIES: Final = 0x0020000E
_PATIENT_ID: Final = 0x00100020
_PIXEL_GROUP: Final = 0x7FE00000
# What an object is filed by: where one of these is not found in its place, all of the object is looked through.
_UIDS: Final = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})
_FILED_BY: Final = _UIDS | {_PATIENT_ID}
_WANTED: Final = frozenset(BY_TAG) - {_TRANSFER_SYNTAX}
_LAST_TAG: Final = max(_WANTED)
_SEQUENCES: Final = frozenset(attribute.tag for attribute in ATTRIBUTES if attribute.vr == "SQ")
# Sequences and items count one each. Real objects nest a handful; pydicom takes minutes over tens of thousands.
_MAX_DEPTH: Final = 128
# Code sequences have a kilobyte, an icon some hundred; what is longer is not parsed, since pydicom keeps it all.
_MAX_SEQUENCE_BYTES: Final = 1 << 20
_MAX_ITEMS: Final = 5_000
_SHORT_VRS: Final = {vr: vr.decode() for vr in SHORT_FORM_VRS}
_LONG_VRS: Final = {vr: vr.decode() for vr in LONG_FORM_VRS}
_SEQUENCE_VRS: Final = frozenset({"SQ", ""})
_MAYBE_SEQUENCE_VRS: Final = frozenset({"SQ", "UN", ""})
_SHORT_SEQUENCE_BYTES: Final = 4096
_PYDICOM_DEFAULT: Final = "iso8859"
_ITEM_BYTES: Final = {order: struct.pack(order + "HH", ITEM >> 16, ITEM & 0xFFFF) for order in "<>"}
_LITTLE_SHORT: Final = struct.Struct("<HH2sH").unpack_from
_LITTLE_LONG: Final = struct.Struct("<I").unpack_from
_BIG_SHORT: Final = struct.Struct(">HH2sH").unpack_from
_BIG_LONG: Final = struct.Struct(">I").unpack_from
_IMPLICIT: Final = struct.Struct("<HHI").unpack_from  # Implicit VR is little endian only (PS3.5 A.1)


class _Unusual(Exception):  # noqa: N818  # no error: the other reader's turn
    """The walk cannot go on with the bytes it has."""


@dataclass(frozen=True, slots=True)
class Header:
    """The indexed attributes of one object by keyword; `raw_values` holds the text of those that did not parse.

    `calling_ae_title` is who sent it, as the file meta information says; "" when it does not. `problem` says what is
    wrong with an object that could be read all the same.
    """

    values: Mapping[str, Value]
    raw_values: Mapping[Level, Mapping[str, str]]
    calling_ae_title: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Unread:
    """An indexed element whose value is not read, and why."""

    reason: str


# An indexed element as found: its VR and value's bytes, of a sequence with its header.
_Found = tuple[str, bytes] | _Unread
SiteCharacterSet = Callable[[str], str]
"""Return the Specific Character Set that a calling AE title means where it declares none; "" if nobody knows."""
_HeaderReader = Callable[[bytes, int], tuple[int, str, int, int]]


def read_header(head: bytes, *, complete: bool, site_character_set: SiteCharacterSet = lambda _: "") -> Header | None:
    """Read the header from an object's first bytes; None when that takes more bytes, or `read_header_from`.

    Args:
        head: the object's first bytes, or all.
        complete: they are all.
        site_character_set: gives by calling AE title what a device means that declares no character set; "" if nobody
            knows.

    Raises:
        PeerError: this is no Part 10 file.
    """
    try:
        meta = decode_file_meta(head)
    except PeerError:
        if complete or len(head) >= _CHUNK_BYTES or b"DICM" not in head[128:132]:
            raise
        return None
    if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return None
    encoding = declared_encoding(meta.transfer_syntax_uid)
    try:
        elements = _walk(head, meta.data_set_offset, encoding, complete=complete)
    except _Unusual:
        return None
    if not elements.keys() >= _FILED_BY:
        return None
    return _header(meta, elements, encoding, site_character_set(meta.calling_ae_title))


def read_header_from(file: BinaryIO, site_character_set: SiteCharacterSet = lambda _: "") -> Header:
    """Read the header by walking through a seekable file; values that are not indexed are sought over.

    Raises:
        PeerError: this is no Part 10 file, or its data set cannot be inflated.
    """
    file.seek(0)
    meta = decode_file_meta(file.read(_CHUNK_BYTES))
    file.seek(meta.data_set_offset)
    elements: dict[int, _Found] = {}
    with open_data_set(file, meta.transfer_syntax_uid) as data_set:
        problem = contradiction(data_set.encoding, meta.transfer_syntax_uid)
        try:
            _walk_on(data_set, elements)
        except PeerError as error:
            # What stands before is indexed; without its UIDs the object is refused by whoever wants to index it.
            problem = problem or str(error)
        return _header(meta, elements, data_set.encoding, site_character_set(meta.calling_ae_title), problem=problem)


def _walk_on(data_set: DataSet, found: dict[int, _Found]) -> None:
    """Put the wanted elements of a data set into `found`, the first of each tag."""
    for element in data_set.elements():
        tag = element.tag
        if tag in _WANTED and tag not in found:
            found[tag] = _value_of(data_set, element)
        if tag > _LAST_TAG and (
            found.keys() >= _FILED_BY
            # Pixels in fragments are not walked through, each a request to the store, for a Patient ID that few lack.
            or (found.keys() >= _UIDS and tag >= _PIXEL_GROUP and element.length == UNDEFINED)
        ):
            return


def _value_of(data_set: DataSet, element: Element) -> _Found:
    is_sequence = element.tag in _SEQUENCES
    start = element.offset if is_sequence else element.value
    if 2 * element.depth > _MAX_DEPTH:
        return _Unread(f"sequences nested deeper than {_MAX_DEPTH // 2}")
    if element.stop - start > (_MAX_SEQUENCE_BYTES if is_sequence else MAX_VALUE_BYTES):
        return _Unread(f"{element.stop - start:,} bytes, more than are indexed")
    value = data_set.read(start, element.stop - start)
    # Half a value is another one.
    return (element.vr, value) if len(value) == element.stop - start else _Unread("the data set ends within it")


def _walk(head: bytes, offset: int, encoding: Encoding, *, complete: bool) -> dict[int, _Found]:
    """Walk the top level of a data set up to the last indexed tag (PS3.5 7.1)."""
    found: dict[int, _Found] = {}
    end = len(head)
    header_at = _header_reader(encoding)
    if encoding.is_implicit and (
        head[offset + 4 : offset + 6] in _SHORT_VRS or head[offset + 4 : offset + 6] in _LONG_VRS
    ):
        raise _Unusual  # perhaps in explicit VR, against what was declared
    while offset < end or not complete:
        if offset + 8 > end:
            raise _Unusual
        tag, vr, start, length = header_at(head, offset)
        if tag > _LAST_TAG:
            break
        if length == UNDEFINED:
            if vr not in _SEQUENCE_VRS:
                raise _Unusual  # UN of undefined length: implicit inside (PS3.5 6.2.2)
            stop = _end_of_sequence(head, start, encoding)
        else:
            stop = start + length
        if tag in _WANTED and tag not in found:
            is_sequence = tag in _SEQUENCES
            if stop > end or (is_sequence and stop - offset > _MAX_SEQUENCE_BYTES):
                raise _Unusual
            found[tag] = vr, head[offset if is_sequence else start : stop]
        offset = stop
    return found


def _header_reader(encoding: Encoding) -> _HeaderReader:
    """Return a function that gives tag, VR ("" when implicit), offset and length of the value (PS3.5 7.1.2, 7.1.3)."""
    if encoding.is_implicit:
        return _implicit_header
    short, long = (_LITTLE_SHORT, _LITTLE_LONG) if encoding.is_little_endian else (_BIG_SHORT, _BIG_LONG)

    def explicit_header(head: bytes, offset: int) -> tuple[int, str, int, int]:
        group, element, vr, length = short(head, offset)
        tag = group << 16 | element
        known = _SHORT_VRS.get(vr)
        if known is not None:
            return tag, known, offset + 8, length
        if tag > _LAST_TAG and group != ITEM_GROUP:
            return tag, "", offset, 0  # behind all that is wanted: its VR is nobody's business
        if vr not in _LONG_VRS or length or offset + 12 > len(head):
            raise _Unusual
        return tag, _LONG_VRS[vr], offset + 12, long(head, offset + 8)[0]

    return explicit_header


def _implicit_header(head: bytes, offset: int) -> tuple[int, str, int, int]:
    group, element, length = _IMPLICIT(head, offset)
    return group << 16 | element, "", offset + 8, length


def _end_of_sequence(head: bytes, offset: int, encoding: Encoding) -> int:
    """Return the offset behind a sequence of undefined length; nesting is a counter, not recursion (PS3.5 7.5)."""
    depth = 1
    unpack = struct.Struct(("<" if encoding.is_little_endian else ">") + "HHI").unpack_from
    header_at = _header_reader(encoding)
    while depth:
        if depth > _MAX_DEPTH:
            raise _Unusual
        if offset + 8 > len(head):
            raise _Unusual
        group, element, length = unpack(head, offset)
        if group == ITEM_GROUP:
            offset += 8
            if (group << 16 | element) != ITEM:
                depth -= 1
            elif length == UNDEFINED:
                depth += 1
            else:
                offset += length
            continue
        _, vr, start, length = header_at(head, offset)
        if length == UNDEFINED:
            if vr not in _SEQUENCE_VRS:
                raise _Unusual
            depth += 1
            offset = start
        elif start == offset:
            raise _Unusual  # an element of an unknown VR within a sequence
        else:
            offset = start + length
    return offset


def _sequence_value(vr: str, encoded: bytes, tag: int, encoding: Encoding, charsets: CharacterSets) -> Converted:
    """Return a sequence's items, or its bytes in base64 where it cannot be read, and of many the reason."""
    document = _sequence_document(vr, encoded, tag, encoding, charsets)
    if not isinstance(document, _Unread):
        return document or None, None
    return None, document.reason if len(encoded) > _CHUNK_BYTES else base64.b64encode(encoded).decode()


def _sequence_document(vr: str, encoded: bytes, tag: int, encoding: Encoding, charsets: CharacterSets) -> Any:
    """Return DICOM JSON of one sequence element, given with its header (PS3.18 F.2), or `_Unread`."""
    if vr not in _MAYBE_SEQUENCE_VRS:
        return _Unread(f"a sequence whose VR is {vr}")
    if encoded.count(_ITEM_BYTES[encoding.order]) > _MAX_ITEMS:
        return _Unread(f"more than {_MAX_ITEMS:,} items")
    parse = _parse_short_sequence if len(encoded) <= _SHORT_SEQUENCE_BYTES else _parse_sequence
    return parse(encoded, tag, encoding, charsets)


def _parse_sequence(encoded: bytes, tag: int, encoding: Encoding, charsets: CharacterSets) -> Any:
    from pydicom.filereader import read_dataset  # noqa: PLC0415  # a large import that many objects never need

    with without_warnings():
        try:
            data_set = read_dataset(
                io.BytesIO(encoded),
                is_implicit_VR=encoding.is_implicit,
                is_little_endian=encoding.is_little_endian,
                parent_encoding=[_PYDICOM_DEFAULT if codec == "ascii" else codec for codec in charsets.codecs],
            )
            return _json_of(data_set[tag])
        except Exception as error:  # noqa: BLE001  # pydicom raises whatever a malformed data set leads it into
            return _Unread(f"cannot be read: {type(error).__name__}")


# The objects of a series repeat their code sequences byte for byte.
_parse_short_sequence: Final = lru_cache(maxsize=512)(_parse_sequence)


def _json_of(element: Any) -> list[Any]:
    """Return the items of a sequence as DICOM JSON that every database takes: no NaN, no U+0000."""
    items = element.to_json_dict(None, bulk_data_threshold=UNDEFINED).get("Value", [])
    encoded = json.dumps(items, default=str).replace("\\u0000", "\\ufffd")
    decoded: list[Any] = json.loads(encoded, parse_constant=lambda _: None)
    return decoded


def _header(
    meta: FileMeta,
    elements: Mapping[int, _Found],
    encoding: Encoding,
    site_character_set: str,
    problem: str | None = None,
) -> Header:
    charsets = _character_sets(elements, site_character_set)
    is_little_endian = encoding.is_little_endian
    values: dict[str, Value] = {}
    raw_values: dict[Level, dict[str, str]] = {}
    for tag, element in elements.items():
        attribute = BY_TAG[tag]
        value: Value
        raw: str | None
        if isinstance(element, _Unread):
            value, raw = None, element.reason
        else:
            vr, encoded = element
            if tag in _SEQUENCES:
                value, raw = _sequence_value(vr, encoded, tag, encoding, charsets)
            else:
                value, raw = convert(tag, vr, encoded, charsets, is_little_endian=is_little_endian)
        values[attribute.keyword] = value
        if raw is not None:
            raw_values.setdefault(attribute.level, {})[attribute.keyword] = raw
    # An object that lacks them in the data set is named by its file meta information (PS3.10 7.1).
    for keyword, uid in (("SOPClassUID", meta.sop_class_uid), ("SOPInstanceUID", meta.sop_instance_uid)):
        values[keyword] = values.get(keyword) or uid or None
    values["TransferSyntaxUID"] = meta.transfer_syntax_uid if is_usable(meta.transfer_syntax_uid) else None
    if values["TransferSyntaxUID"] is None:
        raw_values.setdefault(Level.INSTANCE, {})["TransferSyntaxUID"] = as_text(meta.transfer_syntax_uid.encode())
    return Header(values, raw_values, meta.calling_ae_title, problem)


def _character_sets(elements: Mapping[int, _Found], site_default: str) -> CharacterSets:
    element = elements.get(_CHARACTER_SET)
    declared = element[1].decode("ascii", "replace") if isinstance(element, tuple) else ""
    return character_sets(declared, site_default) if declared or site_default else DEFAULT
