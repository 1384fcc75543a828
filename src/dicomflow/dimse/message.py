"""Put fragments together to messages, and cut messages into P-DATA-TF PDUs (PS3.8 E, PS3.7 6.3)."""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from dicomflow.dimse.command import decode_command
from dicomflow.dimse.events import CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.pdu import PDV, PduType
from dicomflow.dimse.status import AbortReason
from dicomflow.dimse.stream import DataSetRun, Fragment, StreamError

__all__ = [
    "LEAST_MAX_LENGTH",
    "MAX_COMMAND_BYTES",
    "MAX_SENT_PDU_BYTES",
    "MessageReader",
    "encode_message",
    "message_parts",
]

MAX_COMMAND_BYTES: Final = 16 << 10
# A peer that announces no limit still gets PDUs of at most this size: the most that DCMTK fills.
MAX_SENT_PDU_BYTES: Final = 131_072
_PDV_HEADER: Final = struct.Struct(">BxIIBB")
# A shorter PDU holds no fragment of even length (PS3.8 E.1).
LEAST_MAX_LENGTH: Final = PDV.size + 2
_COMMAND: Final = 0x01
_LAST: Final = 0x02


class MessageReader:
    """Follows one message at a time: its command set, then its data set, all on one context."""

    def __init__(self, contexts: Mapping[int, AcceptedContext]) -> None:
        self._contexts = contexts
        self._command = bytearray()
        self._context: AcceptedContext | None = None  # of the message that is under way
        self.run = DataSetRun()  # its context ID is set while a data set is under way

    @property
    def is_idle(self) -> bool:
        """Whether no message is under way."""
        return self._context is None

    def take(self, fragment: Fragment) -> CommandReceived | DataSetReceived | None:
        """Take the next fragment; return the event it completes.

        Views of a data set are collected until its last fragment or `flush`.

        Raises:
            StreamError: the context is not accepted or changes, or command and data do not alternate.
            CommandError: the command set is complete and cannot be decoded.
        """
        context = self._context
        if context is None or context.context_id != fragment.context_id:
            context = self._begin(fragment)
        if fragment.is_command:
            if self.run.context_id:
                raise StreamError("a command set begins within a data set", AbortReason.UNEXPECTED_PARAMETER)
            return self._take_command(context, fragment)
        if not self.run.context_id:
            raise StreamError("a data set without its command set", AbortReason.UNEXPECTED_PARAMETER)
        if fragment.data:
            self.run.views.append(fragment.data)
        if not fragment.is_last:
            return None
        self.run.context_id = 0
        self._context = None
        return DataSetReceived(self._take_views(), is_last=True)

    def flush(self) -> DataSetReceived | None:
        """Return the collected views before their buffer is used again."""
        return DataSetReceived(self._take_views(), is_last=False) if self.run.views else None

    def drop(self) -> None:
        """Forget the message under way: its association ends, and no data may go on with it."""
        self._command.clear()
        self._context = None
        self.run.context_id = 0
        self.run.views = []

    def _begin(self, fragment: Fragment) -> AcceptedContext:
        if self._context is not None:
            raise StreamError(
                f"a message changes from context {self._context.context_id} to {fragment.context_id}",
                AbortReason.UNEXPECTED_PARAMETER,
            )
        context = self._contexts.get(fragment.context_id)
        if context is None:
            raise StreamError(
                f"presentation context {fragment.context_id} was not accepted", AbortReason.UNEXPECTED_PARAMETER
            )
        self._context = context
        return context

    def _take_command(self, context: AcceptedContext, fragment: Fragment) -> CommandReceived | None:
        if len(self._command) + len(fragment.data) > MAX_COMMAND_BYTES:
            raise StreamError(f"command set exceeds {MAX_COMMAND_BYTES:,} bytes", AbortReason.INVALID_PARAMETER_VALUE)
        self._command += fragment.data
        if not fragment.is_last:
            return None
        command = decode_command(bytes(self._command))
        self._command.clear()
        if command.has_data_set:
            self.run.context_id = context.context_id
        else:
            self._context = None
        return CommandReceived(context, command)

    def _take_views(self) -> list[memoryview]:
        views, self.run.views = self.run.views, []
        return views


def encode_message(
    context_id: int, command: bytes, max_length: int, data_set: bytes | memoryview | None = None
) -> bytes:
    """Encode a message whole; the arguments are those of `message_parts`."""
    return b"".join(message_parts(context_id, command, max_length, data_set))


def message_parts(
    context_id: int, command: bytes, max_length: int, data_set: bytes | memoryview | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the headers and fragments of a message's P-DATA-TF PDUs, one PDV each, without copying the data set.

    Args:
        context_id: an accepted presentation context.
        command: the encoded command set.
        max_length: what the peer announced, in bytes; 0 means no limit (PS3.8 D.1).
        data_set: the encoded data set, or None for a message without one; an empty one is sent as such.
    """
    limit = min(max_length or MAX_SENT_PDU_BYTES, MAX_SENT_PDU_BYTES)
    yield from _fragments(context_id, command, _COMMAND, limit)
    if data_set is not None:
        yield from _fragments(context_id, data_set, 0, limit)


def _fragments(context_id: int, stream: bytes | memoryview, kind: int, limit: int) -> Iterator[bytes | memoryview]:
    """Yield headers and fragments of even length (PS3.8 E.1) that fit PDUs of `limit` bytes."""
    size = max((limit - PDV.size) & ~1, 2)
    for start in range(0, max(len(stream), 1), size):
        fragment = stream[start : start + size]
        control = kind | (_LAST if start + size >= len(stream) else 0)
        length = len(fragment)
        yield _PDV_HEADER.pack(PduType.P_DATA_TF, length + 6, length + 2, context_id, control)
        yield fragment
