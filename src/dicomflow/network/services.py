"""What an association is for, as the network sees it: whoever listens says how its messages are served.

The network knows no spool and no archive: it hands over what was received, and sends what the services answer.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.events import AssociationAborted, CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import Offer
from dicomflow.dimse.pdu import AssociateReject, AssociateRequest
from dicomflow.network.admission import Admission
from dicomflow.network.probes import Probes
from dicomflow.network.settings import DimseSettings
from dicomflow.network.users import Users

__all__ = ["Beside", "Host", "Services"]


class Services(Protocol):
    """Performs and answers the messages of one association, through its protocol core. Thread: the association's."""

    @property
    def offer(self) -> Offer:
        """What is accepted where it is proposed; asked for after `refuse`, so that it may depend on who asks."""

    @property
    def has_work(self) -> bool:
        """Whether the requestor asked for anything but whether we are there (C-ECHO)."""

    @property
    def look_seconds(self) -> float | None:
        """How long the peer may be silent before `look` is called; None for as long as it may be.

        0 while there is something of ours to go on with: `look` is then called again and again, and between two calls
        what the peer says is taken, a C-CANCEL as well.
        """

    def take_certificate(self, certificate: bytes) -> None:
        """Take note of the certificate, DER, by which the requestor proved itself; before `refuse`, where it did."""

    def refuse(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        """Take note of who asks; return the rejection and its reason for the log where it cannot be served now."""

    def take_command(self, event: CommandReceived) -> AssociationAborted | None:
        """Take a command set, and perform it when no data set follows. Returns our abort, if it led to one."""

    def take_data_set(self, event: DataSetReceived) -> None:
        """Take the next bytes of a data set, and perform its command after the last."""

    def look(self) -> bool:
        """Go on with what is ours to say: the peer is silent. Returns whether it waits for us."""

    def end(self, how: str) -> None:
        """Drop what is half received: the association is released, aborted or lost. May be called again."""

    def outcome(self) -> Mapping[str, object]:
        """Return what came of it, by name: the fields of its line in the log."""


class Beside(Protocol):
    """What a process serves on the same associations beside its own services, from its making to `close`."""

    def serve(self, acceptor: Acceptor, association_id: str, peer: str) -> Services:
        """Make the services of an association. Threads: any."""

    def close(self) -> None:
        """End what runs for it: no association is left."""


@dataclass(frozen=True, slots=True)
class Host:
    """What all associations of a process share.

    Attributes:
        serve: makes the services of an association from its protocol core, its id and the requestor's address.
        draining: set when it stops: no association begins, and those that are open are ended.
        note_end: is told how each connection ended (rejected, released, …) and the calling AE title.
    """

    settings: DimseSettings
    serve: Callable[[Acceptor, str, str], Services]
    draining: threading.Event
    admission: Admission
    users: Users | None = None
    note_end: Callable[[str, str], None] = lambda _how, _calling: None
    probes: Probes = field(default_factory=Probes)
