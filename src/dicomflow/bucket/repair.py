"""What a repair has made of a hidden image set: a note beside the jobs' outputs, so that a catalog is rebuilt true.

`imports/repaired/{datastore}/{image set}.json`, JSON in UTF-8. Ids and versions only, and no value of an element.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from dicomflow.errors import PermanentError

__all__ = ["FORMAT", "ImageSetState", "RepairNote", "decode", "encode"]

FORMAT: Final = 1
_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-z]{1,64}$")]


@dataclass(frozen=True, slots=True)
class ImageSetState:
    """An image set as the service has it after the repair; None for what it does not say."""

    image_set_id: _Id
    version: Annotated[int, Field(ge=0)] | None
    is_primary: bool | None


@dataclass(frozen=True, slots=True)
class RepairNote:
    """What `image_set_id` held is visible in `primary_image_set_id`; `image_sets` are those of its study.

    What came into the image sets `rejected` has other values of `elements` than those that somebody decided for.
    """

    datastore_id: _Id
    image_set_id: _Id
    primary_image_set_id: _Id
    image_sets: tuple[ImageSetState, ...]
    rejected: tuple[_Id, ...] = ()
    elements: tuple[str, ...] = ()
    format: int = FORMAT


def encode(note: RepairNote) -> bytes:
    """Encode a note."""
    return _adapter().dump_json(note)


def decode(encoded: bytes) -> RepairNote:
    """Decode a note.

    Raises:
        PermanentError: it is none of this format; the text shows no value of it.
    """
    try:
        note = _adapter().validate_json(encoded)
    except (ValidationError, RecursionError):
        raise PermanentError(f"no note of a repair of format {FORMAT}") from None
    if note.format != FORMAT:
        raise PermanentError(f"a note of a repair of format {note.format}, not {FORMAT}")
    return note


@cache
def _adapter() -> TypeAdapter[RepairNote]:
    return TypeAdapter(RepairNote)
