"""Frames of stored objects as arrays of pixels; of the object only the header and the frame are read.

Knows files and codecs, no pages. What cannot be shown is a `FrameError` with the reason, which holds no patient data.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeVar, cast

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicomflow.archive.pixels.codecs import DECODERS, RLE
from dicomflow.archive.pixels.described import (
    colors_of,
    frame_bits,
    number_of,
    number_of_frame,
    readable_number,
    side_of,
)
from dicomflow.archive.pixels.offsets import FrameTable, read_fragments
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.bucket.ranged import RangedFile
from dicomflow.dicom.codestream import is_larger
from dicomflow.dicom.encoding import BIG_ENDIAN, EXPLICIT, IMPLICIT
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.quiet import without_warnings
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomflow.dicom.walk import DataSet
from dicomflow.errors import PeerError
from dicomflow.extras import how_to_install

__all__ = [
    "MAX_WHOLE_BYTES",
    "Frame",
    "Opened",
    "decode_samples",
    "open_file",
    "open_object",
    "read_frame",
    "usual_window",
]

_Present = TypeVar("_Present")

MAX_FRAME_BYTES: Final = 256 << 20
MAX_WHOLE_BYTES: Final = 64 << 20
"""Objects up to this size are read whole where a part of them does not do."""
_PIXEL_DATA: Final = 0x7FE00010
_FLOAT_PIXELS: Final = (0x7FE00008, 0x7FE00009)
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM_HEADER_BYTES: Final = 8
_HEAD_BYTES: Final = 64 << 10
# An enhanced object has some dozens for each frame before its pixels.
_MAX_ELEMENTS: Final = 5_000_000
_SYNTAXES: Final = {
    IMPLICIT: IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT: EXPLICIT_VR_LITTLE_ENDIAN,
    BIG_ENDIAN: EXPLICIT_VR_BIG_ENDIAN,
}
_TAILS_PERCENT: Final = (0.5, 99.5)
_UNCOMPRESSED: Final = frozenset(_SYNTAXES.values())
_ABOUT_PIXELS: Final = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored object whose header is read; `value_at` is where the pixel data's value begins."""

    file: io.IOBase
    dataset: Dataset
    transfer_syntax_uid: str
    value_at: int
    value_bytes: int

    @property
    def frames(self) -> int:
        """How many frames there are; one where the data set's number is none."""
        try:
            return max(1, number_of(self.dataset, "NumberOfFrames", 1))
        except FrameError:
            return 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, decoded: rows and columns, and with colours three samples of eight bits.

    Greys are what the modality measured: `slope` and `intercept` are applied. `center` and `width` are the window
    that the object asks for, or that shows what is no padding; None where it asks for none and has no padding.
    """

    pixels: Any  # an array of numpy, which is an extra
    is_color: bool
    is_inverted: bool
    center: float | None
    width: float | None


def open_object(store: ObjectStore, object_key: str) -> Opened:
    """Read the header of a stored object, up to its pixel data.

    Raises:
        FrameError: there is no such object, it is no DICOM, or it has no pixel data.
    """
    return open_file(lambda: RangedFile.of_object(store, object_key))


def open_file(find: Callable[[], RangedFile]) -> Opened:
    """Do the same for a file that is read by ranges.

    Args:
        find: gives the file; raises as reading it does.
    """
    try:
        file: io.IOBase = find()
        opened = _open(file)
        if opened.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            return _open_deflated(file)
    except FileNotFoundError as error:
        raise FrameError("the object is not in the store") from error
    except BaseError as error:
        raise FrameError(f"the store does not answer: {type(error).__name__}") from error
    except InvalidDicomError as error:
        raise FrameError("the object is no DICOM file") from error
    except FrameError:
        raise
    except Exception as error:  # pydicom raises anything on a broken header
        raise FrameError(f"the object cannot be read: {type(error).__name__}") from error
    return opened


def read_frame(opened: Opened, index: int) -> Frame:
    """Decode one frame; the first is 0.

    Raises:
        FrameError: there is no such frame, its syntax or colours are not known here, or it is broken.
    """
    return _decoded(opened, index, lambda samples: _presented(opened.dataset, index, samples))


def decode_samples(opened: Opened, index: int) -> Any:
    """Decode one frame to an array of its samples: greys or indexes as they were coded, colours as RGB.

    Raises:
        FrameError: as `read_frame`.
    """
    return _decoded(opened, index, lambda samples: samples)


def _decoded(opened: Opened, index: int, present: Callable[[Any], _Present]) -> _Present:
    if not 0 <= index < opened.frames:
        raise FrameError(f"there is no frame {index + 1}: the object has {opened.frames}")
    dataset = opened.dataset
    if not opened.value_bytes:
        raise FrameError("the object has no pixel data")
    try:
        with without_warnings():
            _check_size(dataset)
            return present(_decode(opened, index))
    except FrameError:
        raise
    except ImportError as error:
        raise FrameError(f"frames: {how_to_install('console')}") from error
    except BaseError as error:
        raise FrameError(f"the store does not answer: {type(error).__name__}") from error
    except Exception as error:  # codecs raise anything on broken pixels; the frame is then none
        raise FrameError(f"the pixel data cannot be read: {type(error).__name__}") from error


def _check_size(dataset: Dataset) -> None:
    size = frame_bits(dataset) // 8
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size:,} bytes exceeds the {MAX_FRAME_BYTES:,} shown here")


def _open(file: io.IOBase) -> Opened:
    """Read a header by the walk of receiver and index, so that an odd object is shown as it is indexed."""
    source = cast("BinaryIO", file)
    try:
        meta = decode_file_meta(source.read(_HEAD_BYTES))
    except PeerError as error:
        raise FrameError("the object is no DICOM file") from error
    declared = meta.transfer_syntax_uid
    if declared == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return Opened(file, Dataset(), declared, 0, 0)
    source.seek(meta.data_set_offset)
    data_set = DataSet(source, declared, _MAX_ELEMENTS)
    encoding = data_set.encoding
    syntax = _SYNTAXES[encoding] if declared in _UNCOMPRESSED else declared
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    at = length = 0
    for element in data_set.elements():
        if element.tag in _FLOAT_PIXELS:
            raise FrameError("pixels in floating point are not shown")
        if element.tag == _PIXEL_DATA:
            at, length = meta.data_set_offset + element.value, element.length
            break
        size = element.stop - element.value
        if size <= MAX_WHOLE_BYTES:
            tag, value = BaseTag(element.tag), data_set.read(element.value, size)
            found[tag] = RawDataElement(
                tag, element.vr or None, size, value, 0, encoding.is_implicit, encoding.is_little_endian
            )
    dataset = Dataset(found)
    dataset.set_original_encoding(encoding.is_implicit, encoding.is_little_endian)
    return Opened(file, dataset, syntax, at, length)


def _open_deflated(file: io.IOBase) -> Opened:
    """Read an object whole that can only be inflated from its beginning."""
    file.seek(0)
    with without_warnings():
        dataset = dcmread(io.BytesIO(_whole(file)))
    pixels = bytes(dataset.get("PixelData") or b"")
    return Opened(io.BytesIO(pixels), dataset, EXPLICIT_VR_LITTLE_ENDIAN, 0, len(pixels))


def _decode(opened: Opened, index: int) -> Any:
    """Return a frame's samples as they were coded, colours as RGB or greys."""
    syntax = opened.transfer_syntax_uid
    if syntax in _UNCOMPRESSED:
        return _native(opened, index)
    if syntax != RLE and syntax not in DECODERS:
        raise FrameError(f"transfer syntax {UID(syntax).name} is not shown")
    if opened.value_bytes != _UNDEFINED_LENGTH:
        raise FrameError("the compressed pixel data has no items")
    if syntax == RLE:
        return _by_pydicom(opened, encapsulate([_encoded(opened, index)]))
    return _by_codec(opened, DECODERS[syntax], _encoded(opened, index))


