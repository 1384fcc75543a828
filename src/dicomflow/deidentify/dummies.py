"""Values that stand where one is required and none may be: the same everywhere, and valid for their VR."""

from collections.abc import Callable
from typing import Final

from dicomflow.dicom.fields import Field, Item, vr_of

__all__ = ["TEXT", "dummy_field"]

TEXT: Final = b"REMOVED"
_VALUES: Final = {
    "AS": b"000Y",
    "DA": b"19000101",
    "DT": b"19000101000000",
    "TM": b"000000",
    "DS": b"0",
    "IS": b"0",
    "UR": b"urn:removed",
    "FL": bytes(4), "SL": bytes(4), "UL": bytes(4), "OF": bytes(4), "OL": bytes(4), "AT": bytes(4),
    "SS": bytes(2), "US": bytes(2), "OW": bytes(2), "OB": bytes(2), "UN": bytes(2),
    "FD": bytes(8), "OD": bytes(8), "OV": bytes(8), "SV": bytes(8), "UV": bytes(8),
}  # fmt: skip
_CODE: Final = {0x00080100: b"REMOVED", 0x00080102: b"99DICOMFLOW", 0x00080104: b"Removed"}


def dummy_field(field: Field, vr: str, mapped: Callable[[bytes], bytes]) -> Field:
    """Return an element with a dummy; of a sequence every value in it is one, but UIDs, which are mapped."""
    if vr == "SQ":
        return Field(field.tag, vr, 0, 0, 0, None, tuple(_item(item, mapped) for item in field.items or ()))
    value = mapped(field.value) if vr == "UI" and field.value else _VALUES.get(vr, TEXT)
    return Field(field.tag, vr, 0, len(value), 0, value)


def _item(item: Item, mapped: Callable[[bytes], bytes]) -> Item:
    found = []
    for field in item:
        vr = vr_of(field.tag)
        if field.tag >> 16 & 1 or vr == "UN" or " or " in vr:
            continue
        if (code := _CODE.get(field.tag)) is not None:
            found.append(Field(field.tag, vr, 0, len(code), 0, code))
        else:
            found.append(dummy_field(field, vr, mapped))
    return tuple(found)
