"""The header of an object in the DICOM JSON model (PS3.18 F): every element but pixels, text as UTF-8.

Instances of a series have most of their elements in common, so what was written once is found again. Where a value is
not what its VR says, its bytes are given as those of UN: nothing is left out, and the page stays readable.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Callable
from typing import Final

from dicomflow.dicom.charsets import DEFAULT, CharacterSets, character_sets
from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import DataSetFields, Field, Item, first_value
from dicomflow.dicom.rewrite import turn_round

__all__ = ["MAX_INLINE_BYTES", "MetadataWriter", "is_bulk"]

MAX_INLINE_BYTES: Final = 4096
"""Longer values of bytes are given by their address; numbers and text, private ones as well, stay where they are."""
MAX_TEXT_BYTES: Final = 64 << 10
"""Longer values of any VR are given by their address."""
_CHARACTER_SET: Final = 0x00080005
_AVAILABLE_SYNTAX: Final = 0x00083002
_BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_BLOCKS: Final = frozenset({"LT", "ST", "UT", "UR"})
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_DELIMITERS: Final = frozenset(b"\r\n\t\f\\")
_NAME_DELIMITERS: Final = _DELIMITERS | frozenset(b"^=")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
# What is a number in JSON as it stands, so that its digits stay; beyond 2**53 readers lose some.
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,14})?(?:[eE][+-]?\d{1,2})?")
_WHOLE: Final = re.compile(r"[+-]?\d{1,20}")
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_MAX_WHOLE: Final = 2**53
_SHORT_BYTES: Final = 256
_MAX_REMEMBERED: Final = 20_000


def is_bulk(field: Field) -> bool:
    """Tell whether a value is given by its address instead of with the others."""
    if field.items is not None:
        return False
    return field.value is None or len(field.value) > (MAX_INLINE_BYTES if field.vr in _BINARY else MAX_TEXT_BYTES)


class MetadataWriter:
    """Writes the objects of one answer. Thread: one owner."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[int, str, bytes | None, CharacterSets, bool], str] = {}

    def write(self, data_set: DataSetFields, transfer_syntax_uid: str, bulk_url: str) -> str:
        """Return an object as JSON text.

        Args:
            data_set: its elements.
            transfer_syntax_uid: told as Available Transfer Syntax UID, where the object does not say so itself.
            bulk_url: of its bulk data, without a slash behind it; a value's tag, below the sequences and numbers of
                items that it stands in, makes an address of it.
        """
        declared = first_value(data_set.fields, _CHARACTER_SET)
        charsets = _charsets(declared, DEFAULT)
        members = self._members(data_set.fields, data_set.encoding, charsets, bulk_url)
        if _AVAILABLE_SYNTAX not in members and transfer_syntax_uid:
            members[_AVAILABLE_SYNTAX] = f'"00083002":{{"vr":"UI","Value":["{transfer_syntax_uid}"]}}'
        return "{" + ",".join(members[tag] for tag in sorted(members)) + "}"

    def _members(self, fields: Item, encoding: Encoding, charsets: CharacterSets, bulk_url: str) -> dict[int, str]:
        found: dict[int, str] = {}
        remembered = self._remembered
        for field in fields:
            tag, vr, value = field.tag, field.vr, field.value
            if not tag & 0xFFFF or tag in found:
                continue  # a group length, or an element that came twice: the first counts
            if field.items is not None:
                found[tag] = self._sequence(field, encoding, charsets, bulk_url)
            elif is_bulk(field):
                found[tag] = f'"{tag:08X}":{{"vr":"{vr}","BulkDataURI":{json.dumps(f"{bulk_url}/{tag:08X}")}}}'
            else:
                key = (tag, vr, value, charsets, encoding.is_little_endian)
                known = remembered.get(key)
                if known is None:
                    known = _member(tag, vr, value or b"", encoding, charsets)
                    if len(value or b"") <= _SHORT_BYTES:
                        if len(remembered) >= _MAX_REMEMBERED:
                            remembered.clear()
                        remembered[key] = known
                found[tag] = known
        return found

    def _sequence(self, field: Field, encoding: Encoding, charsets: CharacterSets, bulk_url: str) -> str:
        name = f"{field.tag:08X}"
        if not field.items:
            return f'"{name}":{{"vr":"SQ"}}'
        items = []
        for number, item in enumerate(field.items, 1):
            declared = first_value(item, _CHARACTER_SET)
            members = self._members(item, encoding, _charsets(declared, charsets), f"{bulk_url}/{name}/{number}")
            items.append("{" + ",".join(members[tag] for tag in sorted(members)) + "}")
        return f'"{name}":{{"vr":"SQ","Value":[{",".join(items)}]}}'


