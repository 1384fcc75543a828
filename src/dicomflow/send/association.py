"""Send stored objects over DIMSE: a blocking store SCU around the requestor's core (PS3.4 B.2.1).

Objects are sent as they are stored: the transfer syntax of the file is the one that is proposed. The data set is
mapped, not read, so an object's size costs no memory.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from dicomflow.dicom.uids import VERIFICATION
from dicomflow.dimse.command import Command, CommandField, Priority, encode_command
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationAccepted,
    AssociationRejected,
    AssociationReleased,
    CommandReceived,
    ConnectionLost,
    Event,
)
from dicomflow.dimse.items import Role
from dicomflow.dimse.message import MAX_SENT_PDU_BYTES
from dicomflow.dimse.pdu import AbortSource, AssociateRequest, ProposedContext
from dicomflow.dimse.requestor import Requestor, RequestorState
from dicomflow.dimse.status import AbortReason, Status
from dicomflow.errors import PermanentError, TransientError
from dicomflow.network.sending import send_all
from dicomflow.send.files import StoredFile

__all__ = ["Outcome", "SendAssociation"]

_RECEIVE_BYTES: Final = 64 << 10
_MAX_MESSAGE_ID: Final = 0xFFFF
# Set again before each receive, since the kernel clears it: a receiver that leaves Nagle's algorithm on, as DCMTK's
# does, sends the second half of its response when we have acknowledged the first.
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: the status of its response, or the reason why there was none."""

    file: StoredFile
    status: int | None
    reason: str

    @property
    def is_stored(self) -> bool:
        """Whether the peer says that it has the object: Success, or a warning (PS3.7 Annex C)."""
        return self.status is not None and (
            self.status == Status.SUCCESS or self.status in _WARNINGS or self.status >> 12 == 0xB
        )


