"""The indexed attributes of a Part 10 object, read from its head.

Ordinary objects are walked element by element, and only indexed elements are decoded. What the walk cannot read (an
element beyond the head, a deflated data set, an unusual VR) is read by pydicom from a seekable file. No I/O but that.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final

from dicomflow.dicom.attributes import ATTRIBUTES, BY_TAG, Level
from dicomflow.dicom.part10 import FileMeta, decode_file_meta
from dicomflow.dicom.quiet import without_warnings
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomflow.dicom.values import Value, convert, encodings_of
from dicomflow.errors import DicomflowError, PeerError

__all__ = ["MAX_VALUE_BYTES", "Header", "read_header", "read_header_from"]

MAX_VALUE_BYTES: Final = 4 << 20
"""An indexed value longer than this is refused with its tag: nothing is cut off, and memory stays bounded."""

_MAX_INFLATED_BYTES: Final = 16 << 20
_CHUNK_BYTES: Final = 64 << 10
_CHARACTER_SET: Final = 0x00080005
_TRANSFER_SYNTAX: Final = 0x00020010
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_WANTED: Final = frozenset(BY_TAG) - {_TRANSFER_SYNTAX}
_LAST_TAG: Final = max(_WANTED)
_SEQUENCES: Final = frozenset(attribute.tag for attribute in ATTRIBUTES if attribute.vr == "SQ")
# Sequences and items count one each. Real objects nest a handful; pydicom takes minutes over tens of thousands.
_MAX_DEPTH: Final = 128
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM_GROUP: Final = 0xFFFE
_ITEM: Final = 0xFFFEE000
_SHORT_VRS: Final = {
    vr.encode(): vr
    for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905  # reads as the standard's list
}
_LONG_VRS: Final = {vr.encode(): vr for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}  # noqa: SIM905  # as above
_SEQUENCE_VRS: Final = frozenset({"SQ", ""})
_SHORT_SEQUENCE_BYTES: Final = 4096
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

    `calling_ae_title` is who sent it, as the file meta information says; "" when it does not.
    """

    values: Mapping[str, Value]
    raw_values: Mapping[Level, Mapping[str, str]]
    calling_ae_title: str = ""


@dataclass(frozen=True, slots=True)
class _Syntax:
    """How a data set is encoded."""

    is_implicit: bool
    is_little_endian: bool


# An indexed element as found: its VR and value's bytes, or a sequence's DICOM JSON (PS3.18 F.2).
_Element = tuple[str, bytes] | list[Any]
_HeaderReader = Callable[[bytes, int], tuple[int, str, int, int]]


def read_header(head: bytes, *, complete: bool) -> Header | None:
    """Read the header from an object's first bytes; None when that takes more bytes, or `read_header_from`.

    Raises:
        PeerError: this is no Part 10 file, sequences are nested without end, or an indexed value is too long.
    """
    try:
        meta = decode_file_meta(head)
    except PeerError:
        if complete or len(head) >= _CHUNK_BYTES or b"DICM" not in head[128:132]:
            raise
        return None
    if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return None
    syntax = _syntax_of(meta)
    try:
        elements = _walk(head, meta.data_set_offset, syntax, complete=complete)
    except _Unusual:
        return None
    return _header(meta, elements, syntax)


def read_header_from(file: BinaryIO) -> Header:
    """Read the header with pydicom from a seekable file; values that are not indexed are sought over.

    Raises:
        PeerError: this is no Part 10 file, or its data set cannot be read, or an indexed value is too long.
    """
    file.seek(0)
    meta = decode_file_meta(file.read(_CHUNK_BYTES))
    syntax = _syntax_of(meta)
    file.seek(meta.data_set_offset)
    data_set = file
    if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data_set = io.BytesIO(_inflate(file))
    try:
        with without_warnings():
            elements = _read_with_pydicom(data_set, syntax)
    except DicomflowError:
        raise
    except Exception as error:  # pydicom raises whatever a malformed data set leads it into
        raise PeerError(f"the data set cannot be read: {type(error).__name__}") from error
    return _header(meta, elements, syntax)


def _syntax_of(meta: FileMeta) -> _Syntax:
    uid = meta.transfer_syntax_uid
    return _Syntax(uid == IMPLICIT_VR_LITTLE_ENDIAN, uid != EXPLICIT_VR_BIG_ENDIAN)