def _charsets(declared: bytes | None, outer: CharacterSets) -> CharacterSets:
    return outer if declared is None else character_sets(declared.decode("ascii", "replace"))


def _member(tag: int, vr: str, value: bytes, encoding: Encoding, charsets: CharacterSets) -> str:
    values = None
    if vr not in _BINARY and value:
        values = _values(vr, value, encoding, charsets)
        if values is None:
            vr = "UN"
    if not value or values == []:
        return f'"{tag:08X}":{{"vr":"{vr}"}}'
    if values is None:
        native = value if encoding.is_little_endian else turn_round(value, vr)
        return f'"{tag:08X}":{{"vr":"{vr}","InlineBinary":"{base64.b64encode(native).decode()}"}}'
    return f'"{tag:08X}":{{"vr":"{vr}","Value":[{",".join(values)}]}}'


def _values(vr: str, value: bytes, encoding: Encoding, charsets: CharacterSets) -> list[str] | None:
    """Return values as JSON; [] for none, None where they are not what the VR says."""
    if vr in _NUMBERS:
        return _numbers(_NUMBERS[vr], value, encoding.order)
    if vr == "AT":
        if len(value) % 4:
            return None
        return [f'"{group:04X}{element:04X}"' for group, element in struct.iter_unpack(encoding.order + "HH", value)]
    text, _ = charsets.decode(value.rstrip(b"\0 "), _NAME_DELIMITERS if vr == "PN" else _DELIMITERS)
    if vr in _BLOCKS:
        return [_string(text.rstrip(" \0"))] if text else []
    if not text.strip(" "):
        return []
    write = _WRITERS.get(vr, _string)
    return [write(part.strip(" \0")) if part.strip(" \0") else "null" for part in text.split("\\")]


def _numbers(code: str, value: bytes, order: str) -> list[str] | None:
    numbers = struct.Struct(order + code)
    if len(value) % numbers.size:
        return None
    write = _float32 if code == "f" else _float if code == "d" else _whole
    return [write(number) for (number,) in numbers.iter_unpack(value)]


def _whole(number: int) -> str:
    return str(number) if abs(number) <= _MAX_WHOLE else f'"{number}"'


def _float(number: float) -> str:
    """Return a number; of those that JSON has none for, their names as text."""
    if math.isfinite(number):
        return repr(number)
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'


def _float32(number: float) -> str:
    """Return the shortest number that is the same one in 32 bits."""
    if not math.isfinite(number):
        return _float(number)
    for digits in range(6, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", number):
            return repr(float(text))
    return repr(number)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _integer_text(text: str) -> str:
    """Return IS as a number where it is one that every reader has exactly, else as the text that it is."""
    if _JSON_NUMBER.fullmatch(text):
        return text if _WHOLE.fullmatch(text) else _string(text)
    if _WHOLE.fullmatch(text) and abs(int(text)) <= _MAX_WHOLE:
        return str(int(text))
    return _string(text)


def _decimal_text(text: str) -> str:
    """Return DS as a number with the digits that it has, or without what JSON does not take of them."""
    if _JSON_NUMBER.fullmatch(text):
        return text if math.isfinite(float(text)) else _string(text)
    if _DECIMAL.fullmatch(text) and len(text) <= 16 and math.isfinite(float(text)):
        return repr(float(text))
    return _string(text)


def _person_name(text: str) -> str:
    """Return the component groups of a name that are not empty (PS3.18 F.2.2)."""
    groups = [group.rstrip("^ ") for group in text.split("=")][: len(_GROUPS)]
    named = [f'"{name}":{_string(group)}' for name, group in zip(_GROUPS, groups, strict=False) if group]
    return "{" + ",".join(named) + "}" if named else "null"


_WRITERS: Final[dict[str, Callable[[str], str]]] = {"IS": _integer_text, "DS": _decimal_text, "PN": _person_name}
