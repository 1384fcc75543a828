"""Dates and times as keys write them, with what they leave open (PS3.5 6.2): `1030` is a minute, not an instant."""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final

__all__ = ["Span", "parse_date", "parse_datetime", "parse_time"]

_DATE: Final = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})", re.ASCII)
_TIME: Final = re.compile(r"(\d{2})(?:(:?)(\d{2})(?:\2(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DATETIME: Final = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Span:
    """The first and the last date, time or date time that a text may mean; of a date time its offset from UTC."""

    first: Any
    last: Any
    offset: timedelta | None = None


def parse_date(text: str) -> Span | None:
    """Return the day of a DA, that of ACR-NEMA too; None where it is none."""
    match = _DATE.fullmatch(text)
    try:
        day = date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None
    return None if day is None else Span(day, day)


def parse_time(text: str) -> Span | None:
    """Return the hour, minute, second or fraction of a TM; None where it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hour, _, minute, second, fraction = match.groups()
    # 60 is a leap second (PS3.5 6.2), which no clock here has.
    last_second = "59" if second == "60" else second
    try:
        first = time(int(hour), int(minute or 0), int(last_second or 0), int((fraction or "").ljust(6, "0")))
        last = time(int(hour), int(minute or 59), int(last_second or 59), int((fraction or "").ljust(6, "9")))
    except ValueError:
        return None
    return Span(first, last)


def parse_datetime(text: str) -> Span | None:
    """Return the year, month, day or time of a DT; None where it is none."""
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, clock, zone = match.groups()
    try:
        first_day = date(int(year), int(month or 1), int(day or 1))
        last_day = first_day if day else _last_day(first_day, is_month=bool(month))
    except ValueError:
        return None
    span = parse_time(clock) if clock else Span(time.min, time.max)
    offset = _offset_of(zone)
    if span is None or (zone and offset is None):
        return None
    return Span(datetime.combine(first_day, span.first), datetime.combine(last_day, span.last), offset)


def _last_day(first: date, *, is_month: bool) -> date:
    if not is_month:
        return date(first.year, 12, 31)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1) if first < date(9999, 12, 1) else date.max
    return following - timedelta(days=1) if following != date.max else following


def _offset_of(zone: str | None) -> timedelta | None:
    """Return an offset of -1200 to +1400 (PS3.5 6.2)."""
    if not zone:
        return None
    minutes = int(zone[1:3]) * 60 + int(zone[3:5])
    if int(zone[3:5]) > 59 or minutes > 14 * 60:
        return None
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)
