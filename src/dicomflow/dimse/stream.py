"""Cut received bytes into PDUs and fragments (PS3.8 9.3.1, 9.3.5, E.2).

Nothing is allocated by a length read from the wire: a P-DATA-TF of any length passes through as views of the
receive buffer, and other PDUs are limited to `MAX_PDU_BYTES`.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from dicomflow.dimse.pdu import HEADER, PDV, PDV_COUNTED_BYTES, PduError, PduType
from dicomflow.dimse.scatter import Scatter
from dicomflow.dimse.status import AbortReason

__all__ = ["MAX_PDU_BYTES", "DataSetRun", "Fragment", "Pdu", "PduStream", "StreamError"]

# An A-ASSOCIATE-RQ with 128 contexts of three transfer syntaxes takes about 14 KB, one with all there are 150 KB, and a
# user identity up to 64 KB. It is kept before anybody is known, so that no more is let in.
MAX_PDU_BYTES: Final = 256 << 10
# How much of a data set is received at once, at most; the core of a processor has it in its cache.
_SCATTER_BYTES: Final = 256 << 10

_COMMAND: Final = 0x01
_LAST: Final = 0x02
_PDU_AND_PDV: Final = struct.Struct(">BxIIBB")
_P_DATA: Final = int(PduType.P_DATA_TF)


class StreamError(PduError):
    """Bytes that cannot be cut into PDUs or PDVs; `reason` is the provider's abort reason."""

    def __init__(self, message: str, reason: AbortReason) -> None:
        super().__init__(message)
        self.reason = reason


class Pdu(NamedTuple):
    """A whole PDU other than P-DATA-TF; `body` is what follows the six-byte header."""

    kind: PduType
    body: bytes


class Fragment(NamedTuple):
    """A part of a PDV's fragment; `is_end` when its PDV, and `is_last` when the stream of fragments ends with it."""

    context_id: int
    is_command: bool
    is_last: bool
    is_end: bool
    data: memoryview


class DataSetRun:
    """The data set under way: `context_id` is that of its message, 0 while none is; `views` are its bytes so far."""

    __slots__ = ("context_id", "views")

    def __init__(self) -> None:
        self.context_id = 0
        self.views: list[memoryview] = []


