"""C-GET as SCP (PS3.4 C.4.3): objects to the requestor on its own association, one after the other.

Each is sent when the one before it was answered, so that between two a C-CANCEL is heard.
"""

from typing import Final

from dicomflow.archive.dimse.objects import NoContextError, PreparedObject, prepare
from dicomflow.archive.dimse.operation import Call, Operation
from dicomflow.archive.dimse.suboperations import SubOperations, attempt
from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.retrieval import StoredInstance
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import CommandReceived
from dicomflow.errors import TransientError

__all__ = ["GetOperation", "begin_get"]

_MAX_MESSAGE_ID: Final = 0xFFFF
_WAITING_SECONDS: Final = 1.0
_FAILED_AT_ONCE: Final = 50
"""So many that cannot be sent are counted before the peer is heard again."""


def begin_get(call: Call) -> Operation:
    """Begin to retrieve; what is wrong is answered at once."""
    return GetOperation(call)


class GetOperation:
    """One C-GET. Thread: the association's."""

    def __init__(self, call: Call) -> None:
        self.is_done = False
        self._call = call
        self._is_cancelled = False
        self._message_id = 0
        self._under_way: tuple[StoredInstance, PreparedObject] | None = None
        self._objects: SubOperations | None = None
        # Of what the requestor proposed to take, what was accepted; it is SCP of these alone.
        self._contexts = {
            (context.abstract_syntax, context.transfer_syntax): context_id
            for context_id, context in call.acceptor.contexts.items()
            if call.acceptor.is_scp_of(context.abstract_syntax)
        }
        attempt(call, self._begin, self._fail)

    @property
    def look_seconds(self) -> float:
        """At once, unless an answer is awaited."""
        return 0.0 if self._under_way is None else _WAITING_SECONDS

    def go_on(self) -> None:
        """Send the next object, or end."""
        if self._under_way is None and not self.is_done:
            attempt(self._call, self._send_next, self._fail)

    def cancel(self) -> None:
        """Send no more."""
        self._is_cancelled = True

    def take_response(self, event: CommandReceived) -> None:
        """Count what was answered, and send the next object."""
        if self._under_way is None or event.command.message_id_responded_to != self._message_id:
            return
        instance, prepared = self._under_way
        self._under_way = None
        prepared.close()
        assert self._objects is not None
        self._objects.ended(instance, event.command.status)
        if self._objects.waiting and not self._is_cancelled:
            attempt(self._call, self._send_next, self._fail)

    def end(self) -> None:
        """Let go of what is under way."""
        self.is_done = True
        self._release()

    def _begin(self) -> None:
        self._objects = SubOperations(self._call, {"by": "C-GET"})

    def _send_next(self) -> None:
        objects = self._objects
        assert objects is not None
        failed = 0
        while objects.waiting and not self._is_cancelled and failed < _FAILED_AT_ONCE:
            instance = objects.waiting.popleft()
            try:
                prepared = prepare(self._call.archive, objects.reading, instance, self._contexts)
            except (NoContextError, NotHeldError, FrameError, TransientError) as error:
                objects.ended(instance, None, str(error))
                failed += 1
                continue
            self._send(instance, prepared)
            objects.tell()
            return
        if self._is_cancelled or not objects.waiting:
            self.is_done = True
            objects.finish(is_cancelled=self._is_cancelled and bool(objects.waiting))

    def _send(self, instance: StoredInstance, prepared: PreparedObject) -> None:
        self._message_id = self._message_id % _MAX_MESSAGE_ID + 1
        command = Command(
            CommandField.C_STORE_RQ,
            message_id=self._message_id,
            affected_sop_class_uid=instance.sop_class_uid.encode("ascii"),
            affected_sop_instance_uid=instance.sop_instance_uid.encode("ascii"),
            priority=self._call.command.priority or 0,
            data_set_type=1,
        )
        self._under_way = instance, prepared
        self._call.acceptor.send(prepared.context_id, encode_command(command), prepared.data_set)

    def _fail(self, status: int, comment: str) -> None:
        self.is_done = True
        self._release()
        self._call.respond(status, comment=comment)

    def _release(self) -> None:
        if self._objects is not None:
            self._objects.close()
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way[1].close()
