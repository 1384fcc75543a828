"""Stored objects written anew in Explicit VR Little Endian, pixels decompressed (PS3.18 8.7.3.4).

Elements keep their bytes; of what describes the pixels that is changed which decoding changes: colours become RGB,
samples stand pixel by pixel. An object is read and written frame by frame.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from dicomflow.archive.pixels.described import colors_of, frame_bits, number_of
from dicomflow.archive.pixels.frames import MAX_WHOLE_BYTES, Opened, decode_samples, open_file
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.bucket.ranged import RangedFile
from dicomflow.dicom.encoding import UNDEFINED
from dicomflow.dicom.fields import PIXEL_DATA, DataSetFields, Field, read_fields
from dicomflow.dicom.part10 import decode_file_meta, with_transfer_syntax
from dicomflow.dicom.rewrite import element_header, turn_round, write_field
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomflow.dicom.walk import inflate
from dicomflow.errors import PeerError

__all__ = ["converted", "native_samples"]

_HEAD_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
_COLORS: Final = 0x00280004
_PLANAR: Final = 0x00280006
# Tables of where compressed frames stand.
_OF_COMPRESSION: Final = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003})
_MAX_VALUE_BYTES: Final = 0xFFFFFFFE


def converted(file: RangedFile, *, is_implicit: bool = False) -> Iterator[bytes]:
    """Yield a Part 10 file in Explicit VR Little Endian, or in Implicit VR for peers that know nothing else.

    Raises:
        FrameError: it cannot be read or decoded, or its pixels have more bytes than an element may.
    """
    head = file.read(_HEAD_BYTES)
    try:
        meta = decode_file_meta(head)
        yield with_transfer_syntax(head, IMPLICIT_VR_LITTLE_ENDIAN if is_implicit else EXPLICIT_VR_LITTLE_ENDIAN)
        source, size = cast("BinaryIO", file), file.size - meta.data_set_offset
        source.seek(meta.data_set_offset)
        if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            plain = inflate(source, MAX_WHOLE_BYTES + 1)
            if len(plain) > MAX_WHOLE_BYTES:
                raise FrameError(f"a deflated object of more than {MAX_WHOLE_BYTES:,} bytes is not inflated")
            source, size = io.BytesIO(plain), len(plain)
        start = source.tell()
        data_set = read_fields(source, meta.transfer_syntax_uid, size, _PIECE_BYTES)
    except PeerError as error:
        raise FrameError(str(error)) from error
    opened = None
    pixels = data_set.find(PIXEL_DATA)
    if pixels is not None and pixels.length == UNDEFINED:
        opened = open_file(lambda: RangedFile(file.size, lambda at, length: _range(file, at, length)))
    for field in sorted(_described(data_set, opened), key=lambda field: field.tag):
        if opened is not None and field.tag == PIXEL_DATA:
            yield from _decoded(opened, is_implicit=is_implicit)
        elif field.value is None and field.items is None:
            yield element_header(field.tag, field.vr, field.length + field.length % 2, is_implicit=is_implicit)
            yield from _copied(source, start, field, is_little_endian=data_set.encoding.is_little_endian)
        else:
            yield write_field(field, data_set.encoding, is_implicit=is_implicit)


def native_samples(opened: Opened, index: int) -> bytes:
    """Return a frame's samples as Explicit VR Little Endian has them, without padding.

    Raises:
        FrameError: it cannot be decoded.
    """
    import numpy as np  # noqa: PLC0415  # an extra

    samples = decode_samples(opened, index)
    allocated = number_of(opened.dataset, "BitsAllocated", 8)
    if allocated == 1:
        return bytes(np.packbits(np.asarray(samples, np.uint8).ravel(), bitorder="little"))
    if allocated not in {8, 16, 32}:
        raise FrameError(f"pixels of {allocated} bits are not decompressed")
    native: bytes = np.ascontiguousarray(samples).astype(f"<u{allocated // 8}", casting="unsafe").tobytes()
    return native


def _range(file: RangedFile, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _described(data_set: DataSetFields, opened: Opened | None) -> list[Field]:
    """Return the fields, those that describe compressed pixels changed to what they are after decoding."""
    found = {field.tag: field for field in reversed(data_set.fields)}
    if opened is not None:
        for tag in _OF_COMPRESSION:
            found.pop(tag, None)
        if number_of(opened.dataset, "SamplesPerPixel", 1) > 1:
            # Numbers of two bytes are little endian here: compressed pixels stand in no other encoding.
            found[_PLANAR] = Field(_PLANAR, "US", 0, 2, 2, b"\0\0")
            if colors_of(opened.dataset).startswith("YBR"):
                found[_COLORS] = Field(_COLORS, "CS", 0, 4, 4, b"RGB ")
    return list(found.values())


def _decoded(opened: Opened, *, is_implicit: bool) -> Iterator[bytes]:
    allocated = number_of(opened.dataset, "BitsAllocated", 8)
    samples = number_of(opened.dataset, "SamplesPerPixel", 1)
    bits = frame_bits(opened.dataset)
    if samples == 3 and colors_of(opened.dataset) == "YBR_FULL_422":
        bits = bits // 2 * 3  # it becomes RGB
    size = bits // 8 * opened.frames
    if size > _MAX_VALUE_BYTES:
        raise FrameError(f"decompressed pixels of {size:,} bytes exceed the {_MAX_VALUE_BYTES:,} of an element")
    yield element_header(PIXEL_DATA, "OB" if allocated <= 8 else "OW", size + size % 2, is_implicit=is_implicit)
    written = 0
    for index in range(opened.frames):
        native = native_samples(opened, index)
        written += len(native)
        yield native
    if written != size:
        raise FrameError(f"decoding gives {written:,} bytes where the object tells of {size:,}")
    if size % 2:
        yield b"\0"


def _copied(file: BinaryIO, start: int, field: Field, *, is_little_endian: bool) -> Iterator[bytes]:
    """Yield a value that was left in the file."""
    for offset in range(0, field.length, _PIECE_BYTES):
        length = min(_PIECE_BYTES, field.length - offset)
        file.seek(start + field.at + offset)
        piece = file.read(length)
        if len(piece) < length:
            raise FrameError(f"the object ends within ({field.tag >> 16:04X},{field.tag & 0xFFFF:04X})")
        yield piece if is_little_endian else turn_round(piece, field.vr)
    if field.length % 2:
        yield b"\0"
