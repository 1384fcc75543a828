"""C-MOVE as SCP (PS3.4 C.4.2): objects to a destination that the settings name, on an association of ours.

Objects are sent beside the association, so that its requestor may cancel whatever the destination does. Where that
breaks off, it is associated with again; where it then takes nothing, the rest has failed.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicomflow.archive.access import Right
from dicomflow.archive.dimse.aside import TURN_SECONDS, Aside
from dicomflow.archive.dimse.get import begin_get
from dicomflow.archive.dimse.objects import NoContextError, PreparedObject, pairs_of, prepare
from dicomflow.archive.dimse.operation import Begin, Call
from dicomflow.archive.dimse.suboperations import SubOperations, attempt, finish
from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.retrieval import Pair, StoredInstance
from dicomflow.dicom.uids import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from dicomflow.dimse.command import Command, CommandField
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.pdu import MAX_CONTEXTS
from dicomflow.errors import PermanentError, TransientError
from dicomflow.network.requesting import RequestedAssociation, propose

__all__ = ["MoveDestination", "MoveOperation", "retrieval_begins"]

_UNKNOWN_DESTINATION: Final = 0xA801
_LAST_SECONDS: Final = 1.0
"""How long the object under way may take when its requestor has cancelled."""
_AHEAD: Final = 500
"""Instances that an association is proposed for."""


@dataclass(frozen=True, slots=True)
class MoveDestination:
    """A node that objects may be moved to, by the AE title that a C-MOVE names."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    timeout_seconds: float = 60.0
    tls: ssl.SSLContext | None = None


def retrieval_begins(destinations: Mapping[str, MoveDestination]) -> dict[tuple[str, int], Begin]:
    """Return what begins C-MOVE and C-GET, by SOP class and command field.

    Args:
        destinations: where a C-MOVE may go, by AE title.
    """

    def begin_move(call: Call) -> "MoveOperation":
        return MoveOperation(call, destinations.get(call.command.move_destination or ""))

    moves = {(uid, int(CommandField.C_MOVE_RQ)): begin_move for uid in (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE)}
    gets = {(uid, int(CommandField.C_GET_RQ)): begin_get for uid in (PATIENT_ROOT_GET, STUDY_ROOT_GET)}
    return {**moves, **gets}


