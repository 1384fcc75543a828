"""Two services on one association: what is stored goes to one, what is asked of an archive to the other.

Each sees its own messages alone; what is proposed is accepted where either takes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import CommandField
from dicomflow.dimse.events import AssociationAborted, CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import Offer
from dicomflow.dimse.pdu import AssociateReject, AssociateRequest
from dicomflow.network.services import Services

__all__ = ["joined"]

_C_STORE_RSP: Final = CommandField.C_STORE_RQ | 0x8000
"""The answer to a sub-operation of a C-GET: only an archive asks its requestor to store."""

Serve = Callable[[Acceptor, str, str], Services]


def joined(storing: Serve, asking: Serve) -> Serve:
    """Return what makes the services of an association from those of both."""

    def serve(acceptor: Acceptor, association_id: str, peer: str) -> Services:
        return _Joined(storing(acceptor, association_id, peer), asking(acceptor, association_id, peer))

    return serve


class _Joined:
    """Both services of one association. Thread: the association's."""

    def __init__(self, storing: Services, asking: Services) -> None:
        self._storing = storing
        self._asking = asking
        self._current = storing  # whose message is under way

    @property
    def offer(self) -> Offer:
        """What either takes."""
        mine, theirs = self._storing.offer, self._asking.offer
        return replace(theirs, storage=mine.storage, services=mine.services | theirs.services)

    @property
    def has_work(self) -> bool:
        """Whether either was asked for anything."""
        return self._storing.has_work or self._asking.has_work

    @property
    def look_seconds(self) -> float | None:
        """The shorter of both."""
        return min(
            (each for each in (self._storing.look_seconds, self._asking.look_seconds) if each is not None), default=None
        )

    def take_certificate(self, certificate: bytes) -> None:
        """Hand on to both."""
        self._storing.take_certificate(certificate)
        self._asking.take_certificate(certificate)

    def refuse(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        """Let both know; either may refuse."""
        asking = self._asking.refuse(request)
        return self._storing.refuse(request) or asking

    def take_command(self, event: CommandReceived) -> AssociationAborted | None:
        """Hand on to whom it is for."""
        is_asked = event.context.abstract_syntax in self._asking.offer.services
        is_asked = is_asked or event.command.command_field == _C_STORE_RSP
        self._current = self._asking if is_asked else self._storing
        return self._current.take_command(event)

    def take_data_set(self, event: DataSetReceived) -> None:
        """Hand on to whose command it follows."""
        self._current.take_data_set(event)

    def look(self) -> bool:
        """Let go on who has something to say."""
        waits = [each.look() for each in (self._storing, self._asking) if each.look_seconds is not None]
        return any(waits)

    def end(self, how: str) -> None:
        """Let both leave."""
        self._storing.end(how)
        self._asking.end(how)

    def outcome(self) -> Mapping[str, object]:
        """Return what came of both."""
        return {**self._storing.outcome(), **self._asking.outcome()}
