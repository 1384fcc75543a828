"""Attribute matching: what a key asks for, and whether a value is that (PS3.4 C.2.2.2).

A key is read once to a `Match`, which says of each stored value whether it is accepted, and tells whoever looks values
up in an index what to look for. Stored values are those of `dicom.values`. Knows no SQL and no protocol.

Where the standard leaves a choice: names match whatever their case, accents and width are, by any of their component
groups; several values ask for one of them; an end of a range that is not precise includes its whole hour or minute.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final, Protocol

from dicomflow.dicom.moments import Span, parse_date, parse_datetime, parse_time
from dicomflow.dicom.names import fold_name, fold_words
from dicomflow.errors import PeerError

__all__ = [
    "MAX_VALUES",
    "AnyOf",
    "Empty",
    "EveryOf",
    "Exact",
    "Match",
    "MatchError",
    "Moments",
    "Name",
    "Pattern",
    "Range",
    "Words",
    "match_of",
    "same_moment",
]

MAX_VALUES: Final = 10_000
"""Of one key: a list of UIDs is cut by who asks, as in Explicit VR at about a thousand."""
_MAX_CHARACTERS: Final = 4096
_WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
# PS3.5 6.4: a backslash in these is a character.
_SINGLE_VRS: Final = frozenset({"LT", "ST", "UR", "UT"})
_INTEGER_VRS: Final = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_DECIMAL_VRS: Final = frozenset({"DS", "FD", "FL"})
_EMPTY_VALUE: Final = '""'


class MatchError(PeerError):
    """A key's value cannot be matched; the text names the reason and not the value."""


class Match(Protocol):
    """What one key asks for."""

    def accepts(self, value: Any) -> bool:
        """Tell whether one stored value is meant; None, the lack of one, is meant by `Empty` alone."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Single value matching, and lists of UIDs: one of these, as text, number, date or time."""

    values: frozenset[Any]

    def accepts(self, value: Any) -> bool:
        """Tell whether it is one of them."""
        return value in self.values


@dataclass(frozen=True, slots=True)
class Range:
    """Dates, times or both, from `first` to `last`, both included; None is open.

    An `offset` from UTC in the key makes date times with one compare as moments, those without as written.
    """

    first: Any
    last: Any

    def accepts(self, value: Any) -> bool:
        """Tell whether a value lies within."""
        if value is None:
            return False
        return not ((self.first is not None and value < self.first) or (self.last is not None and value > self.last))


@dataclass(frozen=True, slots=True)
class Moments:
    """Date times within a range of which an end has an offset from UTC."""

    first: tuple[datetime, timedelta | None] | None
    last: tuple[datetime, timedelta | None] | None

    def accepts(self, value: Any) -> bool:
        """Tell whether a wall clock's time, or a pair of it and its offset, lies within."""
        if value is None:
            return False
        clock, offset = value if isinstance(value, tuple) else (value, None)
        return not (
            (self.first is not None and _moment(clock, offset, self.first[1]) < _moment(*self.first, offset))
            or (self.last is not None and _moment(clock, offset, self.last[1]) > _moment(*self.last, offset))
        )


def _moment(clock: datetime, offset: timedelta | None, other: timedelta | None) -> datetime:
    """Return a time to compare by: moments where both have an offset, else what the clocks show."""
    if offset is None or other is None:
        return clock
    try:
        return clock - offset
    except OverflowError:
        return clock


