"""Regions made black in every frame of uncompressed pixels, by photometric interpretation; no other pixel changes."""

from collections.abc import Iterable, Iterator
from typing import Final

from dicomflow.deidentify.described import Described
from dicomflow.deidentify.settings import DeviceRule
from dicomflow.errors import PeerError

__all__ = ["Mask"]

# Black of each sample, of eight bits (PS3.3 C.7.6.3.1.2).
_BLACK: Final = {"RGB": (0, 0, 0), "YBR_FULL": (0, 128, 128)}


class Mask:
    """A device rule's regions over the pixels of one object.

    Raises:
        PeerError: the pixels are of a kind that is not masked, or of another size than the rule says.
    """

    def __init__(self, pixels: Described, rule: DeviceRule) -> None:
        self._rule = rule
        if (pixels.rows, pixels.columns) != (rule.rows, rule.columns):
            raise PeerError("the pixels have another size than the device rule says")
        if pixels.allocated not in {8, 16, 32} or pixels.samples not in {1, 3}:
            raise PeerError(f"pixels of {pixels.samples} samples and {pixels.allocated} bits allocated are not masked")
        self._black = _black_samples(pixels)
        self._is_planar = pixels.is_planar
        self._frame_bytes = rule.rows * rule.columns * pixels.samples * pixels.allocated // 8

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield masked frames of uncompressed pixels in Little Endian, and the padding that stands behind the last."""
        frame = bytearray()
        for chunk in chunks:
            frame += chunk
            while len(frame) >= self._frame_bytes:
                done, frame = frame[: self._frame_bytes], frame[self._frame_bytes :]
                self._blacken(done)
                yield bytes(done)
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


def _black_samples(pixels: Described) -> list[bytes]:
    """Return black as each sample's bytes: the largest value where the smallest is white (MONOCHROME1)."""
    if pixels.samples == 3:
        if pixels.photometric not in _BLACK or pixels.allocated != 8:
            raise PeerError("pixels of this photometric interpretation are not masked")
        return [bytes([value]) for value in _BLACK[pixels.photometric]]
    if pixels.photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise PeerError("pixels of this photometric interpretation are not masked")
    smallest = -(1 << pixels.stored - 1) if pixels.is_signed else 0
    black = smallest + (1 << pixels.stored) - 1 if pixels.photometric == "MONOCHROME1" else smallest
    return [black.to_bytes(pixels.allocated // 8, "little", signed=pixels.is_signed)]