def _native(opened: Opened, index: int) -> Any:
    bits = frame_bits(opened.dataset)
    if bits % 8:  # frames of one bit a pixel may begin within a byte
        opened.file.seek(opened.value_at)
        pixels = opened.file.read(min(opened.value_bytes, MAX_WHOLE_BYTES))
        every = _by_pydicom(opened, pixels, frames=opened.frames)
        return every[index] if opened.frames > 1 else every
    length = bits // 8
    opened.file.seek(opened.value_at + index * length)
    pixels = opened.file.read(length)
    if len(pixels) < length or (index + 1) * length > opened.value_bytes:
        raise FrameError("the pixel data ends before the frame does")
    return _by_pydicom(opened, pixels + b"\0" * (length % 2))


def _by_pydicom(opened: Opened, pixels: bytes, frames: int = 1) -> Any:
    """Let pydicom unpack samples: planes, bits, byte order, RLE segments, YBR to RGB."""
    part = Dataset()
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = UID(opened.transfer_syntax_uid)
    part.PhotometricInterpretation = colors_of(opened.dataset)
    for keyword in _ABOUT_PIXELS:
        if keyword in opened.dataset:
            setattr(part, keyword, number_of(opened.dataset, keyword, 0))
    part.NumberOfFrames = frames
    part.set_original_encoding(
        is_implicit_vr=opened.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
        is_little_endian=opened.transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
    )
    part.add_new(_PIXEL_DATA, "OB" if int(part.get("BitsAllocated", 8)) <= 8 else "OW", pixels)
    part["PixelData"].is_undefined_length = opened.value_bytes == _UNDEFINED_LENGTH
    return pixel_array(part)