@dataclass(frozen=True, slots=True)
class Pattern:
    """Wild card matching, case-sensitive: `*` any characters, `?` one."""

    text: str

    def accepts(self, value: Any) -> bool:
        """Tell whether a text fits."""
        return isinstance(value, str) and _compiled(self.text).fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Name:
    """A person name, perhaps with wild cards, by case-blind, accent-blind comparison of component groups.

    `groups` are folded; one alone may be any of the name's, of several each not empty one is that at its place.
    """

    groups: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Tell whether a name has these groups."""
        if not isinstance(value, str):
            return False
        found = [fold_name(group) for group in value.split("=")]
        if len(self.groups) == 1:
            pattern = _compiled(self.groups[0])
            return any(pattern.fullmatch(group) for group in found)
        found += [""] * (len(self.groups) - len(found))
        return all(
            not asked or _compiled(asked).fullmatch(group) is not None
            for asked, group in zip(self.groups, found, strict=False)
        )


@dataclass(frozen=True, slots=True)
class Words:
    """A person name by words in any order, each by its beginning; with `anywhere` by any part of a word."""

    words: tuple[str, ...]
    anywhere: bool = False

    def accepts(self, value: Any) -> bool:
        """Tell whether each word is in the name."""
        if not isinstance(value, str):
            return False
        found = fold_words(value)
        if self.anywhere:
            return all(any(word in each for each in found) for word in self.words)
        return all(any(each.startswith(word) for each in found) for word in self.words)


@dataclass(frozen=True, slots=True)
class Empty:
    """Empty value matching (PS3.4 C.2.2.2.7): there is no value."""

    def accepts(self, value: Any) -> bool:
        """Tell whether there is none."""
        return value is None or value in ("", [])


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Several values of which one is asked for."""

    matches: tuple[Match, ...]

    def accepts(self, value: Any) -> bool:
        """Tell whether one accepts it."""
        return any(match.accepts(value) for match in self.matches)


@dataclass(frozen=True, slots=True)
class EveryOf:
    """Multiple value matching (PS3.4 C.2.2.2.8): each must be among the attribute's values."""

    matches: tuple[Match, ...]

    def accepts(self, value: Any) -> bool:
        """Tell whether all accept one value."""
        return all(match.accepts(value) for match in self.matches)


def match_of(
    vr: str, text: str, *, is_fuzzy: bool = False, matches_empty: bool = False, matches_all: bool = False
) -> Match | None:
    """Return what a key asks for; None where it asks for all, universal matching.

    Args:
        vr: the attribute's VR.
        text: the key's value, decoded, several parted by backslashes.
        is_fuzzy: names match by the beginnings of their words.
        matches_empty: `""` asks for what has no value.
        matches_all: several values, not of UI, must all be there.

    Raises:
        MatchError: the value cannot be matched.
    """
    if "\0" in text.rstrip("\0"):
        raise MatchError("a value holds a NUL")
    text = text.rstrip("\0").strip(" ")
    if not text or text == "*":
        if vr == "UI" and text:
            raise MatchError("a UID has no wild cards")
        return None
    if matches_empty and text == _EMPTY_VALUE:
        return Empty()
    parts = [text] if vr in _SINGLE_VRS else [part.strip(" ") for part in text.split("\\")]
    if len(parts) > MAX_VALUES:
        raise MatchError(f"{len(parts):,} values exceed the {MAX_VALUES:,} of a key")
    if any(len(part) > _MAX_CHARACTERS for part in parts):
        raise MatchError(f"a value exceeds {_MAX_CHARACTERS:,} characters")
    parts = [part for part in parts if part]
    if not parts:
        return None
    if vr == "UI":
        if any("*" in part or "?" in part for part in parts):
            raise MatchError("a UID has no wild cards")
        return Exact(frozenset(parts))
    matches = tuple(_single(vr, part, is_fuzzy=is_fuzzy) for part in dict.fromkeys(parts))
    if len(matches) == 1:
        return matches[0]
    return EveryOf(matches) if matches_all else AnyOf(matches)


def _single(vr: str, text: str, *, is_fuzzy: bool) -> Match:
    if vr == "PN":
        return _name(text, is_fuzzy=is_fuzzy)
    if vr in _RANGES:
        return _RANGES[vr](text)
    if vr in _INTEGER_VRS or vr in _DECIMAL_VRS:
        return _number(vr, text)
    if vr in _WILDCARD_VRS and ("*" in text or "?" in text):
        return Pattern(text)
    return Exact(frozenset({text}))


def _name(text: str, *, is_fuzzy: bool) -> Match:
    if is_fuzzy:
        words = fold_words(text.replace("*", " ").replace("?", " "))
        if words:
            return Words(words, anywhere=text.startswith("*"))
    groups = tuple(fold_name(group) for group in text.rstrip("=").split("="))
    return Name(groups if any(groups) else ("",))


