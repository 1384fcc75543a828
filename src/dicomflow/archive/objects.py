"""Stored objects as their headers tell of them: elements, pixels, and the syntax that is really theirs.

One place reads headers for metadata, frames and bulk data. What cannot be read is an error with the reason, never an
object without it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.pixels.offsets import FrameTable, read_fragments
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.retrieval import Retrieval, StoredInstance
from dicomflow.dicom.encoding import BIG_ENDIAN, EXPLICIT, IMPLICIT, UNDEFINED
from dicomflow.dicom.fields import PIXEL_DATA, DataSetFields, Field, first_value, read_fields
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.rewrite import turn_round
from dicomflow.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomflow.dicom.walk import MAX_INFLATED_BYTES, inflate
from dicomflow.errors import PeerError

__all__ = ["MAX_FRAME_BYTES", "StoredObject", "find_field", "open_stored"]

MAX_FRAME_BYTES: Final = 256 << 20
"""A frame is read whole; one that is larger is refused."""
_SYNTAXES: Final = {
    IMPLICIT: IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT: EXPLICIT_VR_LITTLE_ENDIAN,
    BIG_ENDIAN: EXPLICIT_VR_BIG_ENDIAN,
}
_HEAD_BYTES: Final = 16 << 10
_MOST_VALUE_BYTES: Final = 64 << 10
_ROWS, _COLUMNS, _BITS = 0x00280010, 0x00280011, 0x00280100
_SAMPLES, _FRAMES, _COLORS = 0x00280002, 0x00280008, 0x00280004
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object whose header is read.

    `transfer_syntax_uid` is what it is encoded in, where its file meta information errs in that. Thread: one owner.
    """

    instance: StoredInstance
    file: BinaryIO
    data_set_at: int
    transfer_syntax_uid: str
    data_set: DataSetFields
    table: list[FrameTable]

    @property
    def pixels(self) -> Field | None:
        """Its pixel data."""
        return self.data_set.find(PIXEL_DATA)

    @property
    def frames(self) -> int:
        """How many frames there are; 0 without pixel data, 1 where the number is none."""
        if self.pixels is None or not self.pixels.length:
            return 0
        text = (first_value(self.data_set.fields, _FRAMES) or b"").split(b"\\")[0].strip(b" \0")
        return max(1, int(text)) if text.isdigit() and len(text) < 10 else 1

    @property
    def is_encapsulated(self) -> bool:
        """Whether its pixels are compressed."""
        return self.pixels is not None and self.pixels.length == UNDEFINED

    def frame(self, index: int) -> bytes:
        """Return a frame as it is stored: its codestream, or its samples in little endian; the first is 0.

        Raises:
            FrameError: there is none, or it is broken.
        """
        if not 0 <= index < self.frames:
            raise FrameError(f"there is no frame {index + 1}: the object has {self.frames}")
        return self._fragments(index) if self.is_encapsulated else self._samples(index)

    def value(self, field: Field, start: int, length: int) -> bytes:
        """Return bytes of an element's value, little endian; those of a number that begin within it, from its begin.

        Raises:
            NotHeldError: the object ends before they do.
        """
        self.file.seek(self.data_set_at + field.at + start)
        found = self.file.read(length)
        if len(found) != length:
            raise NotHeldError(f"the object of {self.instance.sop_instance_uid} ends within an element")
        return found if self.data_set.encoding.is_little_endian else turn_round(found, field.vr)

    def _fragments(self, index: int) -> bytes:
        pixels = self.pixels
        assert pixels is not None
        if not self.table:
            offsets, lengths = (self._value_of(tag) for tag in (_OFFSETS, _LENGTHS))
            extended = (offsets, lengths) if offsets and lengths else None
            at = self.data_set_at + pixels.at
            self.table.append(FrameTable(self.file, at, self.frames, extended))  # type: ignore[arg-type]  # the methods that are used
        return read_fragments(self.file, self.table[0].fragments(index), MAX_FRAME_BYTES)  # type: ignore[arg-type]  # as above

    def _value_of(self, tag: int) -> bytes | None:
        field = self.data_set.find(tag)
        if field is None:
            return None
        return field.value if field.value is not None else self.value(field, 0, field.length)

    def _samples(self, index: int) -> bytes:
        pixels = self.pixels
        assert pixels is not None
        bits = self._frame_bits()
        first, behind = index * bits // 8, -(-(index + 1) * bits // 8)
        if behind > pixels.length:
            raise FrameError("the pixel data ends before the frame does")
        if behind - first > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of {behind - first:,} bytes exceeds {MAX_FRAME_BYTES:,}")
        odd = index * bits % 8
        if not odd:
            # Words stand in pairs of bytes, which are turned round together.
            even = behind if self.data_set.encoding.is_little_endian else min(pixels.length, behind + behind % 2)
            return self.value(pixels, first - first % 2, even - first + first % 2)[first % 2 :][: behind - first]
        whole = int.from_bytes(self.value(pixels, first, behind - first), "little") >> odd
        return (whole & ((1 << bits) - 1)).to_bytes(-(-bits // 8), "little")

    def _frame_bits(self) -> int:
        rows, columns, allocated, samples = (
            self._number(tag, default) for tag, default in ((_ROWS, 0), (_COLUMNS, 0), (_BITS, 8), (_SAMPLES, 1))
        )
        colors = (first_value(self.data_set.fields, _COLORS) or b"").strip(b" \0")
        bits = rows * columns * allocated * (2 if colors == b"YBR_FULL_422" else samples)
        if not bits:
            raise FrameError("the object does not say how large a frame is")
        return bits

    def _number(self, tag: int, default: int) -> int:
        value = first_value(self.data_set.fields, tag) or b""
        if len(value) < 2:
            return default
        return int.from_bytes(value[:2], "little" if self.data_set.encoding.is_little_endian else "big")


def open_stored(retrieval: Retrieval, instance: StoredInstance) -> StoredObject:
    """Read the header of a stored object.

    Raises:
        NotHeldError: it is not in the store, or cannot be read as what it should be.
        TransientError: the store does not answer.
    """
    file = retrieval.open(instance)
    head = file.read(min(_HEAD_BYTES, instance.size_bytes))
    try:
        meta = decode_file_meta(head)
        declared = meta.transfer_syntax_uid
        at, size, source = meta.data_set_offset, instance.size_bytes - meta.data_set_offset, file
        source.seek(at)
        if declared == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            plain = _inflated(file)
            at, size, source = 0, len(plain), io.BytesIO(plain)
        data_set = read_fields(source, declared, size, _MOST_VALUE_BYTES)
    except PeerError as error:
        raise NotHeldError(f"the object of {instance.sop_instance_uid} cannot be read: {error}") from error
    is_plain = declared in _SYNTAXES.values()
    syntax = _SYNTAXES[data_set.encoding] if is_plain else declared
    return StoredObject(instance, source, at, syntax, data_set, [])


def _inflated(file: BinaryIO) -> bytes:
    plain = inflate(file, MAX_INFLATED_BYTES + 1)
    if len(plain) > MAX_INFLATED_BYTES:
        raise PeerError(f"it is inflated to more than {MAX_INFLATED_BYTES:,} bytes")
    return plain


def find_field(data_set: DataSetFields, path: Sequence[int]) -> Field | None:
    """Return the element of a path: a tag, or the tags of sequences, each with the number of an item, and a tag."""
    fields: Sequence[Field] = data_set.fields
    for tag, number in zip(path[::2], [*path[1::2], 0], strict=True):
        field = next((each for each in fields if each.tag == tag), None)
        if field is None or not number:
            return field
        if field.items is None or not 0 < number <= len(field.items):
            return None
        fields = field.items[number - 1]
    return None