class SendAssociation:
    """An association to a receiver, from `__enter__` to `__exit__`. Thread: one owner.

    Raises:
        TransientError: on entering or sending, when the peer cannot be reached, is busy, or breaks off.
        PermanentError: on entering, when the peer rejects the association for good.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pairs: Sequence[tuple[str, str]],
        *,
        calling_ae_title: str,
        called_ae_title: str,
        timeout_seconds: float,
        max_pdu_bytes: int = MAX_SENT_PDU_BYTES,
        roles: tuple[Role, ...] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        contexts = tuple(
            ProposedContext(2 * index + 1, abstract_syntax, (transfer_syntax,))
            for index, (abstract_syntax, transfer_syntax) in enumerate(pairs)
        )
        self._proposed = frozenset(pairs)
        self._address = (host, port)
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._requestor = Requestor(
            AssociateRequest(called_ae_title, calling_ae_title, contexts, max_pdu_bytes, roles=roles)
        )
        self._granted: tuple[Role, ...] = ()
        self._contexts: dict[tuple[str, str], int] = {}
        self._message_id = 0
        self._comment = ""
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        """Connect and associate."""
        try:
            self._connection = socket.create_connection(self._address, timeout=self._timeout_seconds)
        except OSError as error:
            host, port = self._address
            raise TransientError(f"cannot connect to {host} port {port}: {error.strerror or error}") from error
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                self._connection = self._encrypted(self._tls, self._connection)
            self._send()
            self._await_acceptance()
        except BaseException:
            self._connection.close()
            raise
        self._contexts = {
            (context.abstract_syntax, context.transfer_syntax): context_id
            for context_id, context in self._requestor.contexts.items()
        }
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Release, or abort after an error."""
        assert self._connection is not None
        try:
            if self._requestor.state is RequestorState.STA6:
                if kind is None:
                    self._requestor.release()
                else:
                    self._requestor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "")
                self._send()
            while self._requestor.state is RequestorState.STA7:
                for _event in self._receive():
                    pass
        except (OSError, TransientError):
            pass  # every response that mattered has been read
        finally:
            self._connection.close()

    def echo(self) -> int:
        """C-ECHO; return the status of the response (PS3.7 9.1.5)."""
        command = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION.encode("ascii"))
        return self.request(VERIFICATION, command, lambda _: None)

    def is_scp_of(self, sop_class_uid: str) -> bool:
        """Tell whether the peer granted us the role of SCP for a SOP class (PS3.7 D.3.3.4)."""
        return any(role.sop_class_uid == sop_class_uid and role.scp for role in self._granted)

    def request(self, abstract_syntax: str, command: Command, encode: Callable[[str], bytes | None]) -> int:
        """Send a request on the first accepted context of an abstract syntax; return the status of the response.

        Args:
            abstract_syntax: what the request is about.
            command: its command set; the message ID is ours to give.
            encode: gives the data set in a transfer syntax, or None for none.

        Raises:
            PermanentError: the peer accepts no context for it.
        """
        for (abstract, transfer_syntax), context_id in self._contexts.items():
            if abstract == abstract_syntax:
                numbered = replace(command, message_id=self._next_message_id())
                self._requestor.send(context_id, encode_command(numbered), encode(transfer_syntax))
                return self._await_response()
        raise PermanentError(f"the peer accepts no presentation context for {abstract_syntax}")

    def accepts(self, pair: tuple[str, str]) -> bool:
        """Tell whether the peer accepted a context for a SOP class in a transfer syntax."""
        return pair in self._contexts

    def covers(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Tell whether all of these SOP classes and transfer syntaxes were proposed, accepted or not."""
        return self._proposed.issuperset(pairs)

    def store(self, file: StoredFile) -> Outcome:
        """C-STORE one file and wait for its response (PS3.7 9.1.1); one that cannot be read has its own outcome."""
        return next(self.store_all([file]))

    def store_all(self, files: Iterable[StoredFile]) -> Iterator[Outcome]:
        """C-STORE files one after the other, in order; the next one is opened while the peer works on the last."""
        under_way: StoredFile | None = None
        with contextlib.ExitStack() as opened:
            for file in files:
                ready = self._open(file, opened)
                if under_way is not None:
                    yield self._finish(under_way)
                    under_way = None
                if isinstance(ready, Outcome):
                    yield ready
                    continue
                context_id, data_set = ready
                self._requestor.send(context_id, self._encode_store(file), data_set)
                self._send()
                del ready, data_set
                opened.close()
                under_way = file
            if under_way is not None:
                yield self._finish(under_way)

    def _open(self, file: StoredFile, opened: contextlib.ExitStack) -> tuple[int, memoryview] | Outcome:
        meta = file.meta
        context_id = self._contexts.get((meta.sop_class_uid, meta.transfer_syntax_uid))
        if context_id is None:
            reason = f"the peer accepts no context for {meta.sop_class_uid} in {meta.transfer_syntax_uid}"
            return Outcome(file, None, reason)
        try:
            return context_id, opened.enter_context(file.data_set())
        except (OSError, ValueError) as error:  # ValueError: it has become empty, and cannot be mapped
            return Outcome(file, None, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        except PermanentError as error:
            return Outcome(file, None, str(error))

    def _encode_store(self, file: StoredFile) -> bytes:
        return encode_command(
            Command(
                CommandField.C_STORE_RQ,
                message_id=self._next_message_id(),
                affected_sop_class_uid=file.meta.sop_class_uid.encode("ascii"),
                affected_sop_instance_uid=file.meta.sop_instance_uid.encode("ascii"),
                priority=Priority.MEDIUM,
                data_set_type=1,
            )
        )

    def _finish(self, file: StoredFile) -> Outcome:
        status = self._await_response()
        return Outcome(file, status, "" if status == Status.SUCCESS else f"status {status:04X}H{self._comment}")

    def _encrypted(self, tls: ssl.SSLContext, connection: socket.socket) -> socket.socket:
        try:
            return tls.wrap_socket(connection, server_hostname=self._address[0])
        except ssl.SSLCertVerificationError as error:
            raise TransientError(f"the peer's certificate is not trusted: {error.verify_message}") from error
        except (OSError, ValueError) as error:  # of the first `SSLError` is one
            raise TransientError(f"no TLS: {getattr(error, 'reason', None) or error}") from error

    def _await_acceptance(self) -> None:
        while True:
            for event in self._receive():
                match event:
                    case AssociationAccepted():
                        self._granted = event.accept.roles
                        return
                    case AssociationRejected():
                        reject = event.reject
                        text = f"association rejected {reject.result}/{reject.source}/{reject.reason}"
                        # Result 1 is permanent, 2 transient (PS3.8 9.3.4).
                        raise (PermanentError if reject.result == 1 else TransientError)(text)

    def _await_response(self) -> int:
        self._send()
        while True:
            for event in self._receive():
                if isinstance(event, CommandReceived) and event.command.status is not None:
                    if event.command.message_id_responded_to == self._message_id:
                        self._comment = f": {event.command.error_comment}" if event.command.error_comment else ""
                        return event.command.status
                elif isinstance(event, AssociationReleased):
                    raise TransientError("the peer released the association")

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % _MAX_MESSAGE_ID + 1
        return self._message_id

    def _receive(self) -> Iterator[Event]:
        """Yield the events of one receive; the end of the association is an error."""
        assert self._connection is not None
        try:
            if _QUICKACK is not None:
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            received = self._connection.recv_into(self._buffer)
        except OSError as error:
            raise TransientError(f"no answer: {error.strerror or error}") from error
        events = self._requestor.receive(self._buffer[:received]) if received else self._requestor.receive_eof()
        for event in events:
            match event:
                case AssociationAborted():
                    raise TransientError(f"association aborted {event.source}/{event.reason}: {event.message}")
                case ConnectionLost():
                    raise TransientError("the peer closed the connection")
            yield event

    def _send(self) -> None:
        assert self._connection is not None
        try:
            send_all(self._connection, self._requestor.parts_to_send())
        except OSError as error:
            raise TransientError(f"cannot send: {error.strerror or error}") from error
