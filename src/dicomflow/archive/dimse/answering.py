"""Rows of answers as identifiers, in Implicit or Explicit VR Little Endian (PS3.5 7.1).

One encoder is made for a query, so that a row costs no look-up of what is the same for all.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydicom.datadict import dictionary_VR

from dicomflow.archive.query import Field, Keys
from dicomflow.dicom.charsets import codec_to_write
from dicomflow.dicom.encoding import ITEM
from dicomflow.dicom.json import json_values
from dicomflow.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN

__all__ = ["RowEncoder"]

_CHARACTER_SET: Final = Field(0x00080005, "CS", "SpecificCharacterSet")
_UTF_8: Final = "ISO_IR 192"
_LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUMBERS: Final = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "UV": "<Q", "SV": "<q", "FL": "<f", "FD": "<d"}
_MOST_SHORT_BYTES: Final = 0xFFFE
_MOST_DECIMAL_CHARACTERS: Final = 16  # of a DS (PS3.5 6.2)

Encode = Callable[[Any, str], bytes]


class RowEncoder:
    """Encodes the rows of one query.

    Args:
        fields: what each row has, in order of tags.
        constants: what else each has, by tag: its VR and text.
        asked: the identifier's keys; of a sequence those of its item are returned, and all where it has none.
        character_set: the requestor's; where it holds a row's text it is the answer's too, else that is UTF-8.
        transfer_syntax_uid: of the two.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        constants: Mapping[int, tuple[str, str]],
        asked: Keys,
        character_set: str,
        transfer_syntax_uid: str,
    ) -> None:
        self._header = _implicit if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN else _explicit
        self._asked = asked
        self._character_set, self._codec = character_set, codec_to_write(character_set)
        places = {field.tag: (field, index) for index, field in enumerate(fields)}
        known = [(tag, field.vr, index, None) for tag, (field, index) in places.items()]
        told = [(tag, vr, None, text) for tag, (vr, text) in constants.items() if tag not in places]
        self._plan = sorted((*known, *told), key=lambda each: each[0])

    def encode(self, row: Sequence[Any]) -> bytes:
        """Return one row as an identifier."""
        encoded = self._encoded(row, "ascii", None)
        if encoded is None and self._codec is not None:
            encoded = self._encoded(row, self._codec, self._character_set)
        return encoded if encoded is not None else self._encoded(row, "utf-8", _UTF_8) or b""

    def _encoded(self, row: Sequence[Any], codec: str, character_set: str | None) -> bytes | None:
        """Return a row with its texts in a codec; None where it does not hold them."""
        parts = []
        if character_set is not None:
            parts.append(self._element(_CHARACTER_SET.tag, "CS", character_set, "ascii", None))
        try:
            for tag, vr, index, text in self._plan:
                value = text if index is None else row[index]
                parts.append(self._element(tag, vr, value, codec, self._asked.get(tag)))
        except UnicodeEncodeError:
            return None
        return b"".join(parts)

    def _element(self, tag: int, vr: str, value: Any, codec: str, asked: "str | Keys | None") -> bytes:
        if vr == "SQ":
            content = self._items(value or [], codec, asked)
        else:
            content = _content(vr, value, codec)
            if len(content) > _MOST_SHORT_BYTES and vr not in _LONG_VRS:
                content = content[:_MOST_SHORT_BYTES]
        return self._header(tag, vr, len(content)) + content

    def _items(self, items: Sequence[Mapping[str, Any]], codec: str, asked: "str | Keys | None") -> bytes:
        """Return a sequence's items, which are in the DICOM JSON model, with the keys that were asked for."""
        wanted = asked if isinstance(asked, Mapping) and asked else None
        parts = []
        for item in items:
            elements = []
            for name, element in sorted(item.items()):
                tag, vr = int(name, 16), str(element.get("vr", "UN"))
                if wanted is not None and tag not in wanted:
                    continue
                value = json_values(vr, element)
                inner = None if wanted is None else wanted[tag]
                elements.append(self._element(tag, vr, value, codec, inner))
            if wanted is not None:
                absent = sorted(tag for tag in wanted if f"{tag:08X}" not in item)
                elements += [self._element(tag, _vr_of(tag), None, codec, None) for tag in absent]
                elements.sort(key=_tag_of)
            content = b"".join(elements)
            parts.append(_implicit(ITEM, "", len(content)) + content)
        return b"".join(parts)


def _implicit(tag: int, _: str, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)


def _explicit(tag: int, vr: str, length: int) -> bytes:
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)


def _tag_of(element: bytes) -> int:
    group, number = struct.unpack_from("<HH", element)
    return int(group << 16 | number)


def _content(vr: str, value: Any, codec: str) -> bytes:
    if value is None:
        return b""
    if vr in _NUMBERS:
        numbers = value if isinstance(value, list) else [value]
        return b"".join(_packed(_NUMBERS[vr], number) for number in numbers if number is not None)
    if isinstance(value, list):
        value = "\\".join(_text_of(vr, each) for each in value)
    elif not isinstance(value, str):
        value = _text_of(vr, value)
    content: bytes = value.encode(codec)
    return content + (b"\0" if vr == "UI" else b" ") if len(content) % 2 else content


def _packed(form: str, number: Any) -> bytes:
    try:
        return struct.pack(form, number)
    except struct.error:
        return b""  # a device wrote what the VR does not hold


def _text_of(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
        return text if len(text) <= _MOST_DECIMAL_CHARACTERS or vr != "DS" else f"{value:.9e}"
    return str(value)


def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return "LO"
