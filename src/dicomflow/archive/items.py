"""Sequence matching: all keys must hold in one stored item (PS3.4 C.2.2.2.6). Items are DICOM JSON (PS3.18 F.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import dictionary_VR

from dicomflow.archive.query import Keys
from dicomflow.dicom.matching import Match, MatchError, Moments, accepts_any, match_of
from dicomflow.dicom.moments import Span, parse_date, parse_datetime, parse_time

__all__ = ["ItemMatch"]

_MAX_DEPTH: Final = 8
_PARSE: Final = {"DA": parse_date, "TM": parse_time, "DT": parse_datetime}


@dataclass(frozen=True, slots=True)
class ItemMatch:
    """What is asked for of one item; universal keys are left out."""

    keys: tuple[tuple[str, "str", "Match | ItemMatch"], ...]

    @classmethod
    def of(
        cls, asked: Keys, *, is_fuzzy: bool, matches_empty: bool = False, matches_all: bool = False, depth: int = 1
    ) -> "ItemMatch":
        """Return the match of an item's keys; what the switches mean stands in `match_of`.

        Raises:
            MatchError: a value cannot be matched, or items nest too deep.
        """
        if depth > _MAX_DEPTH:
            raise MatchError(f"items nest deeper than {_MAX_DEPTH}")
        found: list[tuple[str, str, Match | ItemMatch]] = []
        for tag, value in asked.items():
            vr = _vr_of(tag)
            match: Match | ItemMatch | None
            if isinstance(value, str):
                match = (
                    match_of(vr, value, is_fuzzy=is_fuzzy, matches_empty=matches_empty, matches_all=matches_all)
                    if vr != "SQ"
                    else None
                )
            else:
                match = cls.of(
                    value, is_fuzzy=is_fuzzy, matches_empty=matches_empty, matches_all=matches_all, depth=depth + 1
                )
                match = match if match.keys else None
            if match is not None:
                found.append((f"{tag:08X}", vr, match))
        return cls(tuple(found))

    def accepts(self, items: Any) -> bool:
        """Tell whether one of a sequence's items has all that is asked for."""
        return isinstance(items, list) and any(self.is_in(item) for item in items if isinstance(item, Mapping))

    def is_in(self, item: Mapping[str, Any]) -> bool:
        """Tell whether one item has all that is asked for; a row of a search in DICOM JSON is one, too."""
        return all(_is_meant(item.get(tag) or {}, vr, match) for tag, vr, match in self.keys)


def _is_meant(element: Mapping[str, Any], vr: str, match: "Match | ItemMatch") -> bool:
    values = element.get("Value") or []
    if isinstance(match, ItemMatch):
        return match.accepts(values)
    return accepts_any(match, [_stored(vr, value, has_offset=isinstance(match, Moments)) for value in values] or [None])


def _stored(vr: str, value: Any, *, has_offset: bool) -> Any:
    """Return a JSON value as the index has those of its columns; a date time with its offset where that is asked."""
    if isinstance(value, Mapping):
        return "=".join(str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    if vr in _PARSE and isinstance(value, str):
        span: Span | None = _PARSE[vr](value)
        if span is None:
            return None
        return (span.first, span.offset) if has_offset and span.offset is not None else span.first
    return value


def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return "LO"