def _number(vr: str, text: str) -> Match:
    try:
        number = int(text) if vr in _INTEGER_VRS else float(text)
    except ValueError as error:
        raise MatchError(f"{vr} is asked for by what is no number") from error
    if not math.isfinite(number):
        raise MatchError(f"{vr} is asked for by what is no number")
    return Exact(frozenset({number}))


def _dates(text: str) -> Match:
    return _within(text, parse_date, "DA")


def _times(text: str) -> Match:
    return _within(text, parse_time, "TM")


def _within(text: str, parse: Callable[[str], Span | None], vr: str) -> Match:
    first, dash, last = text.partition("-")
    ends = [parse(each.strip(" ")) if each.strip(" ") else None for each in (first, last)]
    if any(end is None and each.strip(" ") for end, each in zip(ends, (first, last), strict=True)):
        raise MatchError(f"{vr} is asked for by what is none, nor a range of two")
    if not dash:
        assert ends[0] is not None
        return Exact(frozenset({ends[0].first}))
    if ends[0] is None and ends[1] is None:
        raise MatchError(f"a range of {vr} has no end")
    return Range(ends[0] and ends[0].first, ends[1] and ends[1].last)


def _date_times(text: str) -> Match:
    """Read a date time or a range; `YYYYMMDD-0500` is a range, since a key cannot say which of both it is."""
    first, dash, last = _split_date_times(text)
    ends = [parse_datetime(each) if each else None for each in (first, last)]
    if any(end is None and each for end, each in zip(ends, (first, last), strict=True)):
        raise MatchError("DT is asked for by what is none, nor a range of two")
    if not dash:
        ends[1] = ends[0]
    elif ends[0] is None and ends[1] is None:
        raise MatchError("a range of DT has no end")
    if any(end is not None and end.offset is not None for end in ends):
        return Moments(
            None if ends[0] is None else (ends[0].first, ends[0].offset),
            None if ends[1] is None else (ends[1].last, ends[1].offset),
        )
    return Range(ends[0] and ends[0].first, ends[1] and ends[1].last)


_DATE_TIME_RANGE: Final = re.compile(r"([\d.]*(?:[+-]\d{4}(?=-))?)\s*(-)\s*([\d.]*(?:[+-]\d{4})?)")


def _split_date_times(text: str) -> tuple[str, str, str]:
    found = _DATE_TIME_RANGE.fullmatch(text)
    return (found[1], found[2], found[3]) if found else (text, "", "")


_RANGES: Final[Mapping[str, Callable[[str], Match]]] = {"DA": _dates, "TM": _times, "DT": _date_times}


@dataclass(frozen=True, slots=True)
class _SameMoment:
    """A date and its time as one range (PS3.4 C.2.2.2.5); values are pairs of them."""

    first: datetime
    last: datetime

    def accepts(self, value: Any) -> bool:
        """Tell whether date and time, which may lack, lie within: without a time the whole day is looked at."""
        day, clock = value
        if day is None:
            return False
        if clock is None:
            return bool(self.first.date() <= day <= self.last.date())
        return bool(self.first <= datetime.combine(day, clock) <= self.last)


def same_moment(dates: Match | None, times: Match | None) -> Match | None:
    """Return the one match of a date's range and its time's; None where they are no two ranges."""
    if not isinstance(dates, Range) or not isinstance(times, Range):
        return None
    first = datetime.combine(dates.first or date.min, times.first or time.min)
    last = datetime.combine(dates.last or date.max, times.last or time.max)
    return _SameMoment(first, last)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a wild card pattern as an expression that never goes back over a star: its cost stays linear."""
    head, *rest = [_escaped(part) for part in pattern.split("*")]
    if not rest:
        return re.compile(head, re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1] if part)
    return re.compile(f"{head}{middle}.*{rest[-1]}", re.DOTALL)


def _escaped(part: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in part)


def accepts_any(match: Match, values: Iterable[Any]) -> bool:
    """Tell whether one of an attribute's values is meant, or with `EveryOf` each that is asked for is among them."""
    found = list(values)
    if isinstance(match, EveryOf):
        return all(accepts_any(each, found) for each in match.matches)
    if isinstance(match, Empty):
        return all(match.accepts(value) for value in found)
    return any(match.accepts(value) for value in found)
