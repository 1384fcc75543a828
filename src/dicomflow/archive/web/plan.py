"""How an instance is given: as it is stored, or in Explicit VR Little Endian (PS3.18 8.7.3).

Without a transfer syntax Explicit VR Little Endian is meant, decompressed, unless only lossy pixels are there. Implicit
VR and Big Endian are never given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dicomflow.archive.pixels.codecs import LOSSY
from dicomflow.archive.retrieval import StoredInstance
from dicomflow.archive.web.media import DICOM, MediaRange
from dicomflow.dicom.uids import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

__all__ = ["NEVER_GIVEN", "Way", "part_type", "ways_of"]

NEVER_GIVEN: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN})


@dataclass(frozen=True, slots=True)
class Way:
    """How one instance is given: in which transfer syntax, and whether it is converted to that."""

    instance: StoredInstance
    transfer_syntax_uid: str
    is_converted: bool
    is_multipart: bool


def ways_of(
    instance: StoredInstance,
    syntax: str,
    ranges: Sequence[MediaRange],
    can_convert: Callable[[str], bool],
    instances: int,
) -> Way | None:
    """Return the way of an instance by the first range that it can be given in; None where there is none.

    Args:
        instance: what is to be given.
        syntax: that it is stored in.
        ranges: what is accepted, the best first.
        can_convert: whether a syntax can be converted to Explicit VR Little Endian.
        instances: how many are asked for; a single part holds one.
    """
    for each in ranges:
        if not each.takes(DICOM) or (each.is_multipart is False and instances > 1):
            continue
        is_multipart = each.is_multipart is not False
        as_stored = syntax not in NEVER_GIVEN
        plain = Way(instance, EXPLICIT_VR_LITTLE_ENDIAN, syntax != EXPLICIT_VR_LITTLE_ENDIAN, is_multipart)
        stored = Way(instance, syntax, False, is_multipart)
        match each.transfer_syntax:
            case "*":
                if as_stored or can_convert(syntax):
                    return stored if as_stored else plain
            case None if syntax in LOSSY:
                return stored
            case None | "1.2.840.10008.1.2.1":
                if not plain.is_converted or can_convert(syntax):
                    return plain
            case named if named == syntax and as_stored:
                return stored
    return None


def part_type(media_type: str, way: Way) -> str:
    """Return what a part says of itself: its type and transfer syntax."""
    return f"{media_type}; transfer-syntax={way.transfer_syntax_uid}"
