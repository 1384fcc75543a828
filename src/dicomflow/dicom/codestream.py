"""The size that a compressed frame says of itself, read from its first marker segments without decoding anything."""

from typing import Final

__all__ = ["codestream_size", "is_larger"]

_SOI: Final = b"\xff\xd8"
_SOC: Final = b"\xff\x4f"
_SIZ: Final = b"\xff\x51"
_SOS: Final = 0xDA
_MARKER: Final = 0xFF
# Start of frame: ITU-T T.81 B.1.1.3, but DHT (C4), JPG (C8) and DAC (CC), which lie between; F7 is that of JPEG-LS.
_SOF: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
# Markers without a segment behind them: TEM, RST0 to RST7, SOI.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# JPEG 2000 in a file of boxes (ISO/IEC 15444-1 Annex I); what comes before the codestream is short.
_JP2: Final = b"\0\0\0\x0cjP  "
_BOXES_BYTES: Final = 64 << 10
# A codestream may be padded, and what is small does no harm.
_PADDED: Final = 2
_ANY_PIXELS: Final = 1 << 20


def is_larger(encoded: bytes, pixels: int) -> bool:
    """Tell whether a frame decodes to much more than the pixels that are expected: a few bytes can be gigabytes."""
    columns, rows = codestream_size(encoded) or (0, 0)
    return columns * rows > max(_PADDED * pixels, _ANY_PIXELS)


def codestream_size(encoded: bytes) -> tuple[int, int] | None:
    """Return columns and rows of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame; None where it does not say, or is none."""
    if encoded[:2] == _SOI:
        return _of_jpeg(encoded)
    start = 0
    if encoded[:8] == _JP2:
        start = encoded.find(_SOC + _SIZ, 0, _BOXES_BYTES)
    if start >= 0 and encoded[start : start + 4] == _SOC + _SIZ:
        return _of_jpeg_2000(encoded[start + 4 : start + 4 + 36])
    return None


def _of_jpeg(encoded: bytes) -> tuple[int, int] | None:
    """Walk the marker segments up to the frame header (ITU-T T.81 B.2.2): length, precision, lines, samples a line."""
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == _MARKER:
        marker = encoded[at + 1]
        if marker == _MARKER:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _SOF:
            if at + 9 > len(encoded):
                return None
            return int.from_bytes(encoded[at + 7 : at + 9], "big"), int.from_bytes(encoded[at + 5 : at + 7], "big")
        elif marker == _SOS:
            return None
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


def _of_jpeg_2000(segment: bytes) -> tuple[int, int] | None:
    """Read SIZ (ISO/IEC 15444-1 A.5.1): length, capabilities, then the grid's size and the image's offset in it."""
    if len(segment) < 20:
        return None
    width, height, left, top = (int.from_bytes(segment[at : at + 4], "big") for at in range(4, 20, 4))
    return max(0, width - left), max(0, height - top)
