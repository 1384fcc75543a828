"""Identifiers as they come: keys by tag, decoded, with the items of sequences (PS3.4 C.4.1.1.3)."""

import io
from dataclasses import dataclass
from struct import iter_unpack
from typing import Any, Final

from pydicom.datadict import dictionary_VR

from dicomflow.archive.query import Keys
from dicomflow.dicom.charsets import CharacterSets, character_sets
from dicomflow.dicom.encoding import UNDEFINED
from dicomflow.dicom.walk import DataSet, Element
from dicomflow.errors import PeerError

__all__ = ["Identifier", "read_identifier"]

_CHARACTER_SET: Final = 0x00080005
_LEVEL: Final = 0x00080052
_MAX_ELEMENTS: Final = 20_000
_MAX_DEPTH: Final = 8
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
# In these a backslash is a character, and a code extension ends at other characters (PS3.5 6.1.2.5.3).
_BLOCK_VRS: Final = frozenset({"LT", "ST", "UT"})
_BLOCK_DELIMITERS: Final = frozenset(b"\r\n\t\f")
_DELIMITERS: Final = _BLOCK_DELIMITERS | frozenset(b"\\^=")
_OTHER_VRS: Final = frozenset({"AT", "OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@dataclass(frozen=True, slots=True)
class Identifier:
    """What is asked for; `level` is as it was written, but for case and padding."""

    level: str
    keys: Keys
    character_set: str

    def text(self, tag: int) -> str:
        """Return a key's text; "" for a sequence, or where there is none."""
        value = self.keys.get(tag, "")
        return value if isinstance(value, str) else ""


def read_identifier(encoded: bytes, transfer_syntax_uid: str) -> Identifier:
    """Read an identifier; what its character set cannot tell is replaced, and never refused.

    Raises:
        PeerError: it is no data set, or a sequence has more than one item.
    """
    data_set = DataSet(io.BytesIO(encoded), transfer_syntax_uid, _MAX_ELEMENTS)
    elements = list(data_set.elements())
    declared = b""
    for element in elements:
        if element.stop > len(encoded):
            raise PeerError(f"the identifier ends after {len(encoded):,} bytes, within a value")
        if element.tag == _CHARACTER_SET:
            declared = data_set.read(element.value, element.length)
    told = declared.decode("ascii", "replace").strip(" \0")
    keys = _keys(data_set, elements, character_sets(told), transfer_syntax_uid, 1)
    level = keys.pop(_LEVEL, "")
    return Identifier(level.strip(" \0").upper() if isinstance(level, str) else "", keys, told)


def _keys(
    data_set: DataSet, elements: list[Element], charsets: CharacterSets, transfer_syntax_uid: str, depth: int
) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for element in elements:
        vr = element.vr if element.vr not in {"", "UN"} else _vr_of(element.tag)
        if vr == "SQ" or element.length == UNDEFINED:
            found[element.tag] = _item(data_set, element, charsets, transfer_syntax_uid, depth)
        else:
            raw = data_set.read(element.value, element.length)
            found[element.tag] = _text(vr, raw, charsets, is_little_endian=data_set.encoding.is_little_endian)
    return found


def _item(
    data_set: DataSet, sequence: Element, charsets: CharacterSets, transfer_syntax_uid: str, depth: int
) -> dict[int, Any]:
    """Return the keys of a sequence's one item; none where it has none (PS3.4 C.2.2.2.6)."""
    if depth > _MAX_DEPTH:
        raise PeerError(f"items nest deeper than {_MAX_DEPTH}")
    items = list(data_set.items(sequence))
    if len(items) > 1:
        raise PeerError("a sequence of the identifier has more than one item")
    if not items or not items[0]:
        return {}
    first, last = items[0][0].offset, items[0][-1].stop
    inner = data_set.read(first, last - first)
    within = DataSet(io.BytesIO(inner), transfer_syntax_uid, _MAX_ELEMENTS)
    return _keys(within, list(within.elements()), charsets, transfer_syntax_uid, depth + 1)


def _text(vr: str, raw: bytes, charsets: CharacterSets, *, is_little_endian: bool) -> str:
    if vr in _NUMBERS:
        return _numbers(("<" if is_little_endian else ">") + _NUMBERS[vr], raw)
    if vr in _OTHER_VRS:
        return raw.hex()  # nothing of these is matched
    text, _ = charsets.decode(raw, _BLOCK_DELIMITERS if vr in _BLOCK_VRS else _DELIMITERS)
    return text.strip(" \0")


def _numbers(form: str, raw: bytes) -> str:
    try:
        return "\\".join(str(number) for (number,) in iter_unpack(form, raw))
    except Exception as error:
        raise PeerError(f"a number of the identifier has {len(raw)} bytes") from error


def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return "LO"
