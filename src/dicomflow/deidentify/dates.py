"""Dates and times that are retained or shifted by whole days; what does not parse is none (PS3.5 6.2, PS3.15 E.3.6)."""

import re
from datetime import date, timedelta
from typing import Final

from dicomflow.dicom.moments import parse_date, parse_datetime, parse_time

__all__ = ["moved", "offset_from_utc"]

_DAY_LETTERS: Final = 8
_OFFSET: Final = re.compile(rb"[+-](0\d|1[0-4])[0-5]\d")


def moved(value: bytes, vr: str, days: int) -> bytes | None:
    """Return the values of a DA, TM or DT so many days earlier, each in the form that it had; None if one is no such.

    Ranges are none, and neither is a date time without its day, unless it stays where it is.
    """
    try:
        texts = [part.strip(" \0") for part in value.decode("ascii").split("\\")]
    except UnicodeDecodeError:
        return None
    results = [_moved_one(text, vr, days) for text in texts]
    if any(result is None for result in results):
        return None
    return "\\".join(result or "" for result in results).encode("ascii")


def _moved_one(text: str, vr: str, days: int) -> str | None:
    if not text:
        return ""
    if vr == "TM":
        return text if parse_time(text) else None  # whole days change no time of day
    if vr == "DA":
        return _earlier(text, days) if parse_date(text) else None
    if not parse_datetime(text):
        return None
    if days and not text[:_DAY_LETTERS].isdigit():
        return None
    rest = text[_DAY_LETTERS:]
    return (
        text if not days else None if len(text) < _DAY_LETTERS else _joined(_earlier(text[:_DAY_LETTERS], days), rest)
    )


def _joined(day: str | None, rest: str) -> str | None:
    return None if day is None else day + rest


def _earlier(text: str, days: int) -> str | None:
    """Return a day so many days before; the form of ACR-NEMA, 2026.01.31, stays what it is."""
    dot = "." if "." in text else ""
    digits = text.replace(".", "")
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) - timedelta(days)
    except (ValueError, OverflowError):
        return None
    return f"{day.year:04}{dot}{day.month:02}{dot}{day.day:02}"


def offset_from_utc(value: bytes) -> bytes | None:
    """Return a value of Timezone Offset From UTC (0008,0201); None if it is none."""
    text = value.strip(b" \0")
    return text if _OFFSET.fullmatch(text) else None
