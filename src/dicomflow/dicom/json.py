"""Values in the DICOM JSON model (PS3.18 F.2), as the index and its questions have them. No I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["json_element", "json_name", "json_number", "json_values"]

_EXACT: Final = 2**53
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_NUMBER_VRS: Final = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})


def json_element(vr: str, value: Any) -> dict[str, Any]:
    """Return an element with its VR, and its values if there are any.

    Args:
        vr: the attribute's.
        value: text, a number, a list of either of which some may be None, the items of a sequence as JSON, or None. A
            text is one value; a name's component groups are parted by `=`.
    """
    if value is None or value in ("", []):
        return {"vr": vr}
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if vr == "PN":
        return {"vr": vr, "Value": [json_name(each) for each in values]}
    if vr in _NUMBER_VRS:
        return {"vr": vr, "Value": [json_number(each) for each in values]}
    return {"vr": vr, "Value": [None if each == "" else each for each in values]}


def json_values(vr: str, element: Mapping[str, Any]) -> list[Any]:
    """Return the values of an element as `json_element` takes them; [] where it has none, or is no element."""
    values = element.get("Value")
    if not isinstance(values, list):
        return []
    if vr == "PN":
        names = [each if isinstance(each, Mapping) else {} for each in values]
        return ["=".join(str(name.get(group, "")) for group in _GROUPS).rstrip("=") for name in names]
    return values


def json_name(name: str | None) -> Mapping[str, str] | None:
    """Return a person name as an object of its component groups; those that are empty are left out (PS3.18 F.2.2)."""
    groups = {key: group.rstrip("^") for key, group in zip(_GROUPS, (name or "").split("="), strict=False)}
    return {key: group for key, group in groups.items() if group} or None


def json_number(number: Any) -> Any:
    """Return a number that every reader of JSON takes for the same, else its text (PS3.18 F.2.3)."""
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if isinstance(number, int) and abs(number) > _EXACT:
        return str(number)
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < _EXACT else number
