"""Segments: small instances one behind the other in a file that has its blocks already.

A new file of 10 KB takes a name, an inode and a folder to be written, and the disk to be waited for; a record in a
segment takes its own pages and one wait, in which those of several associations are written together. A worker appends,
the deliverer unpacks the records to ordinary files and gives the segment back. In a lane of `received/`:

```
{number}-{key}.segment     records; while it may be written to, who writes it holds a lock on it (flock)
{number}-{key}.at          how far the deliverer has unpacked it
{number}-{key}.damaged     a segment with a hole, kept for an operator
{key}.free                 unpacked, to be written over
```

A record begins on a page of its own, so no page of an acknowledged instance is written again. It counts if it holds
the segment's key, which is new for each use of the file, and if its bytes have the digest that its name tells.
"""

import contextlib
import hashlib
import os
import struct
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

if sys.platform != "win32":
    import fcntl

__all__ = [
    "MAX_RECORD_BYTES",
    "Record",
    "Segments",
    "count_records",
    "discard_offsets",
    "give_back",
    "is_complete",
    "is_supported",
    "read_offset",
    "read_records",
    "segments_of",
    "write_offset",
]

# What is larger gets a file of its own: it costs the disk more than the file does.
MAX_RECORD_BYTES: Final = 64 << 10
_PAGE: Final = 4096
_MAGIC: Final = b"DFR1"
_STRUCK: Final = b"DFR0"  # in the place of the magic: the record was not acknowledged and counts for nothing
# Magic, key of the segment, when received (nanoseconds since the epoch), lengths of content and name, and the CRC-32
# of these and the name; big endian.
_HEADER: Final = struct.Struct(">4s8sQIHI")
_CRC_BYTES: Final = 4
_KEY_BYTES: Final = 8
_SUFFIX: Final = ".segment"
_FREE: Final = ".free"
_AT: Final = ".at"
_DAMAGED: Final = ".damaged"
# What thousands of instances a second fill until the deliverer comes to them; a new one costs twice its bytes.
_MAX_FREE: Final = 8
_ZEROS_BYTES: Final = 1 << 20
_FLAGS: Final = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
_FILE_MODE: Final = 0o640
# Windows has neither these calls nor such locks.
is_supported: Final = all(hasattr(os, name) for name in ("fdatasync", "pread", "pwrite"))


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


