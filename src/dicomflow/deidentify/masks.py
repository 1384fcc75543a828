"""Regions made black in every frame of uncompressed pixels, by photometric interpretation; no other pixel changes."""

from collections.abc import Iterable, Iterator
from typing import Final

from dicomflow.deidentify.settings import DeviceRule
from dicomflow.dicom.fields import DataSetFields
from dicomflow.errors import PeerError

__all__ = ["Mask"]

_SAMPLES: Final = 0x00280002
_PHOTOMETRIC: Final = 0x00280004
_PLANAR: Final = 0x00280006
_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_ALLOCATED: Final = 0x00280100
_STORED: Final = 0x00280101
_SIGNED: Final = 0x00280103
# Black of each sample, of eight bits (PS3.3 C.7.6.3.1.2).
_BLACK: Final = {"RGB": (0, 0, 0), "YBR_FULL": (0, 128, 128)}


class Mask:
    """A device rule's regions over the pixels of one object.

    Raises:
        PeerError: the pixels are of a kind that is not masked, or of another size than the rule says.
    """

    def __init__(self, read: DataSetFields, rule: DeviceRule) -> None:
        self._read = read
        self._rule = rule
        samples, allocated = self._number(_SAMPLES, 1), self._number(_ALLOCATED, 0)
        if (self._number(_ROWS, 0), self._number(_COLUMNS, 0)) != (rule.rows, rule.columns):
            raise PeerError("the pixels have another size than the device rule says")
        if allocated not in {8, 16, 32} or samples not in {1, 3}:
            raise PeerError(f"pixels of {samples} samples and {allocated} bits allocated are not masked")
        self._sample_bytes = allocated // 8
        self._black = self._black_samples(samples)
        self._is_planar = samples > 1 and self._number(_PLANAR, 0) == 1
        self._frame_bytes = rule.rows * rule.columns * samples * self._sample_bytes

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield masked frames of uncompressed pixels in Little Endian; what stands behind the last one is padding.

        Raises:
            PeerError: they are not as many bytes as their frames have.
        """
        left = self._frames()
        frame = bytearray()
        for chunk in chunks:
            frame += chunk
            while left and len(frame) >= self._frame_bytes:
                done, frame = frame[: self._frame_bytes], frame[self._frame_bytes :]
                self._blacken(done)
                yield bytes(done)
                left -= 1
        if left or len(frame) > 1:
            raise PeerError("the pixels have another number of bytes than their frames")
        yield bytes(len(frame))

    def _blacken(self, frame: bytearray) -> None:
        columns, rows = self._rule.columns, self._rule.rows
        planes = self._black if self._is_planar else [b"".join(self._black)]
        for plane, pixel in enumerate(planes):
            start = plane * rows * columns * len(pixel)
            for left, top, right, bottom in self._rule.regions:
                line = pixel * (right - left)
                for row in range(top, bottom):
                    at = start + (row * columns + left) * len(pixel)
                    frame[at : at + len(line)] = line

    def _black_samples(self, samples: int) -> list[bytes]:
        """Return black as each sample's bytes: the largest value where the smallest is white (MONOCHROME1)."""
        photometric = self._text(_PHOTOMETRIC)
        if samples == 3:
            if photometric not in _BLACK or self._sample_bytes != 1:
                raise PeerError("pixels of this photometric interpretation are not masked")
            return [bytes([value]) for value in _BLACK[photometric]]
        if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
            raise PeerError("pixels of this photometric interpretation are not masked")
        stored = self._number(_STORED, self._sample_bytes * 8)
        is_signed = self._number(_SIGNED, 0) == 1
        smallest = -(1 << stored - 1) if is_signed else 0
        black = smallest + (1 << stored) - 1 if photometric == "MONOCHROME1" else smallest
        return [black.to_bytes(self._sample_bytes, "little", signed=is_signed)]

    def _frames(self) -> int:
        text = self._text(_FRAMES)
        if text and not text.isdecimal():
            raise PeerError("Number of Frames (0028,0008) is no number")
        return int(text or 1)

    def _number(self, tag: int, missing: int) -> int:
        field = self._read.find(tag)
        if field is None or not field.value:
            return missing
        return int.from_bytes(field.value, "little" if self._read.encoding.is_little_endian else "big")

    def _text(self, tag: int) -> str:
        field = self._read.find(tag)
        return (field.value or b"").decode("ascii", "replace").strip(" \0") if field is not None else ""
