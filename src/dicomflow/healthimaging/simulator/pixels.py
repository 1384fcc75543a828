"""Pixels of a stored file as the service keeps them: lossless HTJ2K, or as they are where it does not transcode.

HealthImaging Developer Guide, "Supported transfer syntaxes". Needs the extra `simulator` (imagecodecs, numpy); this is
the only module that does.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError

from dicomflow.dicom.codestream import is_larger
from dicomflow.dicom.quiet import without_warnings
from dicomflow.extras import how_to_install

__all__ = [
    "DEFAULT_CONTENT_TYPE",
    "STORED_AS_THEY_ARE",
    "UNCOMPRESSED",
    "Frame",
    "PixelsError",
    "decode_frames",
    "encode_frames",
]

DEFAULT_CONTENT_TYPE: Final = "image/jph"
RESOLUTIONS: Final = 5
"""Levels below the full resolution, each of half the size."""
_ROOT: Final = "1.2.840.10008.1.2."
STORED_AS_THEY_ARE: Final[Mapping[str, str]] = MappingProxyType(
    {
        _ROOT + "4.50": "image/jpeg",
        _ROOT + "4.91": "image/j2c",
        _ROOT + "4.112": "image/jxl",
        _ROOT + "4.203": "image/jphc",
        **{_ROOT + suffix: "video/mpeg" for suffix in ("4.100", "4.100.1", "4.101", "4.101.1")},
        **{_ROOT + f"4.{number}{fragment}": "video/mp4" for number in range(102, 107) for fragment in ("", ".1")},
        **{_ROOT + suffix: "video/H256" for suffix in ("4.107", "4.108")},  # the service's own spelling
    }
)
# The codec of imagecodecs that reads each syntax; those without compression and RLE are read here.
DECODERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _ROOT + "4.51": "jpeg_decode",
        _ROOT + "4.57": "ljpeg_decode",
        _ROOT + "4.70": "ljpeg_decode",
        _ROOT + "4.80": "jpegls_decode",
        _ROOT + "4.81": "jpegls_decode",
        _ROOT + "4.90": "jpeg2k_decode",
        _ROOT + "4.92": "jpeg2k_decode",
        _ROOT + "4.93": "jpeg2k_decode",
        _ROOT + "4.201": "htj2k_decode",
        _ROOT + "4.202": "htj2k_decode",
    }
)
RLE: Final = _ROOT + "5"
UNCOMPRESSED: Final = frozenset({"1.2.840.10008.1.2", _ROOT + "1", _ROOT + "1.99", _ROOT + "2"})


class PixelsError(Exception):
    """The pixels of a file cannot be had as frames; the text says why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `entry` is what the metadata says of it besides its id."""

    encoded: bytes
    content_type: str
    entry: Mapping[str, Any]


def encode_frames(file: bytes) -> Iterator[Frame]:
    """Yield the frames of a Part 10 file; one without pixels has none.

    Raises:
        PixelsError: a codec is missing, or fails.
    """
    try:
        with without_warnings():
            dataset = dcmread(io.BytesIO(file))
    except InvalidDicomError as error:
        raise PixelsError("the file is no DICOM") from error
    if "PixelData" not in dataset:
        return
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax in STORED_AS_THEY_ARE:
        for encoded in _fragments(dataset):
            yield Frame(encoded, STORED_AS_THEY_ARE[syntax], {"FrameSizeInBytes": len(encoded)})
    elif syntax in UNCOMPRESSED and dataset.get("BitsAllocated") == 1:  # a binary segmentation
        yield Frame(dataset.PixelData, "application/octet-stream", {"FrameSizeInBytes": len(dataset.PixelData)})
    else:
        for pixels in _decoded(dataset, syntax):
            yield _transcoded(pixels)


def decode_frames(dataset: Dataset) -> Iterator[Any]:
    """Yield the frames of a data set as arrays; raises as `encode_frames`."""
    yield from _decoded(dataset, str(dataset.file_meta.get("TransferSyntaxUID", "")))


def _transcoded(pixels: Any) -> Frame:
    encode, decode = _codec("htj2k_encode"), _codec("htj2k_decode")
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"))  # the codec takes the bytes as they lie
    try:
        encoded = bytes(encode(pixels, reversible=True, resolutions=RESOLUTIONS))
        levels = [decode(encoded, skipres=level) for level in range(RESOLUTIONS, 0, -1)] + [pixels]
    except (RuntimeError, ValueError, TypeError) as error:
        raise PixelsError(f"HTJ2K: {type(error).__name__}") from error
    checksums = [
        {"Width": level.shape[1], "Height": level.shape[0], "Checksum": zlib.crc32(level.tobytes())}
        for level in levels
        if level.ndim >= 2
    ]
    entry = {
        "PixelDataChecksumFromBaseToFullResolution": checksums,
        "MinPixelValue": int(pixels.min()),
        "MaxPixelValue": int(pixels.max()),
        "FrameSizeInBytes": len(encoded),
    }
    return Frame(encoded, DEFAULT_CONTENT_TYPE, entry)


def _decoded(dataset: Dataset, syntax: str) -> Iterator[Any]:
    """Yield each frame as an array of rows, columns and, with colours, samples."""
    if syntax not in DECODERS:
        if syntax not in UNCOMPRESSED and syntax != RLE:
            raise PixelsError(f"transfer syntax {syntax} is kept as it is")
        yield from _native(dataset)
        return
    decode = _codec(DECODERS[syntax])
    said = _pixels(dataset)
    for encoded in _fragments(dataset):
        if is_larger(encoded, said):
            raise PixelsError(f"a frame is much larger than the {said:,} pixels that the file tells of")
        try:
            yield decode(encoded)
        except (RuntimeError, ValueError, TypeError) as error:
            raise PixelsError(f"{DECODERS[syntax]}: {type(error).__name__}") from error


def _native(dataset: Dataset) -> Iterator[Any]:
    _codec("htj2k_encode")  # without the extra there is no numpy either
    try:
        with without_warnings():
            pixels = dataset.pixel_array
    except Exception as error:  # pydicom raises anything on broken pixels; they are then no frames
        raise PixelsError(f"the pixel data cannot be read: {type(error).__name__}") from error
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        yield from pixels
    else:
        yield pixels


def _pixels(dataset: Dataset) -> int:
    try:
        return int(dataset.Rows) * int(dataset.Columns)
    except (AttributeError, ValueError, TypeError) as error:
        raise PixelsError("Rows and Columns are no numbers") from error


def _fragments(dataset: Dataset) -> Iterator[bytes]:
    try:
        yield from generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    except (ValueError, TypeError) as error:
        raise PixelsError(f"the fragments cannot be read: {type(error).__name__}") from error


def _codec(name: str) -> Callable[..., Any]:
    try:
        import imagecodecs  # noqa: PLC0415  # an extra, and 60 MB
    except ImportError as error:
        raise PixelsError(f"frames: {how_to_install('simulator')}") from error
    codec: Callable[..., Any] = getattr(imagecodecs, name)
    return codec
