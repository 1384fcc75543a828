"""An association that we ask for: connect, TLS, negotiation, messages out and events in, and its end.

A blocking shell around the requestor's core. What is sent and what the answers mean is the services': storing is
`send/`'s, asking and retrieving `queries`' and `retrieving`'s.
"""

import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final, Self

from dicomflow.dimse.command import Command, encode_command
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationAccepted,
    AssociationRejected,
    AssociationReleased,
    ConnectionLost,
    Event,
)
from dicomflow.dimse.items import Role, UserIdentity
from dicomflow.dimse.message import MAX_SENT_PDU_BYTES
from dicomflow.dimse.pdu import AbortSource, AssociateRequest, ProposedContext
from dicomflow.dimse.requestor import Requestor, RequestorState
from dicomflow.dimse.status import AbortReason, describe_rejection
from dicomflow.errors import PermanentError, TransientError
from dicomflow.network.sending import send_all

__all__ = ["RequestedAssociation", "propose"]

_RECEIVE_BYTES: Final = 64 << 10
_MAX_MESSAGE_ID: Final = 0xFFFF
# Set again before each receive, since the kernel clears it: a receiver that leaves Nagle's algorithm on, as DCMTK's
# does, sends the second half of its response when we have acknowledged the first.
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


def propose(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[ProposedContext, ...]:
    """Return a presentation context for each pair, with odd IDs (PS3.8 9.3.2.2)."""
    return tuple(ProposedContext(2 * index + 1, abstract, tuple(each)) for index, (abstract, each) in enumerate(pairs))


class RequestedAssociation:
    """An association to a peer, from `__enter__` to `__exit__`. Thread: one owner.

    Raises:
        TransientError: on entering or sending, when the peer cannot be reached, is busy, or breaks off.
        PermanentError: on entering, when the peer rejects the association for good.
    """

    def __init__(
        self,
        host: str,
        port: int,
        contexts: Sequence[ProposedContext],
        *,
        calling_ae_title: str,
        called_ae_title: str,
        timeout_seconds: float,
        max_pdu_bytes: int = MAX_SENT_PDU_BYTES,
        roles: tuple[Role, ...] = (),
        tls: ssl.SSLContext | None = None,
        user_identity: UserIdentity | None = None,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._requestor = Requestor(
            AssociateRequest(
                called_ae_title,
                calling_ae_title,
                tuple(contexts),
                max_pdu_bytes,
                roles=roles,
                user_identity=user_identity,
            )
        )
        self._granted: tuple[Role, ...] = ()
        self._message_id = 0
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
            self.flush()
            self._await_acceptance()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Release, or abort after an error."""
        assert self._connection is not None
        try:
            if self._requestor.state is RequestorState.STA6:
                if kind is None:
                    self._requestor.release()
                    self.flush()
                else:
                    self.abort()
            while self._requestor.state is RequestorState.STA7:
                for _event in self.receive():
                    pass
        except (OSError, TransientError):
            pass  # every response that mattered has been read
        finally:
            self._connection.close()

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self._connection is not None and self._requestor.state is RequestorState.STA6

    def is_scp_of(self, sop_class_uid: str) -> bool:
        """Tell whether the peer granted us the role of SCP for a SOP class (PS3.7 D.3.3.4)."""
        return any(role.sop_class_uid == sop_class_uid and role.scp for role in self._granted)

    def accepted(self) -> dict[tuple[str, str], int]:
        """Return the IDs of the accepted contexts by abstract and transfer syntax."""
        return {
            (context.abstract_syntax, context.transfer_syntax): context_id
            for context_id, context in self._requestor.contexts.items()
        }

    def context_of(self, abstract_syntax: str) -> tuple[int, str]:
        """Return ID and transfer syntax of the first accepted context of an abstract syntax.

        Raises:
            PermanentError: the peer accepts none.
        """
        for (abstract, transfer_syntax), context_id in self.accepted().items():
            if abstract == abstract_syntax:
                return context_id, transfer_syntax
        raise PermanentError(f"the peer accepts no presentation context for {abstract_syntax}")

    def next_message_id(self) -> int:
        """Return a message ID that no request before had."""
        self._message_id = self._message_id % _MAX_MESSAGE_ID + 1
        return self._message_id

    def send(self, context_id: int, command: Command | bytes, data_set: bytes | memoryview | None = None) -> None:
        """Have a message sent by the next `flush`. Raises `TransientError` when the peer has ended the association."""
        if self._requestor.state is not RequestorState.STA6:
            raise TransientError("the peer has ended the association")
        encoded = command if isinstance(command, bytes) else encode_command(command)
        self._requestor.send(context_id, encoded, data_set)

    def receive(self, look_seconds: float | None = None) -> Iterator[Event]:
        """Yield the events of one receive; the end of the association is an error, and no bytes in time are too.

        With `look_seconds` it returns after so many, and that nothing came is none.
        """
        assert self._connection is not None
        try:
            if _QUICKACK is not None:
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            self._connection.settimeout(self._timeout_seconds if look_seconds is None else look_seconds)
            received = self._connection.recv_into(self._buffer)
        except OSError as error:
            if isinstance(error, TimeoutError) and look_seconds is not None:
                return
            raise TransientError(f"no answer: {error.strerror or error}") from error
        finally:
            self._connection.settimeout(self._timeout_seconds)
        events = self._requestor.receive(self._buffer[:received]) if received else self._requestor.receive_eof()
        for event in events:
            match event:
                case AssociationAborted():
                    raise TransientError(f"association aborted {event.source}/{event.reason}: {event.message}")
                case ConnectionLost():
                    raise TransientError("the peer closed the connection")
            yield event

    def receive_open(self, look_seconds: float | None = None) -> Iterator[Event]:
        """Yield as `receive`; a release by the peer is an error as well."""
        for event in self.receive(look_seconds):
            if isinstance(event, AssociationReleased):
                raise TransientError("the peer released the association")
            yield event

    def abort(self) -> None:
        """Send A-ABORT; what follows is the end of the association."""
        self._requestor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "")
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent, a message in as few segments as it takes: peers wait for the rest of a cut one."""
        assert self._connection is not None
        try:
            send_all(self._connection, self._requestor.parts_to_send())
        except OSError as error:
            raise TransientError(f"cannot send: {error.strerror or error}") from error

    def _encrypted(self, tls: ssl.SSLContext, connection: socket.socket) -> socket.socket:
        try:
            return tls.wrap_socket(connection, server_hostname=self._address[0])
        except ssl.SSLCertVerificationError as error:
            raise TransientError(f"the peer's certificate is not trusted: {error.verify_message}") from error
        except (OSError, ValueError) as error:  # of the first `SSLError` is one
            raise TransientError(f"no TLS: {getattr(error, 'reason', None) or error}") from error

    def _await_acceptance(self) -> None:
        while True:
            for event in self.receive():
                match event:
                    case AssociationAccepted():
                        self._granted = event.accept.roles
                        return
                    case AssociationRejected():
                        # Result 1 is permanent, 2 transient (PS3.8 9.3.4).
                        kind = PermanentError if event.reject.result == 1 else TransientError
                        raise kind(describe_rejection(event.reject))
