"""C-MOVE as SCP (PS3.4 C.4.2): objects to a destination that the settings name, on an association of ours.

Between two objects the requestor is heard, so that it may cancel. Where the destination breaks off, it is associated
with again; where it then takes nothing, the rest has failed.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dicomflow.archive.access import Right
from dicomflow.archive.dimse.get import begin_get
from dicomflow.archive.dimse.objects import NoContextError, PreparedObject, pairs_of, prepare
from dicomflow.archive.dimse.operation import Begin, Call
from dicomflow.archive.dimse.suboperations import SubOperations, attempt
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
_TURN_SECONDS: Final = 0.1
"""How long objects are sent before the requestor is heard again."""
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
    """One C-MOVE. Thread: the requestor's association's."""

    look_seconds: Final = 0.0

    def __init__(self, call: Call, destination: MoveDestination | None) -> None:
        self.is_done = False
        self._call = call
        self._destination = destination
        self._is_cancelled = False
        self._association: RequestedAssociation | None = None
        self._proposed: frozenset[Pair] = frozenset()
        self._contexts: dict[Pair, int] = {}
        self._has_taken = True  # whether the association before this one took anything
        self._ahead: tuple[StoredInstance, PreparedObject] | None = None
        self._objects: SubOperations | None = None
        attempt(call, self._begin, self._fail)

    def go_on(self) -> None:
        """Send objects for a moment, or end."""
        if not self.is_done:
            attempt(self._call, self._send_some, self._fail)

    def cancel(self) -> None:
        """Send no more."""
        self._is_cancelled = True

    def take_response(self, event: CommandReceived) -> None:
        """Pass over: nothing is asked of the requestor."""

    def end(self) -> None:
        """Leave the destination."""
        self.is_done = True
        self._drop_ahead()
        self._leave()
        if self._objects is not None:
            self._objects.close()

    def _begin(self) -> None:
        if self._destination is None:
            # Who may not retrieve learns nothing of what there is.
            self._call.principal.require(Right.RETRIEVE)
            self._fail(_UNKNOWN_DESTINATION, "the move destination is not in the settings")
            return
        self._objects = SubOperations(self._call, {"by": "C-MOVE", "to": self._destination.ae_title})

    def _send_some(self) -> None:
        objects = self._objects
        assert objects is not None
        until = time.monotonic() + _TURN_SECONDS
        while (objects.waiting or self._ahead) and not self._is_cancelled:
            self._send_one(objects)
            if objects.total:
                objects.tell()
            if time.monotonic() >= until:
                return
        is_cut = self._is_cancelled and bool(objects.waiting or self._ahead)
        self._drop_ahead()
        self._leave()
        self.is_done = True
        objects.finish(is_cancelled=is_cut)

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
        while objects.waiting:
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
