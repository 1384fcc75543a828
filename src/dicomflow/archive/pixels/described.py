"""What a data set says of its pixels, read as far as it can be: in a received object anything may stand anywhere."""

import math
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as PydicomSequence

from dicomflow.archive.pixels.picture import FrameError

__all__ = ["colors_of", "frame_bits", "number_of", "number_of_frame", "readable_number", "side_of"]


def number_of_frame(dataset: Dataset, index: int, sequence: str, keyword: str) -> float | None:
    """Return a number of the data set, or of the frame's functional group (PS3.3 C.7.6.16).

    None where there is none, or what stands there is none: the picture is then shown without it.
    """
    groups = [dataset]
    per_frame = _items(dataset, "PerFrameFunctionalGroupsSequence")
    for group in [*_items(dataset, "SharedFunctionalGroupsSequence")[:1], *per_frame[index : index + 1]]:
        groups += _items(group, sequence)[:1]
    found = [number for group in groups if (number := readable_number(group, keyword)) is not None]
    return found[-1] if found else None


def readable_number(dataset: Dataset, keyword: str) -> float | None:
    """Return a number of one data set; None where there is none, or what stands there is none."""
    try:
        number = float(_first(dataset, keyword))
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _first(dataset: Dataset, keyword: str) -> Any:
    """Return a value, the first of several; raises `ValueError` where it cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception as error:  # pydicom raises anything on a broken value
        raise ValueError(keyword) from error
    return value[0] if isinstance(value, MultiValue) and value else value


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; none where there is none, or what stands there cannot be read."""
    try:
        found = dataset.get(keyword)
    except Exception:  # noqa: BLE001  # as above
        return []
    return found if isinstance(found, PydicomSequence) else []


def number_of(dataset: Dataset, keyword: str, default: int) -> int:
    """Return a whole number of the data set, the first where there are several; the default where it is empty.

    Raises:
        FrameError: what stands there is no number.
    """
    try:
        value = _first(dataset, keyword)
        return default if value in (None, "") else int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise FrameError(f"{keyword} is no number") from error


def colors_of(dataset: Dataset) -> str:
    """Return the Photometric Interpretation; grey where there is none."""
    try:
        return str(_first(dataset, "PhotometricInterpretation") or "MONOCHROME2").strip()
    except ValueError:
        return "MONOCHROME2"


def frame_bits(dataset: Dataset) -> int:
    """Return the bits of an uncompressed frame; YBR_FULL_422 has two samples a pixel (PS3.3 C.7.6.3.1.2)."""
    samples = number_of(dataset, "SamplesPerPixel", 1) or 1
    if colors_of(dataset) == "YBR_FULL_422":
        samples = 2
    return (
        side_of(dataset, "Rows") * side_of(dataset, "Columns") * samples * (number_of(dataset, "BitsAllocated", 8) or 8)
    )


def side_of(dataset: Dataset, keyword: str) -> int:
    """Return Rows or Columns; raises `FrameError` where they are no size."""
    found = number_of(dataset, keyword, 0)
    if found <= 0:
        raise FrameError(f"the object has no {keyword}")
    return found
