"""What a header says of its pixels: their number, their kind, and the bytes that they take uncompressed."""

from fractions import Fraction
from typing import Final

from dicomflow.dicom.fields import PIXEL_DATA, DataSetFields
from dicomflow.errors import PeerError

__all__ = ["Described"]

_SAMPLES: Final = 0x00280002
_PHOTOMETRIC: Final = 0x00280004
_PLANAR: Final = 0x00280006
_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_ALLOCATED: Final = 0x00280100
_STORED: Final = 0x00280101
_SIGNED: Final = 0x00280103
# Samples a pixel where two of three are of fewer pixels (PS3.3 C.7.6.3.1.2).
_SUBSAMPLED: Final = {"YBR_FULL_422": Fraction(2), "YBR_PARTIAL_422": Fraction(2), "YBR_PARTIAL_420": Fraction(3, 2)}
_FLOAT_BITS: Final = {0x7FE00008: 32, 0x7FE00009: 64}


class Described:
    """The elements of one object that describe its pixels."""

    def __init__(self, read: DataSetFields) -> None:
        self._read = read
        self.rows, self.columns = self._number(_ROWS, 0), self._number(_COLUMNS, 0)
        self.samples, self.allocated = self._number(_SAMPLES, 1), self._number(_ALLOCATED, 0)
        self.stored = self._number(_STORED, self.allocated)
        self.is_signed = self._number(_SIGNED, 0) == 1
        self.is_planar = self.samples > 1 and self._number(_PLANAR, 0) == 1
        self.photometric = self._text(_PHOTOMETRIC)

    @property
    def frames(self) -> int:
        """How many frames it has. Raises `PeerError` when that is no number."""
        text = self._text(_FRAMES)
        if text and not text.isdecimal():
            raise PeerError("Number of Frames (0028,0008) is no number")
        return int(text or 1)

    def check_length(self, tag: int, length: int) -> None:
        """Raise `PeerError` where uncompressed pixels of so many bytes are not their frames and a padding byte."""
        bits = _FLOAT_BITS.get(tag, self.allocated)
        pixels = self.rows * self.columns * self.frames
        sizes = {pixels * self.samples * bits}
        if tag == PIXEL_DATA and self.photometric in _SUBSAMPLED:
            sizes.add(int(pixels * _SUBSAMPLED[self.photometric] * bits))
        if length and not any(0 <= length - -(-size // 8) <= 1 for size in sizes):
            raise PeerError("the pixels have another number of bytes than their frames")

    def _number(self, tag: int, missing: int) -> int:
        field = self._read.find(tag)
        if field is None or not field.value:
            return missing
        return int.from_bytes(field.value, "little" if self._read.encoding.is_little_endian else "big")

    def _text(self, tag: int) -> str:
        field = self._read.find(tag)
        return (field.value or b"").decode("ascii", "replace").strip(" \0") if field is not None else ""
