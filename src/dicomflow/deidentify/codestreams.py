"""Comments in compressed frames: blanked where they stand, so that no length and no offset changes.

A JPEG's COM and APPn segments (ITU-T T.81 B.2.4), a JPEG 2000's COM (ISO/IEC 15444-1 A.9.2) and what stands behind a
frame's end may hold any text. What cannot be walked through to its end is refused. Nothing is decoded.
"""

import re
import struct
from typing import Final

from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomflow.errors import PeerError

__all__ = ["blank_comments", "holds_no_text", "is_known_syntax", "is_looked_through"]

_ARC: Final = IMPLICIT_VR_LITTLE_ENDIAN
_JPEG: Final = frozenset(f"{_ARC}.4.{last}" for last in (*range(50, 67), 70, 80, 81))
_JPEG_2000: Final = frozenset(f"{_ARC}.4.{last}" for last in (90, 91, 92, 93, 201, 202, 203))
_WITHOUT_TEXT: Final = frozenset({f"{_ARC}.5", f"{_ARC}.8.1"})  # RLE, and frames that are deflated
_UNCOMPRESSED: Final = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    }
)
_SOI: Final = b"\xff\xd8"
_SOC: Final = b"\xff\x4f"
# A marker within entropy-coded data: neither a stuffed byte (of JPEG or JPEG-LS) nor a restart marker.
_NEXT_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_COM: Final = 0xFE
_SOT: Final = 0x90
_SOD: Final = 0x93
_EOC: Final = 0xD9
_COM_2000: Final = 0x64
# What decoders need: JFIF without a thumbnail, Adobe's colour transform, and HP's for JPEG-LS.
_NEEDED: Final = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14), 0xE8: (b"mrfx", 7)}
_short: Final = struct.Struct(">H").unpack_from
_long: Final = struct.Struct(">I").unpack_from


def is_looked_through(transfer_syntax_uid: str) -> bool:
    """Tell whether comments can be found in frames of a transfer syntax."""
    return transfer_syntax_uid in _JPEG or transfer_syntax_uid in _JPEG_2000


def holds_no_text(transfer_syntax_uid: str) -> bool:
    """Tell whether frames of a transfer syntax have no place for text."""
    return transfer_syntax_uid in _WITHOUT_TEXT


def is_known_syntax(transfer_syntax_uid: str) -> bool:
    """Tell whether it is known where an object of a transfer syntax may hold text."""
    is_native = transfer_syntax_uid in _UNCOMPRESSED
    return is_native or is_looked_through(transfer_syntax_uid) or holds_no_text(transfer_syntax_uid)


def blank_comments(frame: bytearray) -> None:
    """Overwrite the comments of one frame.

    Raises:
        PeerError: it is no JPEG, JPEG-LS or JPEG 2000 codestream, or it ends before its end.
    """
    try:
        if frame[:2] == _SOI:
            end = _blank_jpeg(frame)
        elif frame[:2] == _SOC:
            end = _blank_jpeg_2000(frame)
        else:
            raise PeerError("a compressed frame begins with no codestream")
    except (IndexError, struct.error) as error:
        raise PeerError("a compressed frame ends before its end") from error
    frame[end:] = bytes(len(frame) - end)


def _blank_jpeg(frame: bytearray) -> int:
    """Blank a JPEG's or JPEG-LS's segments, those between its scans too; return the offset behind it."""
    at = 2
    while True:
        if frame[at] != 0xFF:
            raise PeerError("a compressed frame has something else where a marker should stand")
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _EOI:
            return at + 2
        if marker in _ALONE:
            at += 2
            continue
        (length,) = _short(frame, at + 2)
        stop = at + 2 + length
        if length < 2 or stop > len(frame):
            raise PeerError("a segment of a compressed frame runs past it")
        if marker == _COM or (0xE0 <= marker <= 0xEF and not _is_needed(frame, at, marker, length)):
            frame[at + 4 : stop] = bytes(length - 2)
        at = stop
        if marker == _SOS:
            found = _NEXT_MARKER.search(frame, at)
            if found is None:
                raise PeerError("a compressed frame ends before its end")
            at = found.start()


def _is_needed(frame: bytearray, at: int, marker: int, length: int) -> bool:
    name, size = _NEEDED.get(marker, (b"", 0))
    return length == size and frame[at + 4 : at + 4 + len(name)] == name and bool(name)


def _blank_jpeg_2000(frame: bytearray) -> int:
    """Blank the comments of the main header and of each tile-part's; return the offset behind the codestream."""
    at = 2
    tile_part_end = 0
    while True:
        if frame[at] != 0xFF:
            raise PeerError("a compressed frame has something else where a marker should stand")
        marker = frame[at + 1]
        if marker == _EOC:
            return at + 2
        if marker == _SOD:
            at = tile_part_end
            continue
        (length,) = _short(frame, at + 2)
        stop = at + 2 + length
        if length < 2 or stop > len(frame):
            raise PeerError("a segment of a compressed frame runs past it")
        if marker == _COM_2000:
            frame[at + 6 : stop] = b" " * max(0, stop - at - 6)
        elif marker == _SOT:
            (size,) = _long(frame, at + 6)
            # 0: it goes on to the codestream's end, which may have a byte of padding behind it (A.4.2).
            tile_part_end = at + size if size else bytes(frame).rfind(b"\xff\xd9")
            if tile_part_end < stop or tile_part_end + 2 > len(frame):
                raise PeerError("a tile-part of a compressed frame runs past it")
        at = stop
