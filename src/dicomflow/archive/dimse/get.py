"""C-GET as SCP (PS3.4 C.4.3): objects to the requestor on its own association, one after the other.

Each is sent when the one before it was answered, and prepared beside the association meanwhile, so that a C-CANCEL is
heard.
"""

from typing import Final

from dicomflow.archive.dimse.aside import Aside
from dicomflow.archive.dimse.objects import NoContextError, PreparedObject, prepare
from dicomflow.archive.dimse.operation import Call, Operation
from dicomflow.archive.dimse.suboperations import SubOperations, attempt, finish
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
"""So many that cannot be sent are counted before that is told."""


def begin_get(call: Call) -> Operation:
    """Begin to retrieve; what is wrong is answered at once."""
    return GetOperation(call)


class GetOperation:
    """One C-GET. Threads: the association's, and `_aside`, which prepares objects."""

    def __init__(self, call: Call) -> None:
        self.is_done = False
        self._call = call
        self._is_cancelled = False
        self._aside = Aside()
        self._ready: tuple[StoredInstance, PreparedObject] | None = None
        self._message_id = 0
        self._under_way: tuple[StoredInstance, PreparedObject] | None = None
        self._objects: SubOperations | None = None
        # Of what the requestor proposed to take, what was accepted; it is SCP of these alone.
        self._contexts = {
            (context.abstract_syntax, context.transfer_syntax): context_id
            for context_id, context in call.acceptor.contexts.items()
            if call.acceptor.is_scp_of(context.abstract_syntax)
        }
        self._aside.start(self._prepare_next)

    @property
    def look_seconds(self) -> float:
        """At once, unless an answer is awaited."""
        return 0.0 if self._under_way is None else _WAITING_SECONDS

    def go_on(self) -> None:
        """Send the next object, or end."""
        if self._under_way is None and not self.is_done:
            attempt(self._call, self._advance, self._fail)

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
        self.go_on()

    def end(self) -> None:
        """Let go of what is under way."""
        self.is_done = True
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way[1].close()
        self._aside.leave(self._let_go)

    def _advance(self) -> None:
        """Send the object that is ready and have the next one prepared, or end."""
        has_ended = not self._is_cancelled and self._aside.has_taken(self._prepare_next)
        objects = self._objects
        if self._is_cancelled:
            # What is being prepared was not sent.
            self._finish(is_cut=objects is None or self._aside.is_busy or bool(objects.waiting or self._ready))
        elif has_ended and objects is not None:
            ready, self._ready = self._ready, None
            if ready is not None:
                self._send(*ready)
                self._aside.start(self._prepare_next)
            elif not objects.waiting:
                self._finish(is_cut=False)
                return
            objects.tell()

    def _prepare_next(self) -> None:
        """Find the objects, and prepare the next one that can be sent."""
        if self._objects is None:
            self._objects = SubOperations(self._call, {"by": "C-GET"})
        objects = self._objects
        failed = 0
        while objects.waiting and not self.is_done and failed < _FAILED_AT_ONCE:
            instance = objects.waiting.popleft()
            try:
                prepared = prepare(self._call.archive, objects.reading, instance, self._contexts)
            except (NoContextError, NotHeldError, FrameError, TransientError) as error:
                objects.ended(instance, None, str(error))
                failed += 1
            else:
                self._ready = instance, prepared
                return

    def _finish(self, *, is_cut: bool) -> None:
        self.end()
        finish(self._call, self._objects, is_cut=is_cut)

    def _let_go(self) -> None:
        """Let go of what was prepared, when that has ended."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready[1].close()
        if self._objects is not None:
            self._objects.close()

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
        self.end()
        self._call.respond(status, comment=comment)
