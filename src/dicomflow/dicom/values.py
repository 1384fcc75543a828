"""Values of data elements as Python values: dates are dates, numbers numbers, text is decoded by its character set.

`convert` never fails, and gives what the attribute's column takes whatever VR a device states: what does not parse is
None, with the raw text beside it. Knows nothing of columns.
"""

import math
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time
from functools import lru_cache
from typing import Final

from dicomflow.dicom.attributes import BY_TAG
from dicomflow.dicom.charsets import CharacterSets

__all__ = ["Converted", "Value", "as_text", "convert"]

Scalar = str | int | float | date | time | datetime
Value = Scalar | list[Scalar | None] | None

Converted = tuple[Value, str | None]
"""A value, and the raw text where the value is None although the element was not empty, or is not certain."""

_ESCAPE: Final = 0x1B
# PS3.5 6.2: characters at which code extensions end; of person names also the component separators (PS3.5 6.1.2.5.3).
_BLOCK_DELIMITERS: Final = frozenset(b"\r\n\t\f")
_DELIMITERS: Final = _BLOCK_DELIMITERS | frozenset(b"\\")
_NAME_DELIMITERS: Final = _DELIMITERS | frozenset(b"^=")
# PS3.5 6.2: leading spaces carry meaning in text blocks only.
_BLOCK_VRS: Final = frozenset({"LT", "ST", "UT"})
# PS3.5 6.2: VRs outside the specific character set.
_ASCII_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
# PS3.5 6.2: VRs that hold no text whatever the attribute is; OB, OW and UN are what devices write text in.
_NO_TEXT_VRS: Final = frozenset({"AT", "OD", "OF", "OL", "OV", "SQ"})
_NO_VRS: Final = frozenset({"UN", ""})
_SHORT_BYTES: Final = 64
_MAX_INTEGER: Final = 2**63 - 1
# Whole numbers up to here are exact in floating point.
_MAX_WHOLE: Final = 2**53
_SHOWN_BYTES: Final = 4096

