"""The tables that profiles are made of, as they stand in `data`: edition 2026c of the standard.

`actions` and `types` are generated (`scripts/deidentify_tables.py`, data/NOTICE); `options.py` has the options'
columns, which no package has. Facts alone; what they mean for an object is `rules`' business.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

__all__ = ["EDITION", "TOP", "Concept", "actions", "concepts", "safe_private", "types_of"]

EDITION: Final = "2026c"
TOP: Final = 0
"""Stands where a sequence's tag does, for an attribute that stands in none."""
_Types = Mapping[tuple[int, int], str]


class Concept(NamedTuple):
    """A content item's row in PS3.15 Table E.3.4-1: its code in the Basic Profile; whether options retain its date."""

    code: str
    is_date: bool


def _read(name: str) -> str:
    return (files(__package__) / "data" / name).read_text(encoding="ascii")


@cache
def actions() -> Mapping[int, str]:
    """Return the Basic Profile's code of each tag (PS3.15 Table E.1-1); those of its four patterns are not in it."""
    found = {}
    for line in _read("actions.txt").splitlines():
        tag, code = line.split()
        found[int(tag, 16)] = code
    return found


@cache
def types_of(sop_class_uid: str) -> _Types | None:
    """Return the type (1, 2 or 3) of an attribute by parent sequence and tag, as the class's IOD has it (PS3.3).

    Conditional types count as required. Only attributes are in it whose handling depends on their type; None for a
    class of no IOD that is known.
    """
    classes, modules = _modules()
    if sop_class_uid not in classes:
        return None
    found: dict[tuple[int, int], str] = {}
    for number in classes[sop_class_uid]:
        for line in modules[number]:
            parent, *attributes = line.split()
            for attribute in attributes:
                key = int(parent, 16), int(attribute[:8], 16)
                found[key] = min(found.get(key, "3"), attribute[8])
    return found


@cache
def _modules() -> tuple[Mapping[str, tuple[int, ...]], Mapping[int, list[str]]]:
    head, *rest = _read("types.txt").split("module ")
    classes = {}
    for line in head.splitlines():
        uid, numbers = line.split()
        classes[uid] = tuple(map(int, numbers.split(",")))
    modules = {}
    for module in rest:
        number, *lines = module.splitlines()
        modules[int(number)] = lines
    return classes, modules


@cache
def safe_private() -> Mapping[tuple[int, str, int], str]:
    """Return the VR of each private element known to be safe, by group, creator and low byte (PS3.15 Table E.3.10-1).

    Only numbers are in it: text of a device is safe as long as nobody types into it.
    """
    found = {}
    for line in _read("safe_private.txt").splitlines():
        group, creator, elements = line.split("\t")
        for element in elements.split():
            found[int(group, 16), creator, int(element[:2], 16)] = element[2:]
    return found


@cache
def concepts() -> Mapping[tuple[str, str, str], Concept]:
    """Return the rows of PS3.15 Table E.3.4-1 by value type, coding scheme and code."""
    found = {}
    for line in _read("concepts.txt").splitlines():
        value_type, code, dates, scheme, values = line.split("\t")
        for value in values.split():
            found[value_type, scheme, value] = Concept(code, dates == "C")
    return found