class _Segment:
    """A segment that is being written, for as long as a thread has it. `write`: the owner of `Segments`' lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.key = _key(path)
        self.offset = 0
        self._idle = [descriptor]
        # With the first one goes the lock, and the segment is complete: so not before the last thread lets go of it.
        weakref.finalize(self, _close_all, self._idle)

    def take(self) -> int:
        """Return a descriptor for one record, to be given back when that is on disk; raises `OSError`.

        The kernel tells each descriptor once of a write that failed, whosever it was, if that was open before: so a
        record has one to itself from before it is written until it is synced.
        """
        return self._idle.pop() if self._idle else os.open(self.path, _FLAGS)

    def give_back(self, descriptor: int) -> None:
        """Let others have a descriptor."""
        self._idle.append(descriptor)

    def write(self, descriptor: int, name: bytes, content: Sequence[bytes | memoryview]) -> None:
        """Write a record at the end; its header comes last, so that it is never seen in part."""
        length = sum(map(len, content))
        start = self.offset
        _write_all(descriptor, b"".join((name, *content)), start + _HEADER.size)
        _write_all(descriptor, self._head(_MAGIC, name, length), start)
        self.offset = _next_page(start + _HEADER.size + len(name) + length)

    def strike(self, descriptor: int, offset: int, name: bytes, length: int) -> None:
        """Have a record count no more, as far as that can be done: it was not acknowledged."""
        with contextlib.suppress(OSError):
            _write_all(descriptor, self._head(_STRUCK, name, length) + name, offset)

    def _head(self, magic: bytes, name: bytes, length: int) -> bytes:
        fields = _HEADER.pack(magic, self.key, time.time_ns(), length, len(name), 0)[:-_CRC_BYTES]
        return fields + zlib.crc32(fields + name).to_bytes(_CRC_BYTES, "big")


class Segments:
    """The segments of a lane, for the worker that the lane belongs to. Threads: any; `_lock` guards the last one.

    Args:
        lane: the folder.
        size_bytes: of a segment.
        fsync: whether `append` waits for the disk.
        rename_durably: renames an open file and makes bytes and name durable; raises `OSError`.
    """

    def __init__(
        self, lane: Path, size_bytes: int, *, fsync: bool, rename_durably: Callable[[Callable[[], None], int], None]
    ) -> None:
        self._lane = lane
        self._size_bytes = size_bytes
        self._fsync = fsync
        self._rename_durably = rename_durably
        self._lock = threading.Lock()
        self._segment: _Segment | None = None

    def append(self, name: str, content: Sequence[bytes | memoryview]) -> None:
        """Write an instance behind the others.

        Durable: on return the record is on disk. Raises `OSError`, and then the record does not count.
        """
        encoded = name.encode("ascii")
        length = sum(map(len, content))
        with self._lock:
            segment = self._with_room(_HEADER.size + len(encoded) + length)
            offset, descriptor = segment.offset, segment.take()
            try:
                segment.write(descriptor, encoded, content)
            except BaseException:
                self._segment = None
                segment.strike(descriptor, offset, encoded, length)
                segment.give_back(descriptor)
                raise
        try:
            # Several are under way at once; the kernel writes together what waits together.
            if self._fsync:
                os.fdatasync(descriptor)
        except BaseException:
            segment.strike(descriptor, offset, encoded, length)
            self._leave(segment)
            raise
        finally:
            segment.give_back(descriptor)

    def _leave(self, segment: _Segment) -> None:
        """Write no more to a segment of which a sync failed: the kernel may have dropped pages."""
        with self._lock:
            if self._segment is segment:
                self._segment = None

    def prepare(self) -> None:
        """Have a segment before the first instance comes. Raises `OSError`."""
        with self._lock:
            self._with_room(0)

    def _with_room(self, length: int) -> _Segment:
        segment = self._segment
        if segment is not None and segment.offset + length <= self._size_bytes:
            return segment
        self._segment = None
        self._segment = self._begin()
        return self._segment

    def _begin(self) -> _Segment:
        """Begin the segment of the next number, over a free one if there is one."""
        number = max((_number(path) for path in segments_of(self._lane)), default=0) + 1
        path = self._lane / f"{number:08}-{os.urandom(_KEY_BYTES).hex()}{_SUFFIX}"
        descriptor = self._reuse(path)
        if descriptor is None:
            descriptor = self._create(path)
        return _Segment(path, descriptor)

    def _reuse(self, path: Path) -> int | None:
        for free in self._lane.glob(f"*{_FREE}"):
            # A worker whose supervisor was killed may still be here, and be first.
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(free, _FLAGS)
                try:
                    status = os.fstat(descriptor)
                    # Power loss on a file system without a journal can leave a file a second name.
                    if status.st_size != self._size_bytes or status.st_nlink != 1:
                        free.unlink()
                    elif _lock(descriptor, fcntl.LOCK_EX):
                        self._rename_durably(lambda source=free: os.rename(source, path), descriptor)  # type: ignore[misc]  # noqa: PTH104  # a call that a test can follow
                        return descriptor
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        return None

    def _create(self, path: Path) -> int:
        temporary = path.with_name(f"segment-{path.stem}_{os.getpid()}.part")
        descriptor = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            # Zeros, not a hole: later writes find the blocks there, and change nothing of the file but its bytes.
            for start in range(0, self._size_bytes, _ZEROS_BYTES):
                _write_all(descriptor, bytes(min(_ZEROS_BYTES, self._size_bytes - start)), start)
            if self._fsync:
                os.fsync(descriptor)
            self._rename_durably(lambda: os.rename(temporary, path), descriptor)  # noqa: PTH104  # as above
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor


def segments_of(lane: Path) -> list[Path]:
    """Return the segments of a lane in the order they were begun."""
    try:
        names = [name for name in os.listdir(lane) if name.endswith(_SUFFIX)]  # noqa: PTH208  # asked for all the time
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((lane / name for name in names if name[:8].isdecimal()), key=_number)


def is_complete(segment: BinaryIO) -> bool:
    """Tell whether nobody will write to an open segment any more."""
    return _lock(segment.fileno(), fcntl.LOCK_SH)


def read_records(segment: BinaryIO, start: int = 0, *, is_complete: bool = True) -> Iterator[Record]:
    """Yield the records of an open segment, whole, struck or not, from one that begins at `start`.

    Of a segment that is being written they end where none follows. In one that is complete all pages are looked at: a
    page that power loss or a bad disk took does not hide the records behind it.
    """
    key = _key(Path(segment.name))
    descriptor = segment.fileno()
    size = os.fstat(descriptor).st_size
    while start < size:
        record = _read(descriptor, start, key)
        if record is not None and (record.name or record.is_struck or is_complete):
            yield record
            start = record.end
        elif is_complete:
            start += _PAGE
        else:
            return


def read_offset(segment: Path) -> int:
    """Return how far a segment is unpacked."""
    try:
        key, _, offset = segment.with_suffix(_AT).read_bytes().partition(b" ")
        return int(offset) if key == _key(segment).hex().encode() else 0
    except (FileNotFoundError, ValueError):
        return 0


def write_offset(segment: Path, offset: int) -> None:
    """Note how far a segment is unpacked; power loss may take that back."""
    descriptor = os.open(segment.with_suffix(_AT), _FLAGS | os.O_CREAT, _FILE_MODE)
    try:
        # Always as long, so it is never there in part; with the key, since a block may hold what another note said.
        os.pwrite(descriptor, b"%s %020d" % (_key(segment).hex().encode(), offset), 0)
    finally:
        os.close(descriptor)


def give_back(segment: Path, *, is_damaged: bool = False) -> None:
    """Let a segment be written over whose records are all durable elsewhere; a damaged one is kept for an operator."""
    if is_damaged:
        segment.rename(segment.with_suffix(_DAMAGED))
    elif len(list(segment.parent.glob(f"*{_FREE}"))) < _MAX_FREE:
        segment.rename(segment.with_name(segment.stem.partition("-")[2] + _FREE))
    else:
        segment.unlink()
    segment.with_suffix(_AT).unlink(missing_ok=True)


def discard_offsets(lane: Path) -> None:
    """Remove notes of segments that were given back by a process that was killed before it removed them."""
    for note in lane.glob(f"*{_AT}"):
        if not note.with_suffix(_SUFFIX).exists():
            note.unlink()


def count_records(lane: Path) -> tuple[int, float]:
    """Return how many records of a lane are not unpacked, and when the oldest came (seconds since the epoch)."""
    count, oldest = 0, float("inf")
    for segment in segments_of(lane):
        # It may be given back meanwhile.
        with contextlib.suppress(FileNotFoundError), segment.open("rb", buffering=0) as file:
            for record in read_records(file, read_offset(segment), is_complete=False):
                if not record.is_struck:
                    count += 1
                    oldest = min(oldest, record.received_at_ns / 1e9)
    return count, oldest


def _read(descriptor: int, start: int, key: bytes) -> Record | None:
    try:
        page = os.pread(descriptor, _PAGE, start)
    except OSError:  # a page that the disk does not give hides none behind it
        return Record("", b"", 0, start, start + _PAGE)
    if len(page) < _HEADER.size or not page.startswith((_MAGIC + key, _STRUCK + key)):
        return None
    magic, _, received_at_ns, length, name_length, crc = _HEADER.unpack_from(page)
    name_end = _HEADER.size + name_length
    name = page[_HEADER.size : name_end]
    if crc != zlib.crc32(page[: _HEADER.size - _CRC_BYTES] + name):
        return Record("", b"", 0, start, start + _PAGE)
    end = _next_page(start + name_end + length)
    if magic == _STRUCK:
        return Record("", b"", 0, start, end, is_struck=True)
    content = page[name_end : name_end + length]
    if len(content) < length:
        with contextlib.suppress(OSError):  # then it is not whole
            content += os.pread(descriptor, length - len(content), start + _PAGE)
    return Record(name.decode("ascii"), content, received_at_ns, start, end)


def _next_page(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE


def _lock(descriptor: int, kind: int) -> bool:
    """Lock an open file until it is closed; False when another has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _key(segment: Path) -> bytes:
    return bytes.fromhex(segment.stem.partition("-")[2])


def _number(segment: Path) -> int:
    return int(segment.name[:8])


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # a short write
        written += os.pwrite(descriptor, data[written:], offset + written)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
