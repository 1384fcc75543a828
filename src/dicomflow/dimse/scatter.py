"""Receive whole P-DATA-TF PDUs so that their fragments come to lie side by side (PS3.8 9.3.5).

A sender cuts a data set into PDUs of one length, so where the next headers will stand in the stream is known before
they come. The transport is asked to put those bytes beside the data instead of between it (`recvmsg_into`): what was
33 pieces of a CT image to hash and to write is a few, and nothing is copied. A guess that turns out wrong costs a
copy of what came: `Scatter` gives it back as the stream it was.
"""

from typing import Final

__all__ = ["Scatter"]

_HEADER_BYTES: Final = 12  # of the PDU and of its only PDV
# Above this a receive holds so few PDUs that there is little to gain.
_MAX_FRAGMENT_BYTES: Final = 32 << 10
_MIN_FRAGMENT_BYTES: Final = 1 << 10


class Scatter:
    """Buffers for a fragment's rest and the PDUs behind it. One thread owns it.

    Args:
        size_bytes: how much data is received at once, about.
    """

    def __init__(self, size_bytes: int) -> None:
        # In front is room for the rest of a fragment, so that all others stand where they always do.
        self._data = memoryview(bytearray(size_bytes + _MAX_FRAGMENT_BYTES))
        self._headers = memoryview(bytearray(size_bytes // _MIN_FRAGMENT_BYTES * _HEADER_BYTES))
        self._size_bytes = size_bytes
        self._fragment_bytes = 0
        self._left = 0  # of the fragment that is under way
        self._pieces: list[memoryview] = []  # header and fragment of each PDU, in turn

    @staticmethod
    def fits(fragment_bytes: int) -> bool:
        """Tell whether PDUs with fragments of this length are worth it."""
        return _MIN_FRAGMENT_BYTES <= fragment_bytes <= _MAX_FRAGMENT_BYTES

    def buffers(self, left: int, fragment_bytes: int) -> list[memoryview]:
        """Return where to put the next bytes: `left` of a fragment, then headers and fragments in turn."""
        if fragment_bytes != self._fragment_bytes:
            self._lay_out(fragment_bytes)
        self._left = left
        if not left:
            return self._pieces
        return [self._data[fragment_bytes - left : fragment_bytes], *self._pieces]

    def take(self, received: int, header: bytes) -> tuple[memoryview, int, bytes]:
        """Return what `received` bytes in the buffers are.

        Args:
            received: how many bytes came.
            header: the twelve bytes that each PDU is expected to begin with.

        Returns:
            The fragments' bytes, one behind the other; how much of the last fragment is still to come; and as a
            stream, whatever came behind them that is not as expected.
        """
        size, begin = self._fragment_bytes, self._fragment_bytes - self._left
        behind = received - self._left
        if behind <= 0:
            return self._data[begin : begin + received], -behind, b""
        whole, rest = divmod(behind, _HEADER_BYTES + size)
        if self._headers[: whole * _HEADER_BYTES] != header * whole:
            return self._data[begin:size], 0, self._stream(0, behind)
        end = size + whole * size
        if not rest:
            return self._data[begin:end], 0, b""
        at = whole * _HEADER_BYTES
        if rest < _HEADER_BYTES or self._headers[at : at + _HEADER_BYTES] != header:
            return self._data[begin:end], 0, self._stream(whole, behind)
        part = rest - _HEADER_BYTES
        return self._data[begin : end + part], size - part, b""

    def _lay_out(self, fragment_bytes: int) -> None:
        self._fragment_bytes = fragment_bytes
        self._pieces = []
        for number in range(self._size_bytes // fragment_bytes):
            at = fragment_bytes * (number + 1)
            self._pieces.append(self._headers[number * _HEADER_BYTES : (number + 1) * _HEADER_BYTES])
            self._pieces.append(self._data[at : at + fragment_bytes])

    def _stream(self, first: int, received: int) -> bytes:
        """Return the bytes from a PDU on as they came; `received` counts from the first PDU."""
        size = _HEADER_BYTES + self._fragment_bytes
        behind = -(-received // size)  # the first PDU of which nothing came
        return b"".join(self._pieces[2 * first : 2 * behind])[: received - first * size]
