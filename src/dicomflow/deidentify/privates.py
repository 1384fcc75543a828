"""Private elements that are known to be safe (PS3.15 E.3.10): found by their creator, never by their full tag.

Only numbers are: see `tables.safe_private`.
"""

import re
from collections.abc import Sequence
from typing import Final

from dicomflow.deidentify.tables import safe_private
from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import Field

__all__ = ["safe_fields"]

_BYTES: Final = {"FL": 4, "FD": 8, "US": 2, "UL": 4, "SS": 2, "SL": 4, "SV": 8, "UV": 8}
_DECIMAL: Final = re.compile(rb"[ \d.+\-eE\\]*\0?")


def safe_fields(fields: Sequence[Field], encoding: Encoding) -> list[Field]:
    """Return those of one level's private elements that are safe, and the creators of their blocks (PS3.5 7.8.1)."""
    creators = {
        (field.tag >> 16, field.tag & 0xFF): field
        for field in fields
        if 0x10 <= field.tag & 0xFFFF <= 0xFF and field.value is not None
    }
    known = safe_private()
    kept: dict[int, Field] = {}
    for field in fields:
        group, block = field.tag >> 16, field.tag >> 8 & 0xFF
        creator = creators.get((group, block))
        if creator is None or creator.value is None or field.value is None:
            continue
        name = creator.value.decode("ascii", "replace").strip(" \0")
        vr = known.get((group, name, field.tag & 0xFF))
        # In Implicit VR nothing says the VR, and the list does; otherwise both must say the same.
        if vr is None or (field.vr not in {vr, "UN"}) or not _is_number(field.value, vr):
            continue
        if field.vr == "UN" and not encoding.is_implicit and not encoding.is_little_endian:
            continue
        kept[creator.tag] = creator._replace(vr="LO")
        kept[field.tag] = field._replace(vr=vr)
    return list(kept.values())


def _is_number(value: bytes, vr: str) -> bool:
    size = _BYTES.get(vr)
    return _DECIMAL.fullmatch(value) is not None if size is None else len(value) % size == 0 and len(value) <= 64 * size
