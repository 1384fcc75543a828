"""The services of an association that asks an archive: one operation after the other, each for who may have it.

Knows no SQL. Storage is not performed here: what is proposed beside is others' (`network/joined.py`).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dicomflow.archive.archive import Archive
from dicomflow.archive.dimse.find import begin_find
from dicomflow.archive.dimse.identifier import read_identifier
from dicomflow.archive.dimse.move import MoveDestination, retrieval_begins
from dicomflow.archive.dimse.operation import Begin, Call, Operation
from dicomflow.archive.dimse.peers import Peers
from dicomflow.dicom.uids import PATIENT_ROOT_FIND, PATIENT_ROOT_GET, STUDY_ROOT_FIND, STUDY_ROOT_GET
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import CommandField, encode_response
from dicomflow.dimse.events import AssociationAborted, CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import Offer
from dicomflow.dimse.pdu import AssociateReject, AssociateRequest
from dicomflow.dimse.status import Status
from dicomflow.errors import PeerError, TransientError

__all__ = ["ArchiveServices", "ArchiveSite", "operations"]

_MAX_IDENTIFIER_BYTES: Final = 4 << 20
# PS3.4 Table C.5-1: the bytes of extended negotiation that are accepted here, in their order.
_OF_FIND: Final = b"\x01\x01\x01\x00\x00\x01\x01"
_AGREED: Final = {PATIENT_ROOT_FIND: _OF_FIND, STUDY_ROOT_FIND: _OF_FIND}
_GETS: Final = frozenset({PATIENT_ROOT_GET, STUDY_ROOT_GET})
_logger = logging.getLogger(__name__)


def operations(destinations: Mapping[str, MoveDestination]) -> Mapping[tuple[str, int], Begin]:
    """Return what begins each operation, by SOP class and command field.

    Args:
        destinations: where a C-MOVE may go, by AE title.
    """
    finds = {(uid, int(CommandField.C_FIND_RQ)): begin_find for uid in (PATIENT_ROOT_FIND, STUDY_ROOT_FIND)}
    return {**finds, **retrieval_begins(destinations)}


@dataclass(frozen=True, slots=True)
class ArchiveSite:
    """What the services of all associations of a process share.

    Attributes:
        begin: what begins each operation, by SOP class and command field.
    """

    archive: Archive
    peers: Peers
    begin: Mapping[tuple[str, int], Begin] = field(default_factory=lambda: operations({}))

    def serve(self, acceptor: Acceptor, association_id: str, peer: str) -> "ArchiveServices":
        """Make the services of an association."""
        return ArchiveServices(self, acceptor, association_id, peer)


class ArchiveServices:
    """Performs the queries and retrievals of one association. Thread: the association's.

    Args:
        site: what it shares with the others.
        acceptor: the association's protocol core, which takes the answers.
        association_id: the association's.
        peer: the requestor's address, without port.
    """

    def __init__(self, site: ArchiveSite, acceptor: Acceptor, association_id: str, peer: str) -> None:
        self.has_work = False
        self._site = site
        self._acceptor = acceptor
        self._association_id = association_id
        self._peer = peer
        self._certificate: bytes | None = None
        self._calling = self._called = ""
        self._asked = 0
        self._extended: dict[str, bytes] = {}
        self._event: CommandReceived | None = None
        self._identifier = bytearray()
        self._is_too_long = False
        self._operation: Operation | None = None

    @property
    def offer(self) -> Offer:
        """The queries, where anybody may ask; who may not is told so when it does."""
        if not self._site.peers.has_any:
            return Offer(storage=False)
        served = frozenset(uid for uid, _ in self._site.begin)
        return Offer(
            storage=False,
            services=served,
            retrieving=_GETS & served,
            stored_syntaxes=self._stored_syntaxes() if _GETS & served else (),
            extended=tuple(_AGREED.items()),
        )

    @property
    def look_seconds(self) -> float | None:
        """At once, or as the operation under way has it."""
        return None if self._operation is None else self._operation.look_seconds

    def take_certificate(self, certificate: bytes) -> None:
        """Take note of the certificate by which the requestor proved itself."""
        self._certificate = certificate

    def refuse(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        """Take note of who asks, and of what it offers to agree on."""
        self._calling, self._called = request.calling_ae_title, request.called_ae_title
        self._extended = dict(request.extended)
        return None

    def take_command(self, event: CommandReceived) -> AssociationAborted | None:
        """Take a request, a C-CANCEL of the one under way, or a response to ours."""
        command = event.command
        if command.is_response:
            if self._operation is not None:
                self._operation.take_response(event)
            return None
        if command.command_field == CommandField.C_CANCEL_RQ:
            if self._operation is not None:
                self._operation.cancel()
            return None
        self.has_work = self.has_work or command.command_field != CommandField.C_ECHO_RQ
        self._event, self._is_too_long = event, False
        self._identifier.clear()
        if not command.has_data_set:
            self._perform()
        return None

    def take_data_set(self, event: DataSetReceived) -> None:
        """Take the next bytes of an identifier; after the last begin the operation."""
        if self._event is None:
            return
        for fragment in event.fragments:
            self._is_too_long = self._is_too_long or len(self._identifier) + len(fragment) > _MAX_IDENTIFIER_BYTES
            if not self._is_too_long:
                self._identifier += fragment
        if event.is_last:
            self._perform()

    def look(self) -> bool:
        """Go on with the operation under way."""
        operation = self._operation
        if operation is None:
            return False
        # While an answer of the peer's is awaited, it is not us whom it waits for.
        is_ours = not operation.look_seconds
        operation.go_on()
        if operation.is_done:
            self._operation = None
        return is_ours

    def end(self, how: str) -> None:
        """Leave the operation under way."""
        del how
        operation, self._operation = self._operation, None
        if operation is not None:
            operation.end()

    def outcome(self) -> dict[str, object]:
        """Return how many operations were performed."""
        return {"asked": self._asked}

    def _stored_syntaxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return what objects are stored in; where the catalog does not say, none are preferred."""
        try:
            return self._site.archive.retrieval.stored_syntaxes()
        except TransientError:
            return ()

    def _perform(self) -> None:
        """Answer what is no operation at once, and begin one."""
        event, self._event = self._event, None
        assert event is not None
        command, context = event.command, event.context
        if command.command_field == CommandField.C_ECHO_RQ:
            self._answer(event, Status.SUCCESS)
            return
        begin = self._site.begin.get((context.abstract_syntax, command.command_field))
        if begin is None:
            self._answer(event, Status.UNRECOGNIZED_OPERATION)
        elif self._operation is not None:
            # One operation at a time was agreed (PS3.7 D.3.3.3).
            self._answer(event, Status.DUPLICATE_INVOCATION, "another operation is under way")
        elif self._is_too_long:
            self._answer(event, Status.OUT_OF_RESOURCES, f"the identifier exceeds {_MAX_IDENTIFIER_BYTES:,} bytes")
        else:
            self._begin(event, begin)

    def _begin(self, event: CommandReceived, begin: Begin) -> None:
        context = event.context
        self._asked += 1
        try:
            identifier = read_identifier(bytes(self._identifier), context.transfer_syntax)
        except PeerError as error:
            self._answer(event, Status.DATA_SET_MISMATCH, str(error))
            return
        offered = self._extended.get(context.abstract_syntax, b"")
        ours = _AGREED.get(context.abstract_syntax, b"")
        call = Call(
            archive=self._site.archive,
            acceptor=self._acceptor,
            context=context,
            command=event.command,
            identifier=identifier,
            principal=self._site.peers.principal_of(self._calling, self._peer, self._certificate),
            calling_ae_title=self._calling,
            called_ae_title=self._called,
            agreed=bytes(mine & theirs for mine, theirs in zip(ours, offered, strict=False)),
        )
        operation = begin(call)
        self._operation = None if operation.is_done else operation

    def _answer(self, event: CommandReceived, status: int, comment: str = "") -> None:
        self._acceptor.send(event.context.context_id, encode_response(event.command, status, comment))