def _walk(head: bytes, offset: int, syntax: _Syntax, *, complete: bool) -> dict[int, _Element]:
    """Walk the top level of a data set up to the last indexed tag (PS3.5 7.1)."""
    found: dict[int, _Element] = {}
    end = len(head)
    header_at = _header_reader(syntax)
    while offset < end or not complete:
        if offset + 8 > end:
            raise _Unusual
        tag, vr, start, length = header_at(head, offset)
        if tag > _LAST_TAG:
            break
        if length == _UNDEFINED:
            if vr not in _SEQUENCE_VRS:
                raise _Unusual  # UN of undefined length: implicit inside (PS3.5 6.2.2)
            stop = _end_of_sequence(head, start, syntax)
        else:
            stop = start + length
        if tag in _WANTED:
            if stop > end:
                _check_length(tag, length)
                raise _Unusual
            if tag in _SEQUENCES:
                found[tag] = _sequence_document(head[offset:stop], tag, syntax, found)
            else:
                found[tag] = vr, head[start:stop]
        offset = stop
    return found


def _header_reader(syntax: _Syntax) -> _HeaderReader:
    """Return a function that gives tag, VR ("" when implicit), offset and length of the value (PS3.5 7.1.2, 7.1.3)."""
    if syntax.is_implicit:
        return _implicit_header
    short, long = (_LITTLE_SHORT, _LITTLE_LONG) if syntax.is_little_endian else (_BIG_SHORT, _BIG_LONG)

    def explicit_header(head: bytes, offset: int) -> tuple[int, str, int, int]:
        group, element, vr, length = short(head, offset)
        tag = group << 16 | element
        known = _SHORT_VRS.get(vr)
        if known is not None:
            return tag, known, offset + 8, length
        if tag > _LAST_TAG:
            return tag, "", offset, 0  # behind all that is wanted: its VR is nobody's business
        if vr not in _LONG_VRS or offset + 12 > len(head):
            raise _Unusual
        return tag, _LONG_VRS[vr], offset + 12, long(head, offset + 8)[0]

    return explicit_header


def _implicit_header(head: bytes, offset: int) -> tuple[int, str, int, int]:
    group, element, length = _IMPLICIT(head, offset)
    return group << 16 | element, "", offset + 8, length


def _end_of_sequence(head: bytes, offset: int, syntax: _Syntax) -> int:
    """Return the offset behind a sequence of undefined length; nesting is a counter, not recursion (PS3.5 7.5)."""
    depth = 1
    unpack = struct.Struct(("<" if syntax.is_little_endian else ">") + "HHI").unpack_from
    header_at = _header_reader(syntax)
    while depth:
        if depth > _MAX_DEPTH:
            raise PeerError(f"sequences are nested deeper than {_MAX_DEPTH // 2}")
        if offset + 8 > len(head):
            raise _Unusual
        group, element, length = unpack(head, offset)
        if group == _ITEM_GROUP:
            offset += 8
            if (group << 16 | element) != _ITEM:
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                offset += length
            continue
        _, vr, start, length = header_at(head, offset)
        if length == _UNDEFINED:
            if vr not in _SEQUENCE_VRS:
                raise _Unusual
            depth += 1
            offset = start
        elif start == offset:
            raise _Unusual  # an element of an unknown VR within a sequence
        else:
            offset = start + length
    return offset


def _sequence_document(encoded: bytes, tag: int, syntax: _Syntax, found: Mapping[int, _Element]) -> list[Any]:
    """Return DICOM JSON of one sequence element, given with its header (PS3.18 F.2)."""
    _check_length(tag, len(encoded))
    parse = _parse_short_sequence if len(encoded) <= _SHORT_SEQUENCE_BYTES else _parse_sequence
    return parse(encoded, tag, syntax, _encodings(found))


def _parse_sequence(encoded: bytes, tag: int, syntax: _Syntax, encodings: tuple[str, ...]) -> list[Any]:
    from pydicom.filereader import read_dataset  # noqa: PLC0415  # a large import that many objects never need

    with without_warnings():
        try:
            data_set = read_dataset(
                io.BytesIO(encoded),
                is_implicit_VR=syntax.is_implicit,
                is_little_endian=syntax.is_little_endian,
                parent_encoding=list(encodings),
            )
            return _json_of(data_set[tag])
        except Exception as error:  # as in read_header_from
            raise _Unusual from error


# The objects of a series repeat their code sequences byte for byte.
_parse_short_sequence: Final = lru_cache(maxsize=512)(_parse_sequence)


