"""Content items of structured reports (PS3.15 E.3.4, PS3.3 C.17.3): which stay, and with what value.

An item is judged by its concept and value type; what the table does not know and somebody typed goes. Items that stay
are walked as all others are, so that references are mapped and codes have their scheme's meaning.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from dicomflow.deidentify import dates
from dicomflow.deidentify.settings import Option
from dicomflow.deidentify.tables import Concept, concepts
from dicomflow.deidentify.texts import public_code
from dicomflow.dicom.fields import Field, Item

__all__ = ["stays_in_content"]

_VALUE_TYPE: Final = 0x0040A040
_CONCEPT_NAME: Final = 0x0040A043
_CONCEPT_CODE: Final = 0x0040A168
_CODE_VALUE: Final = 0x00080100
_SCHEME: Final = 0x00080102
# Where a value of each type stands that somebody may have typed, and its VR.
_TYPED: Final = {
    "TEXT": 0x0040A160,
    "PNAME": 0x0040A123,
    "DATE": 0x0040A121,
    "TIME": 0x0040A122,
    "DATETIME": 0x0040A120,
    "UIDREF": 0x0040A124,
}
_DATES: Final = {"DATE": "DA", "TIME": "TM", "DATETIME": "DT"}
_KNOWN: Final = frozenset(
    {"CONTAINER", "CODE", "NUM", "IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D", "TCOORD"}
)
_DATE_OPTIONS: Final = frozenset({Option.SHIFT_DATES, Option.RETAIN_FULL_DATES})


def stays_in_content(item: Item, options: AbstractSet[Option], shift_days: int) -> bool:
    """Tell whether a content item stays, to be walked as all items are; with one that goes goes all below it.

    An item without a value type, as that of an acquisition context, stays.
    """
    value_type = _text(item, _VALUE_TYPE)
    if not value_type:
        return True
    code = _code(item, _CONCEPT_NAME)
    row = concepts().get((value_type, code[1], code[0])) if code else None
    if value_type in _TYPED:
        # What an item must have the walk replaces: its value is "D" in the table of attributes.
        return row is not None and ("D" in row.code or _has_date(item, value_type, row, options, shift_days))
    if value_type not in _KNOWN:
        return False
    if value_type == "CODE":
        value = _code(item, _CONCEPT_CODE)
        if value is None or public_code(*value) is None:
            return False
    return row is None or row.code != "X" or Option.RETAIN_UIDS in options


def _has_date(item: Item, value_type: str, row: Concept, options: AbstractSet[Option], shift_days: int) -> bool:
    """Tell whether an item's value is a date that the options retain."""
    if value_type not in _DATES or not row.is_date or not options & _DATE_OPTIONS:
        return False
    value = next((field.value for field in item if field.tag == _TYPED[value_type]), None)
    return bool(value) and dates.moved(value or b"", _DATES[value_type], shift_days) is not None


def _code(item: Item, tag: int) -> tuple[str, str] | None:
    sequence: Field | None = next((field for field in item if field.tag == tag), None)
    if sequence is None or not sequence.items:
        return None
    inner = sequence.items[0]
    return _text(inner, _CODE_VALUE), _text(inner, _SCHEME)


def _text(item: Item, tag: int) -> str:
    field = next((field for field in item if field.tag == tag), None)
    return (field.value or b"").decode("ascii", "replace").strip(" \0") if field is not None else ""
