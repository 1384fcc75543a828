"""Values of data elements as Python values: dates are dates, numbers numbers, text is decoded by its character set.

`convert` never fails: what does not parse is None, with the raw text beside it. pydicom is imported only for the
character sets that Python does not decode by itself. Knows nothing of columns.
"""

import math
import re
import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from functools import cache, lru_cache
from typing import Final

from dicomflow.dicom.attributes import BY_TAG, Attribute

__all__ = ["Converted", "convert", "encodings_of"]

Scalar = str | int | float | date | time | datetime
Value = Scalar | list[Scalar | None] | None

Converted = tuple[Value, str | None]
"""A value, and the raw text where the value is None although the element was not empty."""

_DEFAULT_ENCODINGS: Final = ("iso8859",)
# Defined terms of one value that Python's codecs decode alone (PS3.3 C.12.1.1.2); all others go through pydicom.
_PLAIN_ENCODINGS: Final = {
    "": _DEFAULT_ENCODINGS,
    "ISO_IR 6": _DEFAULT_ENCODINGS,
    "ISO_IR 100": ("latin_1",),
    "ISO_IR 192": ("utf_8",),
    "GB18030": ("gb18030",),
}
_ESCAPE: Final = 0x1B
# PS3.5 6.2: characters at which code extensions end; of person names also the component separators (PS3.5 6.1.2.5.3).
_TEXT_DELIMITERS: Final = frozenset(b"\r\n\t\f")
_NAME_DELIMITERS: Final = _TEXT_DELIMITERS | frozenset(b"\\^=")
# PS3.5 6.2: leading spaces carry meaning in text blocks only.
_BLOCK_VRS: Final = frozenset({"LT", "ST", "UT"})
# PS3.5 6.2: VRs outside the specific character set.
_ASCII_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})
_BINARY_INTEGERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q"}
_NO_VRS: Final = frozenset({"UN", ""})
_SHORT_BYTES: Final = 64
_MAX_INTEGER: Final = 2**63 - 1

# YYYYMMDD, and YYYY.MM.DD of ACR-NEMA, which PS3.5 6.2 allows to be read.
_DATE: Final = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})")
# HH[MM[SS[.F{1,6}]]], and HH:MM:SS of ACR-NEMA.
_TIME: Final = re.compile(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME: Final = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_INTEGER: Final = re.compile(r"[+-]?\d{1,19}")
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def convert(tag: int, vr: str, raw: bytes, encodings: tuple[str, ...], *, is_little_endian: bool) -> Converted:
    """Convert the bytes of an indexed element that is no sequence; the result may be shared and must not be changed.

    Args:
        tag: says which type is wanted, and whether there may be several values.
        vr: the VR that the data set states, "" if it states none; it decides the bytes' meaning for binary numbers.
        raw: the value, padding included, in the data set's byte order.
        encodings: Python's names of the specific character set's values.
        is_little_endian: the byte order of binary numbers.
    """
    if len(raw) > _SHORT_BYTES:
        return _convert(tag, vr, raw, encodings, is_little_endian)
    return _convert_short(tag, vr, raw, encodings, is_little_endian)


def _convert(tag: int, vr: str, raw: bytes, encodings: tuple[str, ...], is_little_endian: bool) -> Converted:  # noqa: FBT001  # a cache's key has no names
    attribute = BY_TAG[tag]
    kind = attribute.vr
    if vr in _BINARY_INTEGERS or (kind in _BINARY_INTEGERS and vr in _NO_VRS):
        return _convert_binary(attribute, vr, raw, "<" if is_little_endian else ">")
    raw = raw.rstrip(b"\0 ")
    text = raw.decode("ascii") if raw.isascii() and _ESCAPE not in raw else _decode(raw, kind, encodings)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")  # PostgreSQL holds no U+0000
    text = text.rstrip(" ") if kind in _BLOCK_VRS else text.strip(" ")
    if kind == "PN":
        text = text.rstrip("=")  # empty component groups (PS3.5 6.2.1.2)
    if not text:
        return None, None
    parse = _PARSERS.get(kind)
    if attribute.many:
        parts = [part.strip(" ") for part in text.split("\\")]
        if parse is None:
            return list(parts), None
        values = [parse(part) for part in parts]
        if any(value is None and part for value, part in zip(values, parts, strict=True)):
            return None, text
        return values, None
    if parse is None:
        return text, None
    value = parse(text)
    if value is None or (kind == "DT" and _offset_of(text)):
        return value, text
    return value, None


# The objects of a series repeat most of their values byte for byte.
_convert_short: Final = lru_cache(maxsize=16_384)(_convert)


@cache
def encodings_of(specific_character_set: str) -> tuple[str, ...]:
    """Return Python's codecs for a value of Specific Character Set (0008,0005), backslashes included."""
    plain = _PLAIN_ENCODINGS.get(specific_character_set.strip(" \0"))
    if plain is not None:
        return plain
    from dicomflow.dicom.quiet import without_warnings  # noqa: PLC0415  # imports pydicom

    with without_warnings():
        from pydicom.charset import convert_encodings  # noqa: PLC0415

        terms = [term.strip(" \0") for term in specific_character_set.split("\\")]
        return tuple(convert_encodings(terms))


def _decode(raw: bytes, vr: str, encodings: Sequence[str]) -> str:
    """Decode what is not plain ASCII."""
    if vr in _ASCII_VRS:
        return raw.decode("latin_1")
    if _ESCAPE not in raw:
        try:
            return raw.decode(encodings[0])
        except (UnicodeError, LookupError):
            return raw.decode(encodings[0] if _is_known(encodings[0]) else "latin_1", "replace")
    from dicomflow.dicom.quiet import without_warnings  # noqa: PLC0415  # imports pydicom

    with without_warnings():
        from pydicom.charset import decode_bytes  # noqa: PLC0415

        delimiters = _NAME_DELIMITERS if vr == "PN" else _TEXT_DELIMITERS
        return decode_bytes(raw, encodings, set(delimiters))


def _is_known(encoding: str) -> bool:
    try:
        "".encode(encoding)
    except LookupError:
        return False
    return True


def _convert_binary(attribute: Attribute, vr: str, raw: bytes, order: str) -> Converted:
    code = _BINARY_INTEGERS.get(vr, "H")
    size = struct.calcsize(code)
    if not raw:
        return None, None
    if len(raw) % size or (len(raw) > size and not attribute.many):
        return None, raw.hex()
    numbers: list[Scalar | None] = list(struct.unpack(f"{order}{len(raw) // size}{code}", raw))
    return (numbers, None) if attribute.many else (numbers[0], None)


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