def _read_with_pydicom(file: BinaryIO, syntax: _Syntax) -> dict[int, _Element]:
    from pydicom.dataelem import RawDataElement  # noqa: PLC0415  # a large import that ordinary objects never need
    from pydicom.filereader import read_dataset  # noqa: PLC0415

    def stop_when(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _WANTED and length != _UNDEFINED:
            _check_length(tag, length)
        return tag > _LAST_TAG

    data_set = read_dataset(
        file,
        is_implicit_VR=syntax.is_implicit,
        is_little_endian=syntax.is_little_endian,
        stop_when=stop_when,
        specific_tags=sorted(_WANTED),
    )
    found: dict[int, _Element] = {}
    for tag in sorted(data_set.keys() & _WANTED):
        item = data_set.get_item(tag)
        if tag in _SEQUENCES:
            found[int(tag)] = _readable_sequence(data_set, tag)
        elif isinstance(item, RawDataElement):
            found[int(tag)] = item.VR or "", bytes(item.value or b"")
        elif item is not None:  # pydicom decodes the character set at once
            found[int(tag)] = item.VR, _joined(item.value)
    return found


def _readable_sequence(data_set: Any, tag: int) -> _Element:
    """Return a sequence's JSON; one that cannot be read becomes a raw value, and the object is indexed all the same."""
    try:
        return _json_of(data_set[tag])
    except Exception:  # noqa: BLE001  # as in read_header_from
        raw = getattr(data_set.get_item(tag), "value", b"")
        return "SQ", raw if isinstance(raw, bytes) else b""


def _json_of(element: Any) -> list[Any]:
    """Return the items of a sequence as DICOM JSON that every database takes: no NaN, no U+0000."""
    items = element.to_json_dict(None, bulk_data_threshold=_UNDEFINED).get("Value", [])
    encoded = json.dumps(items, default=str).replace("\\u0000", "\\ufffd")
    decoded: list[Any] = json.loads(encoded, parse_constant=lambda _: None)
    return decoded


def _joined(value: object) -> bytes:
    parts = [value] if isinstance(value, str) else list(value or [])  # type: ignore[call-overload]  # pydicom's MultiValue
    return "\\".join(map(str, parts)).encode("utf-8")


def _header(meta: FileMeta, elements: Mapping[int, _Element], syntax: _Syntax) -> Header:
    encodings = _encodings(elements)
    is_little_endian = syntax.is_little_endian
    values: dict[str, Value] = {"TransferSyntaxUID": meta.transfer_syntax_uid}
    raw_values: dict[Level, dict[str, str]] = {}
    for tag, element in elements.items():
        attribute = BY_TAG[tag]
        if isinstance(element, list):
            values[attribute.keyword] = element or None
            continue
        vr, encoded = element
        if len(encoded) > MAX_VALUE_BYTES:
            _check_length(tag, len(encoded))
        if tag in _SEQUENCES:
            value, raw = None, base64.b64encode(encoded).decode() if encoded else None
        else:
            value, raw = convert(tag, vr, encoded, encodings, is_little_endian=is_little_endian)
        values[attribute.keyword] = value
        if raw is not None:
            raw_values.setdefault(attribute.level, {})[attribute.keyword] = raw
    # An object that lacks them in the data set is named by its file meta information (PS3.10 7.1).
    for keyword, uid in (("SOPClassUID", meta.sop_class_uid), ("SOPInstanceUID", meta.sop_instance_uid)):
        values[keyword] = values.get(keyword) or uid or None
    return Header(values, raw_values, meta.calling_ae_title)


def _encodings(elements: Mapping[int, _Element]) -> tuple[str, ...]:
    element = elements.get(_CHARACTER_SET)
    return encodings_of(element[1].decode("ascii", "replace").strip(" \0") if isinstance(element, tuple) else "")


def _check_length(tag: int, length: int) -> None:
    if length > MAX_VALUE_BYTES:
        raise PeerError(
            f"({tag >> 16:04X},{tag & 0xFFFF:04X}) holds {length:,} bytes, more than the {MAX_VALUE_BYTES:,} indexed"
        )


def _inflate(file: BinaryIO) -> bytes:
    """Inflate the head of a deflated data set (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    try:
        while len(inflated) < _MAX_INFLATED_BYTES and not inflater.eof and (chunk := file.read(_CHUNK_BYTES)):
            inflated += inflater.decompress(chunk, _MAX_INFLATED_BYTES - len(inflated))
    except zlib.error as error:
        raise PeerError("the deflated data set cannot be inflated") from error
    return bytes(inflated)
