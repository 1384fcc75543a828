"""Queries and retrievals as a requestor: C-FIND, C-MOVE and C-GET with their answers (PS3.4 C.4, PS3.7 9.1.2 to 9.1.4).

What is asked and what the answers are worth is the caller's. Knows no spool: the objects of a C-GET go to a sink.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from dicomflow.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from dicomflow.dimse.command import Command, CommandField, Priority, encode_response
from dicomflow.dimse.events import CommandReceived, DataSetReceived
from dicomflow.dimse.identifier import Tag, decode_identifier, encode_identifier
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.status import Status
from dicomflow.errors import PeerError, TransientError
from dicomflow.network.requesting import RequestedAssociation

__all__ = ["GetSink", "QueryAssociation", "QueryResult", "Retrieved"]

_PENDING: Final = frozenset({0xFF00, 0xFF01})
_MOST_IDENTIFIER_BYTES: Final = 4 << 20
_MOST_ANSWERS: Final = 1_000_000  # some never come to an end
_LOOK_SECONDS: Final = 0.5
# PS3.4 C.4.2.3: who is asked to cancel ends with FE00H; many do not listen.
_CANCEL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class QueryResult:
    """How a C-FIND ended: the final status, the peer's comment, and how many answers came and could not be read."""

    status: int
    comment: str
    answers: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How a C-MOVE or C-GET ended; a count that the peer left out is None, which is not 0 (PS3.4 C.4.2.1)."""

    status: int
    comment: str = ""
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    failed_uids: tuple[str, ...] = ()


class GetSink(Protocol):
    """Takes the objects that come in a C-GET, one after the other."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """An object begins."""

    def write(self, data: memoryview) -> None:
        """The next bytes of its data set; the view is valid for the call."""

    def finish(self) -> int:
        """It is whole: return the status that its sender is answered."""


@dataclass(slots=True)
class _Message:
    """A message under way: its command, and its data set as far as it has come."""

    context: AcceptedContext
    command: Command
    data: bytearray


class QueryAssociation(RequestedAssociation):
    """An association for queries and retrievals, one at a time. Thread: one owner."""

    _under_way: _Message

    def find(self, keys: Mapping[int, bytes], take: Callable[[dict[int, bytes]], None]) -> QueryResult:
        """C-FIND in the Study Root model; `take` is given each answer, in the order they come.

        An answer that cannot be read is counted, and empty for `take`.

        Raises:
            PermanentError: the peer takes no queries in this model.
            TransientError: the association broke, or nothing came in time.
            PeerError: an answer is longer than any can be, or has no status; or there is no end of them.
        """
        message_id = self._ask(STUDY_ROOT_FIND, Command(CommandField.C_FIND_RQ), keys)
        unreadable = 0
        for answers, message in enumerate(self._answers(message_id)):
            status = _status_of(message)
            if status not in _PENDING:
                return QueryResult(status, message.command.error_comment, answers, unreadable)
            if answers >= _MOST_ANSWERS:
                self.abort()
                raise PeerError(f"more than {_MOST_ANSWERS:,} answers to one question")
            found = _identifier(message)
            unreadable += found is None
            take(found or {})
        raise AssertionError  # `_answers` ends with an error alone

    def move(
        self, keys: Mapping[int, bytes], destination: str, *, go_on: Callable[[Retrieved | None], bool]
    ) -> Retrieved:
        """C-MOVE in the Study Root model, to a destination that the peer knows.

        Args:
            keys: level and unique keys.
            destination: its AE title.
            go_on: asked at each answer, and twice a second without one (None); False has it cancelled.

        Raises:
            PermanentError: the peer takes no C-MOVE.
            TransientError: the association broke, or a cancelled move did not end in time.
            PeerError: as of `find`.
        """
        command = Command(CommandField.C_MOVE_RQ, move_destination=destination)
        return self._follow(self._ask(STUDY_ROOT_MOVE, command, keys), STUDY_ROOT_MOVE, go_on, None)

    def get(self, keys: Mapping[int, bytes], sink: GetSink, *, go_on: Callable[[Retrieved | None], bool]) -> Retrieved:
        """C-GET in the Study Root model; the arguments and errors are those of `move`."""
        message_id = self._ask(STUDY_ROOT_GET, Command(CommandField.C_GET_RQ), keys)
        return self._follow(message_id, STUDY_ROOT_GET, go_on, sink)

    def _ask(self, sop_class_uid: str, command: Command, keys: Mapping[int, bytes]) -> int:
        context_id, transfer_syntax_uid = self.context_of(sop_class_uid)
        message_id = self.next_message_id()
        asked = Command(
            command.command_field,
            message_id=message_id,
            affected_sop_class_uid=sop_class_uid.encode("ascii"),
            priority=Priority.MEDIUM,
            data_set_type=1,
            move_destination=command.move_destination,
        )
        self.send(context_id, asked, encode_identifier(keys, transfer_syntax_uid))
        self.flush()
        return message_id

    def _answers(self, message_id: int) -> Iterator[_Message]:
        """Yield the answers to a query as they come; others, as of an earlier one, are passed over."""
        while True:
            for message in self._messages():
                if message is not None and message.command.message_id_responded_to == message_id:
                    yield message

    def _follow(
        self, message_id: int, sop_class_uid: str, go_on: Callable[[Retrieved | None], bool], sink: GetSink | None
    ) -> Retrieved:
        last = Retrieved(0)
        cancelled_at: float | None = None
        while True:
            for message in self._messages(sink, _LOOK_SECONDS):
                told: Retrieved | None = None
                if message is not None and message.command.message_id_responded_to == message_id:
                    told = last = _retrieved(message, last)
                    if told.status not in _PENDING:
                        return told
                if cancelled_at is None and not go_on(told):
                    cancelled_at = time.monotonic()
                    self._cancel(message_id, sop_class_uid)
            if cancelled_at is not None and time.monotonic() - cancelled_at > _CANCEL_SECONDS:
                self.abort()
                raise TransientError("the peer did not end what was cancelled")

    def _cancel(self, message_id: int, sop_class_uid: str) -> None:
        """C-CANCEL (PS3.7 9.3.2.3)."""
        context_id, _ = self.context_of(sop_class_uid)
        self.send(context_id, Command(CommandField.C_CANCEL_RQ, message_id_responded_to=message_id))
        self.flush()

    def _messages(self, sink: GetSink | None = None, look_seconds: float | None = None) -> Iterator[_Message | None]:
        """Yield the responses that one receive completes, and None at its end; C-STORE requests go to the sink."""
        for event in self.receive_open(look_seconds):
            match event:
                case CommandReceived():
                    self._under_way = _Message(event.context, event.command, bytearray())
                    is_complete = not event.command.has_data_set
                    if sink is not None and event.command.command_field == CommandField.C_STORE_RQ:
                        sink.begin(*_named(self._under_way))
                case DataSetReceived():
                    self._take(event, sink)
                    is_complete = event.is_last
                case _:
                    continue
            if is_complete:
                message = self._under_way
                if message.command.is_response:
                    yield message
                else:
                    self._answer(message, sink)
        yield None

    def _take(self, event: DataSetReceived, sink: GetSink | None) -> None:
        message = self._under_way
        is_object = message.command.command_field == CommandField.C_STORE_RQ
        for view in event.fragments:
            if is_object:
                if sink is not None:
                    sink.write(view)
            elif len(message.data) + len(view) > _MOST_IDENTIFIER_BYTES:
                raise PeerError(f"an answer of more than {_MOST_IDENTIFIER_BYTES:,} bytes")
            else:
                message.data += view

    def _answer(self, message: _Message, sink: GetSink | None) -> None:
        """Answer a request that the peer makes of us, which is a C-STORE or none of its business."""
        is_object = message.command.command_field == CommandField.C_STORE_RQ
        status = sink.finish() if is_object and sink is not None else Status.UNRECOGNIZED_OPERATION
        self.send(message.context.context_id, encode_response(message.command, status))
        self.flush()


def _named(message: _Message) -> tuple[str, str, str]:
    command = message.command
    uids = (command.affected_sop_class_uid, command.affected_sop_instance_uid)
    sop_class_uid, sop_instance_uid = ((each or b"").decode("ascii", "replace").strip(" \0") for each in uids)
    return sop_class_uid, sop_instance_uid, message.context.transfer_syntax


def _status_of(message: _Message) -> int:
    """Return the status; an answer with an identifier and no status is taken for pending, as some peers write it."""
    status = message.command.status
    if status is None:
        if not message.command.has_data_set:
            raise PeerError("the peer's answer has no status")
        return 0xFF00
    return status


def _identifier(message: _Message) -> dict[int, bytes] | None:
    try:
        return decode_identifier(bytes(message.data), message.context.transfer_syntax) if message.data else None
    except PeerError:
        return None


def _retrieved(message: _Message, last: Retrieved) -> Retrieved:
    """Return what an answer says; of a final one without counts, those of the last pending one are kept."""
    command = message.command
    failed = (_identifier(message) or {}).get(Tag.FAILED_SOP_INSTANCE_UID_LIST, b"")
    uids = tuple(filter(None, (each.strip(" \0") for each in failed.decode("ascii", "replace").split("\\"))))

    def kept(now: int | None, before: int | None) -> int | None:
        return before if now is None else now

    return Retrieved(
        _status_of(message),
        command.error_comment,
        command.remaining_suboperations,
        kept(command.completed_suboperations, last.completed),
        kept(command.failed_suboperations, last.failed),
        kept(command.warning_suboperations, last.warning),
        uids,
    )
