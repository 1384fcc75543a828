"""One operation of an association, a C-FIND, C-MOVE or C-GET: it says a little at a time, and what is said is heard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from dicomflow.archive.access import Principal
from dicomflow.archive.archive import Archive
from dicomflow.archive.dimse.identifier import Identifier
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import NO_DATA_SET, Command, encode_command
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.negotiation import AcceptedContext

__all__ = ["Begin", "Call", "Counts", "Operation"]

_RESPONSE: Final = 0x8000
_HAS_DATA_SET: Final = 0x0001


class Counts(NamedTuple):
    """Sub-operations by what became of them (PS3.7 9.1.3); None is left out."""

    remaining: int | None
    completed: int | None
    failed: int | None
    warning: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation is performed for.

    `agreed` are the bytes of extended negotiation for its SOP class, those that were accepted (PS3.4 C.5.1).
    """

    archive: Archive
    acceptor: Acceptor
    context: AcceptedContext
    command: Command
    identifier: Identifier
    principal: Principal
    calling_ae_title: str
    called_ae_title: str
    agreed: bytes = b""

    def respond(
        self, status: int, *, comment: str = "", data_set: bytes | None = None, counts: Counts | None = None
    ) -> None:
        """Send a response."""
        command = self.encoded_response(status, comment=comment, has_data_set=data_set is not None, counts=counts)
        self.acceptor.send(self.context.context_id, command, data_set)

    def encoded_response(
        self, status: int, *, comment: str = "", has_data_set: bool = False, counts: Counts | None = None
    ) -> bytes:
        """Encode a response's command set."""
        told = Counts(None, None, None, None) if counts is None else counts
        response = Command(
            command_field=self.command.command_field | _RESPONSE,
            message_id_responded_to=self.command.message_id or 0,
            affected_sop_class_uid=self.command.affected_sop_class_uid,
            data_set_type=_HAS_DATA_SET if has_data_set else NO_DATA_SET,
            status=status,
            error_comment=comment,
            remaining_suboperations=told.remaining,
            completed_suboperations=told.completed,
            failed_suboperations=told.failed,
            warning_suboperations=told.warning,
        )
        return encode_command(response)


class Operation(Protocol):
    """An operation under way. Thread: the association's."""

    @property
    def look_seconds(self) -> float:
        """How long to wait for the peer before `go_on`; 0 to go on at once."""

    @property
    def is_done(self) -> bool:
        """Whether the final response is sent."""

    def go_on(self) -> None:
        """Do and send the next part; the last ends with the final response."""

    def cancel(self) -> None:
        """The requestor wants no more (C-CANCEL): end with FE00H at the next `go_on`."""

    def take_response(self, event: CommandReceived) -> None:
        """Take what the requestor answers to a request of ours."""

    def end(self) -> None:
        """Leave: the association is over."""


Begin: TypeAlias = Callable[[Call], Operation]