def _encoded(opened: Opened, index: int) -> bytes:
    """Return the compressed bytes of a frame."""
    extended = None
    if "ExtendedOffsetTable" in opened.dataset and "ExtendedOffsetTableLengths" in opened.dataset:
        extended = (opened.dataset.ExtendedOffsetTable, opened.dataset.ExtendedOffsetTableLengths)
    table = FrameTable(opened.file, opened.value_at, opened.frames, extended)
    return read_fragments(opened.file, table.fragments(index), MAX_FRAME_BYTES)


def _by_codec(opened: Opened, name: str, encoded: bytes) -> Any:
    import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
    import numpy as np  # noqa: PLC0415  # an extra

    colors = colors_of(opened.dataset)
    said = side_of(opened.dataset, "Columns") * side_of(opened.dataset, "Rows")
    if is_larger(encoded, said):
        raise FrameError(f"the compressed frame is much larger than the {said:,} pixels that the object tells of")
    decode: Callable[..., Any] = getattr(imagecodecs, name)
    # A JPEG without a marker of its colours is taken for YBR, which some that are RGB are not.
    options = {"colorspace": "RGB", "outcolorspace": "RGB"} if name == "jpeg8_decode" and colors == "RGB" else {}
    pixels = decode(encoded, **options)
    if pixels.ndim == 3 and name in {"ljpeg_decode", "jpegls_decode"} and colors.startswith("YBR_FULL"):
        return convert_color_space(pixels, "YBR_FULL", "RGB")
    stored = number_of(opened.dataset, "BitsStored", 0)
    if number_of(opened.dataset, "PixelRepresentation", 0) and pixels.dtype.kind == "u" and stored:
        # The codec gives the bits; the sign is in the highest of those that are stored.
        sign = 1 << (stored - 1)
        wide = pixels.astype(np.int32) & ((1 << stored) - 1)
        return (wide ^ sign) - sign
    return pixels


def _presented(dataset: Dataset, index: int, pixels: Any) -> Frame:
    """Turn samples into what is looked at: modality values, or colours of eight bits (PS3.3 C.11.1, C.7.6.3.1.2)."""
    import numpy as np  # noqa: PLC0415  # an extra

    colors = colors_of(dataset)
    if colors == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        if pixels.dtype.itemsize > 1:
            pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3:
        stored = number_of(dataset, "BitsStored", 8)
        shown = pixels if stored <= 8 or pixels.dtype.itemsize == 1 else pixels >> (stored - 8)
        return Frame(shown[..., :3].astype(np.uint8), True, False, None, None)
    slope = number_of_frame(dataset, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = number_of_frame(dataset, index, "PixelValueTransformationSequence", "RescaleIntercept")
    values = pixels.astype(np.float32)
    if slope is not None or intercept is not None:
        values = values * np.float32(1.0 if slope is None else slope) + np.float32(intercept or 0.0)
    center = number_of_frame(dataset, index, "FrameVOILUTSequence", "WindowCenter")
    width = number_of_frame(dataset, index, "FrameVOILUTSequence", "WindowWidth")
    if center is None or width is None or width < 1:
        measured = _measured(dataset, pixels)
        center, width = (None, None) if measured is None else usual_window(values[measured])
    return Frame(values, False, colors == "MONOCHROME1", center, width)


def _measured(dataset: Dataset, pixels: Any) -> Any:
    """Return where a frame has pixels that are no padding (PS3.3 C.7.5.1.1.2); None where all are, or none."""
    padding, limit = (readable_number(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if padding is None:
        return None
    low, high = sorted((padding, padding if limit is None else limit))
    found = (pixels < low) | (pixels > high)
    return found if found.any() and not found.all() else None


def usual_window(values: Any) -> tuple[float, float]:
    """Return center and width of a window that shows nearly all values."""
    import numpy as np  # noqa: PLC0415  # an extra

    low, high = (float(value) for value in np.percentile(values, _TAILS_PERCENT))
    return (low + high) / 2, high - low


def _whole(file: io.IOBase) -> bytes:
    """Read the rest of a file that is not too large for it."""
    size = file.seek(0, io.SEEK_END) if not isinstance(file, RangedFile) else file.size
    at = file.tell() if isinstance(file, RangedFile) else 0
    if size - at > MAX_WHOLE_BYTES:
        raise FrameError(
            f"an object of {size:,} bytes without a table of its frames exceeds the {MAX_WHOLE_BYTES:,} read whole"
        )
    file.seek(at)
    found: bytes = file.read()
    return found