class PduStream:
    """Cuts bytes as they arrive; one thread owns it."""

    def __init__(self) -> None:
        self._partial = bytearray()  # a header, or a PDU other than P-DATA-TF, that is not complete yet
        self._wanted = HEADER.size  # bytes that `_partial` needs
        self._pdu_left = 0  # bytes left in the current P-DATA-TF
        self._fragment_left = 0  # bytes left in the current fragment
        self._context_id = 0
        self._control = 0
        self._pdu_bytes = 0  # length of the P-DATA-TF that began last
        self._scatter: Scatter | None = None
        self.longest_p_data_bytes = 0

    @property
    def is_within_pdu(self) -> bool:
        """Whether a PDU has begun and is not complete."""
        return bool(self._partial or self._pdu_left or self._fragment_left)

    def buffers(self, run: DataSetRun) -> list[memoryview] | None:
        """Return where to receive the next bytes of `run`, for `feed_scattered`; None when they are for `feed`.

        That is within a data set that comes in PDUs of one PDV each, the last of which was not the data set's last.
        """
        fragment_bytes = self._pdu_bytes - PDV.size
        if (
            not run.context_id
            or self._pdu_left
            or self._partial
            or (self._fragment_left and (self._control or self._context_id != run.context_id))
            or self._fragment_left > fragment_bytes
            or not Scatter.fits(fragment_bytes)
        ):
            return None
        if self._scatter is None:
            self._scatter = Scatter(_SCATTER_BYTES)
        return self._scatter.buffers(self._fragment_left, fragment_bytes)

    def feed_scattered(self, received: int, run: DataSetRun) -> Iterator[Pdu | Fragment]:
        """Take bytes that came into `buffers`; they are to `feed` and `run` as if they had come in one piece.

        Raises:
            StreamError: as `feed`.
        """
        assert self._scatter is not None
        pdu_bytes = self._pdu_bytes
        header = _PDU_AND_PDV.pack(_P_DATA, pdu_bytes, pdu_bytes - 4, run.context_id, 0)
        view, self._fragment_left, behind = self._scatter.take(received, header)
        if view:
            run.views.append(view)
        if self._fragment_left:
            self._context_id, self._control = run.context_id, 0
            self._wanted = HEADER.size
        elif behind:
            yield from self.feed(memoryview(behind), run)

    def feed(self, data: memoryview, run: DataSetRun | None = None) -> Iterator[Pdu | Fragment]:
        """Yield what `data` completes; fragments are views of it.

        Whole PDUs that only go on with the data set of `run` are not yielded: their fragments are added to its views.

        Raises:
            StreamError: an unknown PDU type, a PDU above the limit, or a PDV that does not fit its PDU.
        """
        offset, end = 0, len(data)
        while offset < end:
            if self._fragment_left:
                taken = min(self._fragment_left, end - offset)
                self._fragment_left -= taken
                yield self._fragment(data[offset : offset + taken])
                offset += taken
                continue
            if not self._pdu_left and not self._partial and end - offset >= _PDU_AND_PDV.size:
                if run is not None and run.context_id:
                    offset = self._take_whole(data, offset, run)
                    if end - offset < _PDU_AND_PDV.size:
                        continue
                kind, pdu_length, item_length, context_id, control = _PDU_AND_PDV.unpack_from(data, offset)
                if kind == _P_DATA and pdu_length >= PDV.size:
                    self._begin_p_data(pdu_length)
                    offset += _PDU_AND_PDV.size
                    self._begin_pdv(item_length, context_id, control)
                    if not self._fragment_left:
                        yield self._fragment(data[offset:offset])
                    continue
            taken = min(self._wanted - len(self._partial), end - offset)
            self._partial += data[offset : offset + taken]
            offset += taken
            if len(self._partial) == self._wanted:
                yield from self._complete()

    def _take_whole(self, data: memoryview, offset: int, run: DataSetRun) -> int:
        """Take the whole P-DATA-TF PDUs of one PDV that go on with the data set; return the offset behind them.

        This loop is the bulk path: an object of 500 KB comes in 33 PDUs of 16 KiB.
        """
        end = len(data)
        context_id, take = run.context_id, run.views.append
        while end - offset >= _PDU_AND_PDV.size:
            kind, pdu_length, item_length, pdv_context_id, control = _PDU_AND_PDV.unpack_from(data, offset)
            behind = offset + HEADER.size + pdu_length
            if (
                control & (_COMMAND | _LAST)
                or kind != _P_DATA
                or pdv_context_id != context_id
                or item_length != pdu_length - 4
                or item_length <= PDV_COUNTED_BYTES
                or behind > end
            ):
                break
            take(data[offset + _PDU_AND_PDV.size : behind])
            self.longest_p_data_bytes = max(self.longest_p_data_bytes, pdu_length)
            self._pdu_bytes = pdu_length
            offset = behind
        return offset

    def _fragment(self, view: memoryview) -> Fragment:
        is_end = not self._fragment_left
        is_last = is_end and bool(self._control & _LAST)
        return Fragment(self._context_id, bool(self._control & _COMMAND), is_last, is_end, view)

    def _complete(self) -> Iterator[Pdu | Fragment]:
        """Act on `_partial`, which holds what was wanted: a PDV header, a PDU header or a whole PDU."""
        partial = self._partial
        if self._pdu_left:
            item_length, context_id, control = PDV.unpack(partial)
            self._restart(HEADER.size)
            self._begin_pdv(item_length, context_id, control)
            if not self._fragment_left:
                yield self._fragment(memoryview(b""))
            return
        kind, length = HEADER.unpack_from(partial)
        if len(partial) == HEADER.size:
            if kind not in PduType.__members__.values():
                raise StreamError(f"PDU type {kind:02X}H is unknown", AbortReason.UNRECOGNIZED_PDU)
            if kind == _P_DATA:
                self._restart(HEADER.size)
                self._begin_p_data(length)
                return
            if length > MAX_PDU_BYTES:
                raise StreamError(
                    f"{PduType(kind).name} PDU of {length:,} bytes exceeds {MAX_PDU_BYTES:,}",
                    AbortReason.INVALID_PARAMETER_VALUE,
                )
            self._wanted += length
            if length:
                return
        body = bytes(partial[HEADER.size :])
        self._restart(HEADER.size)
        yield Pdu(PduType(kind), body)

    def _restart(self, wanted: int) -> None:
        self._partial = bytearray()
        self._wanted = wanted

    def _begin_p_data(self, length: int) -> None:
        if length < PDV.size:
            raise StreamError(f"P-DATA-TF of {length} bytes holds no PDV", AbortReason.INVALID_PARAMETER_VALUE)
        self._pdu_left = self._pdu_bytes = length
        self.longest_p_data_bytes = max(self.longest_p_data_bytes, length)
        self._wanted = PDV.size

    def _begin_pdv(self, item_length: int, context_id: int, control: int) -> None:
        left = self._pdu_left - 4 - item_length
        if item_length < PDV_COUNTED_BYTES or left < 0 or 0 < left < PDV.size:
            raise StreamError(
                f"PDV of {item_length:,} bytes does not fit the {self._pdu_left:,} left in its P-DATA-TF",
                AbortReason.INVALID_PARAMETER_VALUE,
            )
        self._pdu_left = left
        self._fragment_left = item_length - PDV_COUNTED_BYTES
        self._wanted = PDV.size if left else HEADER.size
        self._context_id = context_id
        self._control = control
