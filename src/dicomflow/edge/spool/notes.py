"""Notes beside a segment: how far it is unpacked, which the deliverer writes, and how far it is written, the worker's.

A note is not synced, and power loss may take it: then a segment is unpacked again from its beginning. It is always as
long, so it is never there in part; it holds the segment's key, since a block may hold what another note said, and a
checksum, since what it says is believed.
"""

import contextlib
import os
import zlib
from pathlib import Path
from typing import Final

from dicomflow.regularfiles import open_descriptor, read_regular

__all__ = [
    "SEGMENT",
    "SUFFIXES",
    "discard_notes",
    "key_of",
    "open_end",
    "read_end",
    "read_offset",
    "write_end",
    "write_offset",
]

SEGMENT: Final = ".segment"
_AT: Final = ".at"
_END: Final = ".end"
SUFFIXES: Final = (_AT, _END)
_FLAGS: Final = os.O_WRONLY | os.O_CREAT
# Key, offset and checksum in hex and digits, with blanks between them.
_BYTES: Final = 46


def key_of(segment: Path) -> bytes:
    """Return the key of a segment, as its name tells it."""
    return bytes.fromhex(segment.stem.partition("-")[2])


def read_offset(segment: Path) -> int:
    """Return how far a segment is unpacked; 0 when nobody knows."""
    return _read(segment, _AT)


def write_offset(segment: Path, offset: int) -> None:
    """Note how far a segment is unpacked."""
    descriptor = open_descriptor(segment.with_suffix(_AT), _FLAGS)
    try:
        _write(descriptor, key_of(segment), offset)
    finally:
        os.close(descriptor)


def read_end(segment: Path) -> int:
    """Return the end of the last record that was acknowledged; 0 when nobody knows."""
    return _read(segment, _END)


def open_end(segment: Path) -> int:
    """Begin the note of how far a segment is written, and return its descriptor. Raises `OSError`."""
    return open_descriptor(segment.with_suffix(_END), _FLAGS)


def write_end(descriptor: int, key: bytes, end: int) -> None:
    """Note how far a segment is written; it is done without where that fails."""
    with contextlib.suppress(OSError):
        _write(descriptor, key, end)


def discard_notes(segment: Path) -> None:
    """Remove the notes of a segment that is no more."""
    for suffix in SUFFIXES:
        segment.with_suffix(suffix).unlink(missing_ok=True)


def _write(descriptor: int, key: bytes, offset: int) -> None:
    os.pwrite(descriptor, _encode(key, offset), 0)


def _encode(key: bytes, offset: int) -> bytes:
    text = b"%s %020d" % (key.hex().encode(), offset)
    return b"%s %08x" % (text, zlib.crc32(text))


def _read(segment: Path, suffix: str) -> int:
    try:
        note = read_regular(segment.with_suffix(suffix), _BYTES)
        offset = int(note[17:37])
        return offset if note == _encode(key_of(segment), offset) else 0
    except (OSError, ValueError):
        return 0
