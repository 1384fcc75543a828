"""Settings as TOML, which Python's library reads and does not write. ASCII alone: Windows' shell knows no UTF-8."""

import json
from collections.abc import Mapping
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = ["merged", "to_toml"]

_LAST_ASCII: Final = 0x7E
_LAST_SHORT: Final = 0xFFFF


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others above them, table by table."""
    found = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            found[name] = merged(below[name], above[name])
    return found


def to_toml(settings: Mapping[str, Any]) -> str:
    """Return settings as a document of TOML, a table for each object; what is None is left out.

    Raises:
        PermanentError: a value is none that TOML has.
    """
    return "\n".join(_lines(settings, "")).lstrip("\n") + "\n"


def _lines(settings: Mapping[str, Any], path: str) -> list[str]:
    lines = [
        f"{_key(name)} = {_value(value)}"
        for name, value in settings.items()
        if value is not None and not isinstance(value, dict)
    ]
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += ["", f"[{path}{_key(name)}]", *_lines(value, f"{path}{_key(name)}.")]
    return lines


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        told = (f"{_key(name)} = {_value(each)}" for name, each in value.items() if each is not None)
        return "{" + ", ".join(told) + "}"
    raise PermanentError(f"{value!r} cannot be a setting: write texts, numbers, True, False, lists and tables")


def _key(name: object) -> str:
    text = str(name)
    is_bare = text.isascii() and text.replace("_", "").replace("-", "").isalnum()
    return text if is_bare else _text(text)


def _text(text: str) -> str:
    """Quote a text: a basic string of TOML is one of JSON, but for how characters beyond 16 bits are escaped."""
    return "".join(each if each <= chr(_LAST_ASCII) else _escape(each) for each in json.dumps(text, ensure_ascii=False))


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number <= _LAST_SHORT else f"\\U{number:08x}"
