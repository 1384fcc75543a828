"""One association on its own thread: a socket on one side, the protocol core and the services on the other.

ARTIM runs until the request has come and after the last word; an association without a PDU for `idle_seconds` is
aborted (PS3.8 9.1.5). What one association does cannot reach another.
"""

import contextlib
import logging
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Final

from dicomflow.dicom.uids import STORAGE_COMMITMENT, VERIFICATION
from dicomflow.dimse.acceptor import Acceptor, State
from dicomflow.dimse.command import CommandField, encode_response
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationReleased,
    AssociationRequested,
    CommandReceived,
    ConnectionLost,
    DataSetReceived,
    Event,
)
from dicomflow.dimse.negotiation import negotiate, proposes_storage
from dicomflow.dimse.pdu import AbortSource, AssociateReject, AssociateRequest
from dicomflow.dimse.status import AbortReason, Rejection, Status
from dicomflow.edge.access import check_request
from dicomflow.edge.admission import Admission
from dicomflow.edge.commitment import MAX_ACTION_BYTES, Commitments, accept_action
from dicomflow.edge.metrics import Metrics
from dicomflow.edge.settings import DimseSettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.storage import REFUSALS, StoreReception
from dicomflow.edge.tls import TlsContexts
from dicomflow.edge.users import Users
from dicomflow.edge.watermark import Watermark

__all__ = ["Association", "Receiver"]

_RECEIVE_BUFFER_BYTES: Final = 256 << 10
# Set again before each receive, since the kernel clears it: a sender that leaves Nagle's algorithm on waits for
# the acknowledgement of its last segment.
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_LINGER_AFTER_ABORT_SECONDS: Final = 0.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """What all associations of a process share."""

    settings: DimseSettings
    spool: Spool
    watermark: Watermark
    draining: threading.Event
    admission: Admission
    users: Users | None = None
    metrics: Metrics | None = None
    # None where no peer may ask for commitment.
    commitments: Commitments | None = None
    commitment_peers: frozenset[str] = frozenset()