class MoveOperation:
    """One C-MOVE. Threads: the requestor's association's, and `_aside`, which owns what is sent."""

    look_seconds: Final = 0.0

    def __init__(self, call: Call, destination: MoveDestination | None) -> None:
        self.is_done = False
        self._call = call
        self._destination = destination
        self._aside = Aside()
        self._cancelled_at: float | None = None
        self._association: RequestedAssociation | None = None
        self._proposed: frozenset[Pair] = frozenset()
        self._contexts: dict[Pair, int] = {}
        self._has_taken = True  # whether the association before this one took anything
        self._ahead: tuple[StoredInstance, PreparedObject] | None = None
        self._objects: SubOperations | None = None
        attempt(call, self._begin, self._fail)

    def go_on(self) -> None:
        """Have objects sent for a moment, or end."""
        if not self.is_done:
            attempt(self._call, self._look, self._fail)

    def cancel(self) -> None:
        """Send no more."""
        self._cancelled_at = time.monotonic()

    def take_response(self, event: CommandReceived) -> None:
        """Pass over: nothing is asked of the requestor."""

    def end(self) -> None:
        """Leave the destination, when it has answered or kept us waiting long enough."""
        self.is_done = True
        self._aside.leave(self._let_go)

    def _begin(self) -> None:
        if self._destination is None:
            # Who may not retrieve learns nothing of what there is.
            self._call.principal.require(Right.RETRIEVE)
            self._fail(_UNKNOWN_DESTINATION, "the move destination is not in the settings")

    def _look(self) -> None:
        """Wait a turn for what is under way, tell of it, and end where nothing is left or wanted."""
        has_ended = self._aside.has_taken(self._send_some)
        objects = self._objects
        if self._cancelled_at is not None and (has_ended or time.monotonic() - self._cancelled_at >= _LAST_SECONDS):
            self._finish(is_cut=not has_ended or objects is None or bool(objects.waiting or self._ahead))
        elif has_ended and objects is not None and not (objects.waiting or self._ahead):
            self._finish(is_cut=False)
        elif objects is not None:
            objects.tell()

    def _finish(self, *, is_cut: bool) -> None:
        self.end()
        finish(self._call, self._objects, is_cut=is_cut)

    def _send_some(self) -> None:
        """Find the objects, or send some of them."""
        if self._objects is None:
            assert self._destination is not None
            self._objects = SubOperations(self._call, {"by": "C-MOVE", "to": self._destination.ae_title})
        objects = self._objects
        until = time.monotonic() + TURN_SECONDS
        while (objects.waiting or self._ahead) and self._is_wanted():
            self._send_one(objects)
            if time.monotonic() >= until:
                return

    def _is_wanted(self) -> bool:
        return self._cancelled_at is None and not self.is_done

    def _let_go(self) -> None:
        """Let go of what was under way, when it has ended."""
        self._drop_ahead()
        self._leave()
        if self._objects is not None:
            self._objects.close()

    def _send_one(self, objects: SubOperations) -> None:
        """Send one object, and prepare the one behind it while the destination works."""
        ready = self._ahead or self._next(objects)
        self._ahead = None
        if ready is None:
            return
        instance, prepared = ready
        association = self._association
        assert association is not None
        try:
            message_id = self._request(association, instance, prepared)
            self._ahead = self._next(objects, is_open=True)
            status = _response(association, message_id)
        except (TransientError, PermanentError) as error:
            objects.ended(instance, None, str(error))
            prepared.close()
            self._drop_association()
        else:
            self._has_taken = True
            prepared.close()
            objects.ended(instance, status)

    def _next(self, objects: SubOperations, *, is_open: bool = False) -> tuple[StoredInstance, PreparedObject] | None:
        """Prepare the next object that can be sent; with `is_open` only on the association that is there."""
        while objects.waiting and self._is_wanted():
            instance = objects.waiting[0]
            if not self._is_proposed(instance):
                if is_open:
                    return None
                if not self._associate(objects):
                    return None
            objects.waiting.popleft()
            try:
                return instance, prepare(self._call.archive, objects.reading, instance, self._contexts)
            except (NoContextError, NotHeldError, FrameError, TransientError) as error:
                objects.ended(instance, None, str(error))
                if is_open:
                    return None
        return None

    def _is_proposed(self, instance: StoredInstance) -> bool:
        # One whose syntax only reading tells is proposed in several.
        return self._association is not None and any(
            kind == instance.sop_class_uid and instance.transfer_syntax_uid in {"", syntax}
            for kind, syntax in self._proposed
        )

    def _associate(self, objects: SubOperations) -> bool:
        """Associate for the next instances; where the destination cannot be had, all of them have failed."""
        destination = self._destination
        assert destination is not None
        self._leave()
        if not self._has_taken:
            objects.fail_rest("the destination broke off twice")
            return False
        pairs = pairs_of(
            self._call.archive, [objects.waiting[at] for at in range(min(_AHEAD, len(objects.waiting)))], MAX_CONTEXTS
        )
        association = RequestedAssociation(
            destination.host,
            destination.port,
            propose([(sop_class, (syntax,)) for sop_class, syntax in pairs]),
            calling_ae_title=destination.calling_ae_title,
            called_ae_title=destination.ae_title,
            timeout_seconds=destination.timeout_seconds,
            tls=destination.tls,
        )
        try:
            association.__enter__()
        except (TransientError, PermanentError) as error:
            objects.fail_rest(f"the destination cannot be had: {error}")
            return False
        self._association, self._has_taken = association, False
        self._proposed, self._contexts = frozenset(pairs), association.accepted()
        return True

    def _request(self, association: RequestedAssociation, instance: StoredInstance, prepared: PreparedObject) -> int:
        message_id = association.next_message_id()
        command = Command(
            CommandField.C_STORE_RQ,
            message_id=message_id,
            affected_sop_class_uid=instance.sop_class_uid.encode("ascii"),
            affected_sop_instance_uid=instance.sop_instance_uid.encode("ascii"),
            priority=self._call.command.priority or 0,
            data_set_type=1,
            move_originator_ae_title=self._call.calling_ae_title,
            move_originator_message_id=self._call.command.message_id or 0,
        )
        association.send(prepared.context_id, command, prepared.data_set)
        association.flush()
        return message_id

    def _fail(self, status: int, comment: str) -> None:
        self.end()
        self._call.respond(status, comment=comment)

    def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].close()

    def _leave(self) -> None:
        """Release the association, if there is one."""
        association, self._association = self._association, None
        self._proposed, self._contexts = frozenset(), {}
        if association is not None:
            association.__exit__(None)

    def _drop_association(self) -> None:
        """Leave one that broke; what was prepared for it goes back into its line."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self._objects is not None:
            ahead[1].close()
            self._objects.waiting.appendleft(ahead[0])
        association, self._association = self._association, None
        self._proposed, self._contexts = frozenset(), {}
        if association is not None:
            association.__exit__(TransientError)


def _response(association: RequestedAssociation, message_id: int) -> int:
    while True:
        for event in association.receive_open():
            if isinstance(event, CommandReceived) and event.command.message_id_responded_to == message_id:
                return event.command.status or 0
