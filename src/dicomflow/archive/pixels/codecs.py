"""Which codec reads each transfer syntax; imports none of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

__all__ = ["DECODERS", "LOSSY", "RLE", "UNCOMPRESSED", "is_convertible"]

UNCOMPRESSED: Final = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    }
)
RLE: Final = "1.2.840.10008.1.2.5"
_JPEG: Final = "1.2.840.10008.1.2.4."
# The codec of imagecodecs that reads each syntax; what has no compression and RLE is pydicom's.
DECODERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _JPEG + "50": "jpeg8_decode",
        _JPEG + "51": "jpeg_decode",
        _JPEG + "57": "ljpeg_decode",
        _JPEG + "70": "ljpeg_decode",
        _JPEG + "80": "jpegls_decode",
        _JPEG + "81": "jpegls_decode",
        _JPEG + "90": "jpeg2k_decode",
        _JPEG + "91": "jpeg2k_decode",
        _JPEG + "92": "jpeg2k_decode",
        _JPEG + "93": "jpeg2k_decode",
        _JPEG + "110": "jpegxl_decode",
        _JPEG + "111": "jpegxl_decode",
        _JPEG + "112": "jpegxl_decode",
        _JPEG + "201": "htj2k_decode",
        _JPEG + "202": "htj2k_decode",
        _JPEG + "203": "htj2k_decode",
    }
)
LOSSY: Final = frozenset(_JPEG + last for last in ("50", "51", "81", "91", "93", "111", "112", "203"))
"""Syntaxes whose pixels are, or may be, only what a lossy compression left of them."""


def is_convertible(transfer_syntax_uid: str) -> bool:
    """Tell whether objects of a transfer syntax can be written in Explicit VR Little Endian by some codec."""
    return transfer_syntax_uid in UNCOMPRESSED or transfer_syntax_uid == RLE or transfer_syntax_uid in DECODERS