# YYYYMMDD, and YYYY.MM.DD of ACR-NEMA, which PS3.5 6.2 allows to be read.
_DATE: Final = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})")
# HH[MM[SS[.F{1,6}]]], and HH:MM:SS of ACR-NEMA.
_TIME: Final = re.compile(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME: Final = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_INTEGER: Final = re.compile(r"[+-]?\d{1,19}")
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def convert(tag: int, vr: str, raw: bytes, charsets: CharacterSets, *, is_little_endian: bool) -> Converted:
    """Convert the bytes of an indexed element that is no sequence; the result may be shared and must not be changed.

    Args:
        tag: says which type is wanted, and whether there may be several values.
        vr: the VR that the data set states, "" if it states none; it decides the bytes' meaning for binary numbers.
        raw: the value, padding included, in the data set's byte order.
        charsets: the data set's.
        is_little_endian: the byte order of binary numbers.
    """
    if len(raw) > _SHORT_BYTES:
        return _convert(tag, vr, raw, charsets, is_little_endian)
    return _convert_short(tag, vr, raw, charsets, is_little_endian)


def as_text(raw: bytes) -> str:
    """Return bytes as a text that tells each of them and that every database takes; of many the first."""
    shown = raw[:_SHOWN_BYTES].decode("ascii", "backslashreplace").replace("\0", "\\x00")
    return shown if len(raw) <= _SHOWN_BYTES else f"{shown}... of {len(raw):,} bytes"


def _convert(tag: int, vr: str, raw: bytes, charsets: CharacterSets, is_little_endian: bool) -> Converted:  # noqa: FBT001  # a cache's key has no names
    attribute = BY_TAG[tag]
    kind = attribute.vr
    # Text is what a UID is whatever its VR says: so the receiver took it, and filed the object by it.
    if kind != "UI":
        if vr in _NO_TEXT_VRS:
            return None, as_text(raw) or None
        if vr in _NUMBERS or (kind == "US" and vr in _NO_VRS):
            numbers = _numbers_as_text(_NUMBERS.get(vr, "H"), raw, "<" if is_little_endian else ">")
            if numbers is None:
                return None, raw[:_SHOWN_BYTES].hex()
            raw = numbers
    stripped = raw.rstrip(b"\0 ")
    text, is_certain = _decode(stripped, kind, charsets)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")  # PostgreSQL holds no U+0000
    text = text.rstrip(" ") if kind in _BLOCK_VRS else text.strip(" ")
    if kind == "PN":
        text = text.rstrip("=")  # empty component groups (PS3.5 6.2.1.2)
    if not text:
        return None, None
    told = None if is_certain else as_text(stripped)
    parse = _PARSERS.get(kind)
    if attribute.many:
        parts = [part.strip(" ") for part in text.split("\\")]
        if parse is None:
            return list(parts), told
        values = [parse(part) for part in parts]
        if any(value is None and part for value, part in zip(values, parts, strict=True)):
            return None, text
        return values, None
    if parse is None:
        return text, told
    value = parse(text)
    if value is None or (kind == "DT" and _offset_of(text)):
        return value, text
    return value, None


# The objects of a series repeat most of their values byte for byte.
_convert_short: Final = lru_cache(maxsize=16_384)(_convert)


def _decode(raw: bytes, vr: str, charsets: CharacterSets) -> tuple[str, bool]:
    if raw.isascii() and _ESCAPE not in raw:
        return raw.decode("ascii"), True
    if vr in _ASCII_VRS:
        return raw.decode("latin_1"), True
    return charsets.decode(
        raw, _BLOCK_DELIMITERS if vr in _BLOCK_VRS else _NAME_DELIMITERS if vr == "PN" else _DELIMITERS
    )


def _numbers_as_text(code: str, raw: bytes, order: str) -> bytes | None:
    """Return binary numbers as a device would write them as text; None if the bytes are no whole number of them."""
    size = struct.calcsize(code)
    if len(raw) % size or len(raw) > _SHOWN_BYTES:
        return None
    numbers = struct.unpack(f"{order}{len(raw) // size}{code}", raw)
    return "\\".join(map(_number_as_text, numbers)).encode("ascii")


def _number_as_text(number: float) -> str:
    is_whole = isinstance(number, int) or (abs(number) < _MAX_WHOLE and number.is_integer())
    return str(int(number)) if is_whole else repr(number)


def _parse_date(text: str) -> date | None:
    if len(text) == 8 and text.isdigit():  # nearly all
        try:
            return date.fromisoformat(text)
        except ValueError:
            return None
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def _parse_time(text: str) -> time | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hour, _, minute, second, fraction = match.groups()
    try:
        return time(int(hour), int(minute or 0), int(second or 0), int((fraction or "").ljust(6, "0")))
    except ValueError:
        return None


def _parse_datetime(text: str) -> datetime | None:
    """Return the wall clock's date and time as written; an offset from UTC stays in the raw text."""
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    day, clock = _parse_date(match[1]), _parse_time(match[2] or "00")
    return None if day is None or clock is None else datetime.combine(day, clock)


def _offset_of(text: str) -> str | None:
    match = _DATETIME.fullmatch(text)
    return match[3] if match else None


def _parse_integer(text: str) -> int | None:
    if len(text) < 19 and text.isascii() and text.isdigit():  # nearly all
        return int(text)
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -_MAX_INTEGER <= number <= _MAX_INTEGER else None


def _parse_decimal(text: str) -> float | None:
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


_PARSERS: Final[dict[str, Callable[[str], Scalar | None]]] = {
    "DA": _parse_date,
    "TM": _parse_time,
    "DT": _parse_datetime,
    "IS": _parse_integer,
    "US": _parse_integer,
    "DS": _parse_decimal,
}
