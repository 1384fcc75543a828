"""Fields written in Little Endian, Explicit VR unless said, whatever they were read in; values stay what they are.

DICOMweb knows neither Implicit VR nor Big Endian (PS3.18 8.7.3.4). Binary numbers are turned round where they were in
Big Endian; nothing else of a value is touched.
"""

import array
import struct
from collections.abc import Iterable
from typing import Final

from dicomflow.dicom.encoding import Encoding
from dicomflow.dicom.fields import Field

__all__ = ["element_header", "turn_round", "write_field", "write_fields"]

_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2s2xI")
_ITEM: Final = struct.Struct("<HHI")
_LONG_FORM: Final = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905  # as the standard has it
_MAX_SHORT: Final = 0xFFFE
# How many bytes a number of each VR has (PS3.5 7.3): those are turned round.
_SIZES: Final = {
    "AT": "H", "OW": "H", "SS": "H", "US": "H", "FL": "I", "OF": "I", "OL": "I", "SL": "I", "UL": "I",
    "FD": "Q", "OD": "Q", "OV": "Q", "SV": "Q", "UV": "Q",
}  # fmt: skip


def write_fields(fields: Iterable[Field], encoding: Encoding, *, is_implicit: bool = False) -> bytes:
    """Return the elements of one level, in the order of their tags; of two with one tag the first is written.

    Args:
        fields: with their values; who left one in its file writes it by `element_header`.
        encoding: that of the values.
        is_implicit: write Implicit VR.
    """
    written: dict[int, bytes] = {}
    for field in fields:
        if field.tag not in written:
            written[field.tag] = write_field(field, encoding, is_implicit=is_implicit)
    return b"".join(written[tag] for tag in sorted(written))


def write_field(field: Field, encoding: Encoding, *, is_implicit: bool = False) -> bytes:
    """Return one element with its value or items."""
    if field.items is not None:
        items = []
        for item in field.items:
            inner = write_fields(item, encoding, is_implicit=is_implicit)
            items.append(_ITEM.pack(0xFFFE, 0xE000, len(inner)) + inner)
        value = b"".join(items)
    else:
        assert field.value is not None, "a value that was left in its file is its reader's to write"
        value = field.value if encoding.is_little_endian else turn_round(field.value, field.vr)
    if len(value) % 2:
        value += b"\0" if field.vr in {"UI", "OB", "UN"} else b" "
    return element_header(field.tag, field.vr, len(value), is_implicit=is_implicit) + value


def element_header(tag: int, vr: str, length: int, *, is_implicit: bool = False) -> bytes:
    """Return the header of an element; a value too long for its VR's two bytes is UN (PS3.5 6.2.2)."""
    if is_implicit:
        return _ITEM.pack(tag >> 16, tag & 0xFFFF, length)
    if vr not in _LONG_FORM and length > _MAX_SHORT:
        vr = "UN"
    if vr in _LONG_FORM:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)


def turn_round(value: bytes, vr: str) -> bytes:
    """Return the binary numbers of a value in the other byte order; text and bytes stay as they are."""
    code = _SIZES.get(vr)
    if code is None:
        return value
    numbers = array.array(code)
    whole = len(value) // numbers.itemsize * numbers.itemsize
    numbers.frombytes(value[:whole])
    numbers.byteswap()
    return numbers.tobytes() + value[whole:]
