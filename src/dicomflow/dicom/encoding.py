"""How a data set is encoded: as its transfer syntax says, or as its own first elements say where the two differ.

Devices send Implicit VR under an Explicit VR transfer syntax and the reverse. Whoever reads a data set, at the edge, in
the index or to show it, asks here, so that all read the same elements. No I/O.
"""

import struct
from dataclasses import dataclass
from typing import Final

from dicomflow.dicom.uids import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

__all__ = [
    "BIG_ENDIAN",
    "EXPLICIT",
    "IMPLICIT",
    "ITEM",
    "ITEM_DELIMITATION",
    "ITEM_GROUP",
    "LONG_FORM_VRS",
    "SEQUENCE_DELIMITATION",
    "SHORT_FORM_VRS",
    "UNDEFINED",
    "Encoding",
    "contradiction",
    "declared_encoding",
    "judge_encoding",
]

# PS3.5 7.1.2: VRs with a length of two bytes, and those with two reserved bytes and a length of four.
SHORT_FORM_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # reads as the standard's list
)
LONG_FORM_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # as above
ITEM_GROUP: Final = 0xFFFE
ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF

# A data set is believed to be otherwise than declared when this many elements on end say so, and the second element as
# declared makes no sense. A single odd element proves nothing.
_ENOUGH: Final = 3
_GROUPS_OUTSIDE: Final = frozenset({0x0000, 0x0002, ITEM_GROUP})


@dataclass(frozen=True, slots=True)
class Encoding:
    """Whether the VR of each element is left out, and the byte order (PS3.5 A)."""

    is_implicit: bool
    is_little_endian: bool

    @property
    def order(self) -> str:
        """The byte order as `struct` writes it."""
        return "<" if self.is_little_endian else ">"

    def __str__(self) -> str:
        return (
            f"{'Implicit' if self.is_implicit else 'Explicit'} VR {'Little' if self.is_little_endian else 'Big'} Endian"
        )


IMPLICIT: Final = Encoding(is_implicit=True, is_little_endian=True)
EXPLICIT: Final = Encoding(is_implicit=False, is_little_endian=True)
BIG_ENDIAN: Final = Encoding(is_implicit=False, is_little_endian=False)


def declared_encoding(transfer_syntax_uid: str) -> Encoding:
    """Return what a transfer syntax says; all but two are Explicit VR Little Endian (PS3.5 A)."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT
    return BIG_ENDIAN if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else EXPLICIT


def judge_encoding(head: bytes | memoryview, transfer_syntax_uid: str) -> Encoding:
    """Return how a data set is encoded, given from its first byte: as declared, unless its first elements deny that.

    Of a deflated one the head is what was inflated.
    """
    declared = declared_encoding(transfer_syntax_uid)
    if _elements_that_agree(head, declared) >= _ENOUGH - 1:
        return declared
    for other in (EXPLICIT, IMPLICIT, BIG_ENDIAN):
        if other != declared and _elements_that_agree(head, other) >= _ENOUGH:
            return other
    return declared


def contradiction(found: Encoding, transfer_syntax_uid: str) -> str | None:
    """Return in words what is wrong with a data set of another encoding than declared; None where nothing is."""
    declared = declared_encoding(transfer_syntax_uid)
    return None if found == declared else f"the data set is in {found}, and its transfer syntax says {declared}"


def _elements_that_agree(head: bytes | memoryview, encoding: Encoding) -> int:
    """Count the first elements that make sense in an encoding, one behind the other, up to as many as are enough."""
    tag_and_length = struct.Struct(encoding.order + "HHI").unpack_from
    short_length = struct.Struct(encoding.order + "H").unpack_from
    offset = count = last = 0
    while count < _ENOUGH and offset + 12 <= len(head):
        group, element, length = tag_and_length(head, offset)
        tag = group << 16 | element
        vr = bytes(head[offset + 4 : offset + 6])
        if group in _GROUPS_OUTSIDE or tag <= last:
            break
        value = offset + 8
        if encoding.is_implicit:
            # A length that is a VR's two letters is longer than what stands here; only the end of the value is a proof.
            if vr in SHORT_FORM_VRS or vr in LONG_FORM_VRS or (length != UNDEFINED and value + length > len(head)):
                break
        elif vr in SHORT_FORM_VRS:
            (length,) = short_length(head, offset + 6)
        elif vr in LONG_FORM_VRS:
            value = offset + 12
            _, _, length = tag_and_length(head, offset + 4)
        else:
            break
        count += 1
        if length == UNDEFINED:
            break
        offset, last = value + length, tag
    return count
