"""Where frames of encapsulated pixel data stand: by a table of offsets, or by its items (PS3.5 A.4, PS3.3 C.7.6.3.1).

A fragment is never fetched to find the next one: of each item only its header is read.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from dicomflow.archive.pixels.picture import FrameError

__all__ = ["Fragments", "FrameTable", "read_fragments"]

Fragments: TypeAlias = Sequence[tuple[int, int]]
"""Places in the file and lengths of the fragments of one frame."""

_ITEM: Final = struct.Struct("<HHI")
_FIRST: Final = (0xFFFE, 0xE000)
_LAST: Final = (0xFFFE, 0xE0DD)
_UNDEFINED: Final = 0xFFFFFFFF
_MAX_FRAGMENTS: Final = 1_000_000
# End of image and end of codestream (ITU-T T.81 B.1.1.3, T.800 A.4.4), and a byte that makes the length even.
_ENDS: Final = (b"\xff\xd9", b"\xff\xd9\0")


class FrameTable:
    """Finds the fragments of the frames of one object. Thread: one owner.

    Args:
        file: it is sought in.
        value_at: where the item of the basic offset table begins.
        frames: how many there are.
        extended: extended offset table and lengths, where the data set has both.
    """

    def __init__(self, file: io.IOBase, value_at: int, frames: int, extended: tuple[bytes, bytes] | None) -> None:
        self._file = file
        self._value_at = value_at
        self._frames = frames
        self._extended = extended
        self._table: tuple[int, ...] | None = None
        self._first_at = 0
        self._counted: list[Fragments] | None = None

    def fragments(self, index: int) -> Fragments:
        """Return the fragments of a frame; the first is 0.

        Raises:
            FrameError: there are no items, or they cannot be told apart by frames.
        """
        if self._table is None:
            self._table, self._first_at = _basic_table(self._file, self._value_at)
        if self._frames == 1:
            return [place for place, _ in _items(self._file, self._first_at)]
        if self._extended is not None:
            return _by_extended(*self._extended, self._first_at, index)
        if len(self._table) >= self._frames:
            return self._by_table(self._table, index)
        if self._counted is None:
            self._counted = self._by_items()
        return self._counted[index]

    def _by_table(self, table: tuple[int, ...], index: int) -> Fragments:
        stop = self._first_at + table[index + 1] if index + 1 < len(table) else None
        found: list[tuple[int, int]] = []
        for place, behind in _items(self._file, self._first_at + table[index]):
            found.append(place)
            if stop is not None and behind >= stop:
                break
        return found

    def _by_items(self) -> list[Fragments]:
        """Tell frames apart without a table: one fragment each, or each ends as its codestream does."""
        items = [place for place, _ in _items(self._file, self._first_at)]
        if len(items) == self._frames:
            return [[item] for item in items]
        if len(items) < self._frames:
            raise FrameError(f"there are {len(items)} fragments for {self._frames} frames")
        found: list[list[tuple[int, int]]] = [[]]
        for at, length in items:
            found[-1].append((at, length))
            self._file.seek(at + max(0, length - 3))
            if self._file.read(min(3, length)).endswith(_ENDS):
                found.append([])
        if len(found) - 1 != self._frames or found[-1]:
            raise FrameError(
                f"{len(items)} fragments without a table of offsets cannot be told apart by {self._frames} frames"
            )
        return list(found[:-1])


def read_fragments(file: io.IOBase, fragments: Fragments, most_bytes: int) -> bytes:
    """Return a frame's fragments, put together.

    Raises:
        FrameError: it has more than `most_bytes`, or ends before they do.
    """
    size = sum(length for _, length in fragments)
    if size > most_bytes:
        raise FrameError(f"a frame of {size:,} bytes exceeds {most_bytes:,}")
    parts = []
    for at, length in fragments:
        file.seek(at)
        part: bytes = file.read(length)
        if len(part) < length:
            raise FrameError("the pixel data ends before the frame does")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _basic_table(file: io.IOBase, value_at: int) -> tuple[tuple[int, ...], int]:
    kind, length = _header(file, value_at)
    if kind != _FIRST or length % 4 or length > 4 * _MAX_FRAGMENTS:
        raise FrameError("the compressed pixel data has no items")
    table: bytes = file.read(length)
    if len(table) < length:
        raise FrameError("the pixel data ends within its table of offsets")
    return tuple(value for (value,) in struct.iter_unpack("<I", table)), value_at + _ITEM.size + length


def _by_extended(offsets: bytes, lengths: bytes, first_at: int, index: int) -> Fragments:
    """PS3.3 C.7.6.3.1.8 and .9: 64-bit offsets of items, one fragment a frame, and its length."""
    if len(offsets) < 8 * (index + 1) or len(lengths) < 8 * (index + 1):
        raise FrameError("the extended table of offsets has not all frames")
    (offset,) = struct.unpack_from("<Q", offsets, 8 * index)
    (length,) = struct.unpack_from("<Q", lengths, 8 * index)
    return [(first_at + offset + _ITEM.size, length)]


def _items(file: io.IOBase, at: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield place and length of each item's value, and where the next item's header stands."""
    for _ in range(_MAX_FRAGMENTS):
        kind, length = _header(file, at)
        if kind == _LAST:
            return
        if kind != _FIRST or length == _UNDEFINED:
            raise FrameError("the compressed pixel data is no sequence of items")
        place = at + _ITEM.size
        at = place + length
        yield (place, length), at
    raise FrameError(f"there are more than {_MAX_FRAGMENTS:,} fragments")


def _header(file: io.IOBase, at: int) -> tuple[tuple[int, int], int]:
    file.seek(at)
    header: bytes = file.read(_ITEM.size)
    if len(header) < _ITEM.size:
        raise FrameError("the pixel data ends where an item should begin")
    group, element, length = _ITEM.unpack(header)
    return (group, element), length
