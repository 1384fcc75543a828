"""The query of a search transaction (PS3.18 8.3.4): which question it is, or what is wrong with it.

An attribute that nobody knows is refused, and so is one that is not compared here: a search that passes it over would
show what was not asked for.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicomflow.archive.errors import BadQueryError
from dicomflow.dicom.attributes import ATTRIBUTES

__all__ = ["ALL", "Search", "parse_search", "set_key"]

ALL: Final = frozenset(attribute.tag for attribute in ATTRIBUTES)
"""What `includefield=all` stands for; whoever answers leaves out what the level has not."""
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_MAX_FIELDS: Final = 256
_MAX_SHOWN: Final = 64
_MAX_NUMBER: Final = 2**53
_MAX_DEPTH: Final = 8
_LISTS: Final = frozenset({"includefield"})
# Query parameters with the force of a header (PS3.18 8.3.3), which whoever answers reads.
_OF_THE_ANSWER: Final = frozenset({"accept", "charset"})


@dataclass(slots=True)
class Search:
    """A search as it was written; `keys` nest where an attribute of an item is meant."""

    keys: dict[int, Any] = field(default_factory=dict)
    included: set[int] = field(default_factory=set)
    limit: int | None = None
    offset: int = 0
    is_fuzzy: bool = False
    matches_empty: bool = False
    matches_all_values: bool = False


def parse_search(query: bytes) -> Search:
    """Return what a query string asks for.

    Raises:
        BadQueryError: it is no UTF-8, or a parameter is unknown, given twice, or has a value that it cannot have.
    """
    try:
        pairs = parse_qsl(query.decode(), True, errors="strict", max_num_fields=_MAX_FIELDS)  # blank values count
    except ValueError as error:
        raise BadQueryError("the query is no percent-encoded UTF-8, or too long") from error
    search = Search()
    seen: set[str] = set()
    for name, value in pairs:
        plain = name.lower()
        if plain in seen and plain not in _LISTS:
            raise BadQueryError(f"{_shown(name)} is given twice")
        seen.add(plain)
        if plain in _OF_THE_ANSWER:
            continue
        take = _PARAMETERS.get(plain)
        if take is not None:
            take(search, value)
        else:
            set_key(search.keys, _path_of(name), value)
    return search


def set_key(keys: dict[int, Any], path: tuple[int, ...], value: str) -> None:
    """Put a value where a path of tags leads.

    Raises:
        BadQueryError: there is one already.
    """
    for tag in path[:-1]:
        inner = keys.setdefault(tag, {})
        if not isinstance(inner, dict):
            raise BadQueryError("an attribute is asked for as a sequence and as a value")
        keys = inner
    last = path[-1]
    if last in keys:
        raise BadQueryError(f"({last >> 16:04X},{last & 0xFFFF:04X}) is given twice")
    # A list of UIDs is parted by commas in a URL (PS3.18 8.3.4.1); viewers write a backslash, too.
    keys[last] = value.replace(",", "\\") if _vr_of(last) == "UI" else value


def _path_of(name: str) -> tuple[int, ...]:
    parts = name.split(".")
    if len(parts) > _MAX_DEPTH:
        raise BadQueryError(f"{_shown(name)} nests deeper than {_MAX_DEPTH}")
    path = tuple(_tag_of(part, name) for part in parts)
    if any(_vr_of(tag) != "SQ" for tag in path[:-1]):
        raise BadQueryError(f"{_shown(name)} leads into what is no sequence")
    return path


def _tag_of(name: str, whole: str) -> int:
    if _TAG.fullmatch(name):
        return int(name, 16)
    tag = tag_for_keyword(name) if name.isascii() else None
    if tag is None:
        raise BadQueryError(f"{_shown(whole)} is no attribute and no parameter of a search")
    return tag


def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return ""


def _include(search: Search, value: str) -> None:
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        # Of an item its sequence is returned, whole.
        search.included |= ALL if name.lower() == "all" else {_path_of(name)[0]}


def _number(name: str) -> Callable[[Search, str], None]:
    def take(search: Search, value: str) -> None:
        if not (value.isascii() and value.isdecimal()) or len(value) > 30:
            raise BadQueryError(f"{name} is no number from 0 on")
        setattr(search, name, min(int(value), _MAX_NUMBER))

    return take


def _flag(name: str, attribute: str) -> Callable[[Search, str], None]:
    def take(search: Search, value: str) -> None:
        if value.lower() not in {"true", "false"}:
            raise BadQueryError(f"{name} is true or false")
        setattr(search, attribute, value.lower() == "true")

    return take


_PARAMETERS: Final[dict[str, Callable[[Search, str], None]]] = {
    "includefield": _include,
    "limit": _number("limit"),
    "offset": _number("offset"),
    "fuzzymatching": _flag("fuzzymatching", "is_fuzzy"),
    "emptyvaluematching": _flag("emptyvaluematching", "matches_empty"),
    "multiplevaluematching": _flag("multiplevaluematching", "matches_all_values"),
}


def _shown(name: str) -> str:
    """Return a parameter's name for a message: what is no name may be a patient's."""
    known = name[:_MAX_SHOWN]
    return known if re.fullmatch(r"[A-Za-z0-9_.]+", known) else "a parameter"


def names_of(tags: Iterable[int]) -> str:
    """Return tags as a message has them."""
    return ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in sorted(tags))
