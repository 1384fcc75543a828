"""The record of an instance in a segment: its format alone, and how the records of a segment are found.

A record begins on a page of its own, so no page of an acknowledged instance is written again. It counts if it holds
the segment's key, which is new for each use of the file, and if its bytes have the digest that its name tells.
"""

import contextlib
import errno
import hashlib
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.edge.spool.notes import key_of

__all__ = ["HEAD_BYTES", "KEY_BYTES", "MAX_RECORD_BYTES", "Record", "encode_head", "next_page", "read_records"]

# What is larger gets a file of its own: it costs the disk more than the file does.
MAX_RECORD_BYTES: Final = 64 << 10
_PAGE: Final = 4096
# What the settings allow at most; all pages of one may be looked at.
_MOST_BYTES: Final = 1 << 30
_MAGIC: Final = b"DFR1"
_STRUCK: Final = b"DFR0"  # in the place of the magic: the record was not acknowledged and counts for nothing
# Magic, key of the segment, when received (nanoseconds since the epoch), lengths of content and name, and the CRC-32
# of these and the name; big endian.
_HEADER: Final = struct.Struct(">4s8sQIHI")
_CRC_BYTES: Final = 4
KEY_BYTES: Final = 8
HEAD_BYTES: Final = _HEADER.size
# It becomes a file's.
_NAME: Final = re.compile(rb"[0-9A-Za-z_.-]{1,250}")


@dataclass(frozen=True, slots=True)
class Record:
    """An instance in a segment: its file's name without suffix, its bytes, when they came, and its place.

    A page with the head of a record that cannot be read any more is one without a name; so is one that was struck.
    """

    name: str
    content: bytes
    received_at_ns: int
    start: int
    end: int
    is_struck: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the bytes have the digest that the name tells."""
        return hashlib.sha256(self.content).hexdigest() == self.name.rpartition("_")[2]


def encode_head(key: bytes, name: bytes, length: int, *, is_struck: bool = False) -> bytes:
    """Return the header of a record with this name and length of its content, as of now.

    The field has no time before the epoch, which a clock that was never set may show: that is the epoch here.
    """
    received_at_ns = max(0, time.time_ns())
    fields = _HEADER.pack(_STRUCK if is_struck else _MAGIC, key, received_at_ns, length, len(name), 0)[:-_CRC_BYTES]
    return fields + zlib.crc32(fields + name).to_bytes(_CRC_BYTES, "big")


def read_records(segment: BinaryIO, start: int = 0, *, is_complete: bool = True, settled: int = 0) -> Iterator[Record]:
    """Yield the records of an open segment, whole, struck or not, from one that begins at `start`.

    Of a segment that is being written they end where none follows behind `settled`, the end of the last record that is
    known to be written. In front of it, and in a segment that is complete, all pages are looked at: a page that power
    loss or a bad disk took does not hide the records behind it.
    """
    key = key_of(Path(segment.name))
    descriptor = segment.fileno()
    size = os.fstat(descriptor).st_size
    if size > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"a segment of {size:,} bytes is none of ours: at most {_MOST_BYTES:,}")
    while start < size:
        is_settled = is_complete or start < settled
        record = _read(descriptor, start, key, size)
        if record is not None and (record.name or record.is_struck or is_settled):
            yield record
            start = record.end
        elif is_settled:
            start += _PAGE
        else:
            return


def next_page(offset: int) -> int:
    """Return where the next page begins, or the offset itself if one begins there."""
    return -(-offset // _PAGE) * _PAGE


def _read(descriptor: int, start: int, key: bytes, size: int) -> Record | None:
    try:
        page = os.pread(descriptor, _PAGE, start)
    except OSError:  # a page that the disk does not give hides none behind it
        return Record("", b"", 0, start, start + _PAGE)
    if len(page) < _HEADER.size or not page.startswith((_MAGIC + key, _STRUCK + key)):
        return None
    magic, _, received_at_ns, length, name_length, crc = _HEADER.unpack_from(page)
    name_end = _HEADER.size + name_length
    name = page[_HEADER.size : name_end]
    if crc != zlib.crc32(page[: _HEADER.size - _CRC_BYTES] + name) or not _NAME.fullmatch(name):
        return Record("", b"", 0, start, start + _PAGE)
    # A cut file has its last record in part: what is there is kept.
    end = min(next_page(start + name_end + length), next_page(size))
    if magic == _STRUCK:
        return Record("", b"", 0, start, end, is_struck=True)
    content = page[name_end : name_end + length]
    if len(content) < min(length, MAX_RECORD_BYTES):
        with contextlib.suppress(OSError):  # then it is not whole
            content += os.pread(descriptor, length - len(content), start + _PAGE)
    return Record(name.decode("ascii"), content, received_at_ns, start, end)
