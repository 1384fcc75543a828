"""What a protocol core tells its caller: one value for each thing that happened on the association."""

from dataclasses import dataclass

from dicomflow.dimse.command import Command
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.pdu import AssociateAccept, AssociateReject, AssociateRequest

__all__ = [
    "AssociationAborted",
    "AssociationAccepted",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationRequested",
    "CommandReceived",
    "ConnectionLost",
    "DataSetReceived",
    "Event",
]


@dataclass(frozen=True, slots=True)
class AssociationRequested:
    """The peer asks for an association; answer with `accept` or `reject` before taking the next event."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class AssociationAccepted:
    """The peer accepted our request, context by context."""

    accept: AssociateAccept


@dataclass(frozen=True, slots=True)
class AssociationRejected:
    """The peer rejected our request."""

    reject: AssociateReject


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A whole command set; when it has a data set, `DataSetReceived` events follow until the last."""

    context: AcceptedContext
    command: Command


@dataclass(frozen=True, slots=True)
class DataSetReceived:
    """The next bytes of a data set, as views of the received buffer: valid until more bytes are received."""

    fragments: list[memoryview]
    is_last: bool


@dataclass(frozen=True, slots=True)
class AssociationReleased:
    """The association is released: a release of the peer's is answered, or one of ours is confirmed."""


@dataclass(frozen=True, slots=True)
class AssociationAborted:
    """The association is aborted, by the peer or by us; source and reason as in PS3.8 9.3.8."""

    source: int
    reason: int
    by_peer: bool
    message: str


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The transport closed without release or abort."""


Event = (
    AssociationRequested
    | AssociationAccepted
    | AssociationRejected
    | CommandReceived
    | DataSetReceived
    | AssociationReleased
    | AssociationAborted
    | ConnectionLost
)