class Association:
    """One connection from its acceptance to its close.

    Args:
        receiver: what it shares with the others.
        connection: the accepted socket; `run` closes it.
        peer: the requestor's address, without port.
        tls: the contexts of the listener that took the connection, when it speaks TLS.
    """

    def __init__(
        self, receiver: Receiver, connection: socket.socket, peer: str, tls: TlsContexts | None = None
    ) -> None:
        self.association_id = uuid.uuid4().hex
        self._receiver = receiver
        self._connection = connection
        self._peer = peer
        self._tls = tls
        self._place: int | None = None
        self._acceptor = Acceptor()
        self._reception: StoreReception | None = None
        self._unperformed: CommandReceived | None = None
        self._action: bytearray | None = None  # the data set of an N-ACTION as it comes
        self._calling = self._called = ""
        self._is_marked = False
        self._stored = self._stored_bytes = self._refused = 0
        self._started_at = self._artim_started_at = time.monotonic()
        self._is_ending = self._is_logged = self._is_idle_timed = False

    def run(self) -> None:
        """Serve the association to its end; no exception leaves."""
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                self._shake_hands(self._tls)
            self._serve()
        except OSError as error:
            self._log_end("lost", f"transport failed: {error.strerror or error}")
        except Exception:
            _logger.exception("association_failed association=%s peer=%s", self.association_id, self._peer)
            self._abort("internal error")
        finally:
            self._end("lost")
            self._connection.close()

    def wake(self) -> None:
        """Make a thread that waits for the peer look at `draining`; a message under way goes on. Any thread."""
        if self._acceptor.is_between_messages or self._acceptor.state is State.STA13:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """Close the transport under a thread that did not end in time. Any thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _shake_hands(self, tls: TlsContexts) -> None:
        """Wrap the connection; ARTIM covers the handshake. Raises `OSError`, of which `SSLError` is one."""
        self._connection.settimeout(self._receiver.settings.artim_seconds)
        self._connection = tls.current().wrap_socket(self._connection, server_side=True)

    def _serve(self) -> None:
        acceptor = self._acceptor
        buffer = bytearray(_RECEIVE_BUFFER_BYTES)
        view = memoryview(buffer)
        while acceptor.state is not State.STA1:
            if not self._wait():
                break
            if _QUICKACK is not None:
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            try:
                received = self._connection.recv_into(buffer)
            except TimeoutError:
                self._expired()
                continue
            events = acceptor.receive(view[:received]) if received else acceptor.receive_eof()
            if not received and self._receiver.draining.is_set() and acceptor.state is not State.STA13:
                self._abort("the receiver is stopping")
                break
            for event in events:
                self._act(event)
                self._send()
            self._send()
        self._log_end("silent", "connection closed before an association request")

    def _wait(self) -> bool:
        """Set the time the next receive may take; False when the association is over."""
        settings, acceptor = self._receiver.settings, self._acceptor
        if acceptor.state is State.STA6:
            if self._receiver.draining.is_set() and acceptor.is_between_messages:
                self._abort("the receiver is stopping")
                return False
            if not self._is_idle_timed:
                self._is_idle_timed = True
                self._connection.settimeout(settings.idle_seconds)
            return True
        if acceptor.state is State.STA13:
            if self._receiver.draining.is_set():
                return False
            if not self._is_ending:
                self._is_ending, self._artim_started_at = True, time.monotonic()
        # Sta2 and Sta13: one ARTIM for the whole request, or for the close, however slowly bytes drip in.
        left = self._artim_started_at + settings.artim_seconds - time.monotonic()
        if left <= 0:
            self._expired()
            return False
        self._is_idle_timed = False
        self._connection.settimeout(left)
        return True

    def _expired(self) -> None:
        if self._acceptor.state is State.STA6:
            self._abort(f"no PDU for {self._receiver.settings.idle_seconds:g} s")
            return
        if self._acceptor.state is State.STA2:
            self._log_end("silent", "no association request before ARTIM expired")
        self._acceptor.state = State.STA1

    def _abort(self, message: str) -> None:
        """A-ABORT as service user, and leave: the peer is idle or we are stopping (PS3.8 9.3.8)."""
        self._act(self._acceptor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, message))
        # A close with unread bytes would reset the connection, and could take the A-ABORT with it.
        until = time.monotonic() + _LINGER_AFTER_ABORT_SECONDS
        with contextlib.suppress(OSError):
            self._send()
            self._connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(1 << 16):
                    break
        self._acceptor.state = State.STA1

    def _send(self) -> None:
        data = self._acceptor.data_to_send()
        if data:
            self._connection.sendall(data)

    def _act(self, event: Event) -> None:
        match event:
            case DataSetReceived():
                self._take_data_set(event)
            case CommandReceived():
                self._take_command(event)
            case AssociationRequested():
                self._take_request(event.request)
            case AssociationReleased():
                self._end("released")
                self._log_end("released", "released")
            case AssociationAborted():
                self._end("aborted")
                by = "peer" if event.by_peer else "us"
                self._log_end("aborted", f"aborted by {by} {event.source}/{event.reason}: {event.message}")
            case ConnectionLost():
                self._log_end("lost", "connection lost")

    def _take_request(self, request: AssociateRequest) -> None:
        self._calling, self._called = request.calling_ae_title, request.called_ae_title
        rejection = self._rejection(request)
        if rejection is not None:
            self._acceptor.reject(rejection[0])
            reject, reason = rejection
            self._log_end("rejected", f"rejected {reject.result}/{reject.source}/{reject.reason}: {reason}")
            return
        identity = request.user_identity
        # Of the types that are not checked nobody can say that the identity stands (PS3.7 D.3.3.7.2).
        wants_response = identity is not None and identity.response_requested and identity.identity_type in {1, 2}
        self._acceptor.accept(
            negotiate(
                request,
                max_length=self._receiver.settings.max_pdu_bytes,
                user_identity_response=b"" if wants_response else None,
                storage_commitment=self._receiver.commitments is not None,
            )
        )

    def _rejection(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        if self._receiver.draining.is_set():
            return Rejection.TEMPORARY_CONGESTION, "the receiver is stopping"
        rejection = check_request(self._receiver.settings, request, self._peer)
        if rejection is not None:
            return rejection
        if proposes_storage(request) and self._receiver.watermark.refuses:
            return Rejection.LOCAL_LIMIT, "free space is below refuse_below_bytes"
        users = self._receiver.users
        if users is not None and not users.accepts(request.user_identity):
            return Rejection.USER_IDENTITY, "user identity is missing or wrong"
        place = self._receiver.admission.enter(request.calling_ae_title)
        if isinstance(place, str):
            return Rejection.LOCAL_LIMIT, place
        self._place = place
        return None

    def _take_command(self, event: CommandReceived) -> None:
        command = event.command
        if command.is_response:
            self._act(
                self._acceptor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "a response to no request of ours")
            )
            return
        if command.command_field == CommandField.C_CANCEL_RQ:
            return
        is_verification = event.context.abstract_syntax == VERIFICATION
        if command.command_field == CommandField.C_STORE_RQ and not is_verification:
            self._begin_store(event)
        else:
            self._unperformed = event
            is_action = command.command_field == CommandField.N_ACTION_RQ
            self._action = bytearray() if is_action and command.has_data_set else None
        if not command.has_data_set:
            self._answer()

    def _begin_store(self, event: CommandReceived) -> None:
        self._reception = StoreReception(event.context, event.command)
        try:
            if not self._is_marked:
                self._receiver.spool.mark_open(self.association_id)
                self._is_marked = True
            self._reception.begin(
                self._receiver.spool,
                self._receiver.watermark,
                association_id=self.association_id,
                number=self._stored + self._refused,
                calling_ae_title=self._calling,
                called_ae_title=self._called,
                is_draining=self._receiver.draining.is_set(),
            )
        except OSError as error:
            self._reception.fail(error)
        except Exception as error:
            _logger.exception("store_failed association=%s", self.association_id)
            self._reception.fail(error)

    def _take_data_set(self, event: DataSetReceived) -> None:
        if self._reception is not None:
            try:
                self._reception.take(event.fragments, is_last=event.is_last)
                self._slow_down(sum(map(len, event.fragments)))
            except Exception as error:
                _logger.exception("store_failed association=%s", self.association_id)
                self._reception.fail(error)
        elif self._action is not None:
            for fragment in event.fragments:
                self._action += fragment[: MAX_ACTION_BYTES - len(self._action)]
        if event.is_last:
            self._answer()

    def _slow_down(self, received_bytes: int) -> None:
        """Read more slowly as the volume fills up, so that the sender feels it and nobody times out."""
        pause = self._receiver.watermark.pause_seconds(received_bytes)
        if pause:
            self._receiver.draining.wait(pause)

    def _answer(self) -> None:
        """Answer the request whose last byte has come, once."""
        if self._reception is None:
            assert self._unperformed is not None
            event, self._unperformed = self._unperformed, None
            status = self._perform(event)
            self._acceptor.send(event.context.context_id, encode_response(event.command, status))
            return
        reception, metrics = self._reception, self._receiver.metrics
        ended_at = time.perf_counter()
        try:
            received = reception.finish(self._peer)
        except Exception as error:
            _logger.exception("store_failed association=%s", self.association_id)
            reception.fail(error)
            received = None
        self._reception = None
        if received is not None:
            self._stored += 1
            self._stored_bytes += reception.size_bytes
            response = encode_response(reception.command, Status.SUCCESS)
            if metrics is not None:
                seconds = time.perf_counter() - ended_at
                metrics.stored(reception.context.abstract_syntax, self._calling, reception.size_bytes, seconds)
        else:
            self._refused += 1
            refusal = reception.refusal or REFUSALS["internal"]
            if metrics is not None:
                metrics.refused(refusal.status)
            _logger.info(
                "store_refused association=%s status=%04X comment=%s",
                self.association_id,
                refusal.status,
                refusal.comment,
            )
            response = encode_response(reception.command, refusal.status, refusal.comment, refusal.offending_elements)
        self._acceptor.send(reception.context.context_id, response)

    def _perform(self, event: CommandReceived) -> Status:
        """Perform a request that is no C-STORE."""
        action, self._action = self._action, None
        commitments = self._receiver.commitments
        is_commitment = event.context.abstract_syntax == STORAGE_COMMITMENT and commitments is not None
        if event.command.command_field == CommandField.C_ECHO_RQ and not is_commitment:
            return Status.SUCCESS
        if event.command.command_field != CommandField.N_ACTION_RQ or not is_commitment:
            return Status.UNRECOGNIZED_OPERATION
        if self._calling not in self._receiver.commitment_peers:
            # There is no address to report to, and a request without a report would be a promise not kept.
            return Status.NOT_AUTHORIZED
        assert commitments is not None
        try:
            return accept_action(
                commitments,
                event.command,
                bytes(action or b""),
                event.context.transfer_syntax,
                calling_ae_title=self._calling,
                called_ae_title=self._called,
            )
        except Exception:
            _logger.exception("commitment_failed association=%s", self.association_id)
            return Status.PROCESSING_FAILURE

    def _end(self, how: str) -> None:
        """Drop what is half received, leave, note the end; at once, since a peer may keep the transport open."""
        place, self._place = self._place, None
        if place is not None:
            self._receiver.admission.leave(place)
        reception, self._reception = self._reception, None
        if reception is not None:
            with contextlib.suppress(OSError):
                reception.discard()
        if self._is_marked:
            self._is_marked = False
            with contextlib.suppress(OSError):
                self._receiver.spool.mark_ended(self.association_id, how)

    def _log_end(self, result: str, how: str) -> None:
        """Log the one line of an association, and count it; what is said first is the cause."""
        if self._is_logged:
            return
        self._is_logged = True
        if self._receiver.metrics is not None:
            self._receiver.metrics.ended(result, self._calling)
        _logger.info(
            "association_ended association=%s peer=%s calling=%s called=%s stored=%d bytes=%d refused=%d"
            " seconds=%.3f how=%s",
            self.association_id,
            self._peer,
            self._calling or "-",
            self._called or "-",
            self._stored,
            self._stored_bytes,
            self._refused,
            time.monotonic() - self._started_at,
            how,
        )
