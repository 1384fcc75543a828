"""Pixels on their way from one file to another: as they are, in the other byte order, masked, or without comments.

Nothing is held in memory but a chunk, a masked frame, or a compressed one.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from dicomflow.deidentify.codestreams import blank_comments, holds_no_text, is_looked_through
from dicomflow.deidentify.described import Described
from dicomflow.deidentify.masks import Mask
from dicomflow.deidentify.settings import DeviceRule
from dicomflow.dicom.encoding import ITEM, SEQUENCE_DELIMITATION, UNDEFINED
from dicomflow.dicom.fields import PIXEL_DATA, PIXELS, DataSetFields, Field
from dicomflow.dicom.rewrite import turn_round
from dicomflow.errors import PeerError

__all__ = ["PixelStream"]

_CHUNK_BYTES: Final = 1 << 20
_MOST_FRAME_BYTES: Final = 512 << 20
_ITEM: Final = struct.Struct("<HHI")
_STARTS: Final = (b"\xff\xd8", b"\xff\x4f")


class PixelStream:
    """Gives the bytes of values that were left in their file.

    Args:
        file: sought in.
        start: where its data set begins.
        read: the elements as they were read.
        syntax: the transfer syntax of the object.
        rule: whose regions are masked.

    Raises:
        PeerError: the pixels cannot be masked.
    """

    def __init__(self, file: BinaryIO, start: int, read: DataSetFields, syntax: str, rule: DeviceRule | None) -> None:
        self._file = file
        self._start = start
        self._is_little_endian = read.encoding.is_little_endian
        self._syntax = syntax
        self._described = Described(read)
        self._mask = None if rule is None else Mask(self._described, rule)

    def chunks(self, field: Field) -> Iterator[bytes]:
        """Yield a value's bytes, in Little Endian; of one of undefined length with the delimiter.

        Raises:
            PeerError: it ends before its end, pixels have another number of bytes than their frames, or frames cannot
                be looked through.
        """
        if field.length == UNDEFINED:
            if self._mask is not None:
                raise PeerError("a device rule has regions, and compressed pixels are not masked")
            yield from self._encapsulated(field)
            return
        if field.tag == PIXEL_DATA and (is_looked_through(self._syntax) or holds_no_text(self._syntax)):
            raise PeerError("pixels of a compressed transfer syntax stand in no fragments")
        if field.tag in PIXELS:
            self._described.check_length(field.tag, field.stop - field.at)
        value = self._raw(field.at, field.stop - field.at)
        if not self._is_little_endian:
            value = (turn_round(chunk, field.vr) for chunk in value)
        if self._mask is not None and field.tag == PIXEL_DATA:
            value = self._mask.over(value)
        yield from value

    def _raw(self, at: int, length: int) -> Iterator[bytes]:
        self._file.seek(self._start + at)
        while length:
            chunk = self._file.read(min(_CHUNK_BYTES, length))
            if not chunk:
                raise PeerError("the data set ends within its pixels")
            length -= len(chunk)
            yield chunk

    def _encapsulated(self, field: Field) -> Iterator[bytes]:
        """Yield the offset table, then frame by frame the fragments that each has (PS3.5 A.4)."""
        if not (is_looked_through(self._syntax) or holds_no_text(self._syntax)):
            raise PeerError("frames of this transfer syntax may hold text that is not looked for")
        at, frame, is_table = field.at, _Frame(), True
        while True:
            tag, length = self._item_at(at)
            at += _ITEM.size
            if tag == SEQUENCE_DELIMITATION:
                yield from frame.pieces(is_blanked=is_looked_through(self._syntax))
                yield _ITEM.pack(0xFFFE, 0xE0DD, 0)
                return
            if tag != ITEM or at + length > field.stop or length > _MOST_FRAME_BYTES:
                raise PeerError("what stands among the frames is no fragment")
            fragment = b"".join(self._raw(at, length))
            at += length
            if is_table:
                yield _ITEM.pack(0xFFFE, 0xE000, length) + fragment
                is_table = False
                continue
            if not is_looked_through(self._syntax) or fragment[:2] in _STARTS:
                yield from frame.pieces(is_blanked=is_looked_through(self._syntax))
                frame = _Frame()
            frame.add(fragment)

    def _item_at(self, at: int) -> tuple[int, int]:
        self._file.seek(self._start + at)
        head = self._file.read(_ITEM.size)
        if len(head) < _ITEM.size:
            raise PeerError("the data set ends within its pixels")
        group, element, length = _ITEM.unpack(head)
        return group << 16 | element, length


class _Frame:
    """The fragments of one frame, which are looked through as one."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lengths: list[int] = []

    def add(self, fragment: bytes) -> None:
        self._bytes += fragment
        self._lengths.append(len(fragment))
        if len(self._bytes) > _MOST_FRAME_BYTES:
            raise PeerError(f"a frame has more than {_MOST_FRAME_BYTES:,} bytes")

    def pieces(self, *, is_blanked: bool) -> Iterator[bytes]:
        """Yield the fragments as items."""
        if is_blanked and self._bytes:
            blank_comments(self._bytes)
        at = 0
        for length in self._lengths:
            yield _ITEM.pack(0xFFFE, 0xE000, length) + self._bytes[at : at + length]
            at += length
