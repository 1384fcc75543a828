"""One association on its own thread: a socket on one side, the protocol core and the services on the other.

ARTIM runs until the request has come and after the last word; an association that does not get on for `idle_seconds`
is aborted (PS3.8 9.1.5). What one association does cannot reach another.
"""

import contextlib
import logging
import socket
import sys
import time
import uuid
from typing import Final

from dicomflow.dimse.acceptor import Acceptor, State
from dicomflow.dimse.events import (
    AssociationAborted,
    AssociationReleased,
    AssociationRequested,
    CommandReceived,
    ConnectionLost,
    DataSetReceived,
    Event,
)
from dicomflow.dimse.negotiation import negotiate
from dicomflow.dimse.pdu import AbortSource, AssociateReject, AssociateRequest
from dicomflow.dimse.status import AbortReason, Rejection
from dicomflow.network.access import check_request
from dicomflow.network.sending import send_all
from dicomflow.network.services import Host
from dicomflow.network.tls import TlsContexts

__all__ = ["Association"]

_RECEIVE_BUFFER_BYTES: Final = 256 << 10
# Set again before each receive of a rest, since the kernel clears it: a sender that leaves Nagle's algorithm on waits
# for the acknowledgement of its last segment. What is complete is acknowledged with its answer.
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
# There the end of the transport wakes no thread that waits for it: it looks itself whether there is a stop.
_CAN_WAKE: Final = sys.platform != "win32"
_LOOK_SECONDS: Final = 0.25
# The least that a socket waits; with 0 it would not say that the time is over.
_LEAST_TIMEOUT_SECONDS: Final = 0.001
_LINGER_AFTER_ABORT_SECONDS: Final = 0.5
# Who sends less of a message does not get on: no line is so slow, and a byte now and then would hold a place for ever.
_LEAST_BYTES_PER_SECOND: Final = 100

_logger = logging.getLogger(__name__)


class Association:
    """One connection from its acceptance to its close.

    Args:
        host: what it shares with the others.
        connection: the accepted socket; `run` closes it.
        peer: the requestor's address, without port.
        tls: the contexts of the listener that took the connection, when it speaks TLS.
    """

    def __init__(self, host: Host, connection: socket.socket, peer: str, tls: TlsContexts | None = None) -> None:
        self.association_id = uuid.uuid4().hex
        self._host = host
        self._connection = connection
        self._peer = peer
        self._tls = tls
        self._place: int | None = None
        self._acceptor = Acceptor()
        self._services = host.serve(self._acceptor, self.association_id, peer)
        self._calling = self._called = ""
        self._started_at = self._artim_started_at = time.monotonic()
        self._is_ending = self._is_logged = self._is_cut = False
        self._timeout: float | None = None  # the socket's, where it is one of Sta6
        self._idle_seconds = host.settings.idle_seconds
        self._least_bytes = host.settings.idle_seconds * _LEAST_BYTES_PER_SECOND
        self._got_on_at = self._started_at
        self._slow_bytes = 0  # received since then

    @property
    def is_waiting(self) -> bool:
        """Whether it has no place among the associations, not yet or no more, and was not cut."""
        return self._place is None and not self._is_cut

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
            self._shut(socket.SHUT_RD)

    def cut(self) -> None:
        """Close the transport under a thread that did not end in time. Any thread."""
        self._is_cut = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        """End a direction of the transport, of TCP alone: `SSLSocket.shutdown` would also forget TLS.

        What is sent after that would go over the line in the clear.
        """
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._connection, how)

    def _shake_hands(self, tls: TlsContexts) -> None:
        """Wrap the connection; ARTIM covers the handshake. Raises `OSError`, of which `SSLError` is one."""
        self._connection.settimeout(self._host.settings.artim_seconds)
        context = tls.current()
        if context is None:
            raise ConnectionError("no certificate is in force")
        secured = context.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
        self._connection = secured  # before the handshake, so that `cut` finds it
        secured.do_handshake()
        certificate = secured.getpeercert(binary_form=True)
        if certificate is not None:
            self._services.take_certificate(certificate)

    def _serve(self) -> None:
        acceptor = self._acceptor
        buffer = bytearray(_RECEIVE_BUFFER_BYTES)
        view = memoryview(buffer)
        # Windows has no such call, and TLS no such receive.
        scatters = self._tls is None and hasattr(self._connection, "recvmsg_into")
        while acceptor.state is not State.STA1:
            if not self._wait():
                break
            if _QUICKACK is not None and acceptor.awaits_rest:
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            buffers = acceptor.buffers() if scatters else None
            try:
                received = self._connection.recvmsg_into(buffers)[0] if buffers else self._connection.recv_into(buffer)
            except TimeoutError:
                self._expired()
                self._send()
                continue
            if not received:
                events = acceptor.receive_eof()
            else:
                events = acceptor.receive_scattered(received) if buffers else acceptor.receive(view[:received])
            if not received and self._host.draining.is_set() and acceptor.state is not State.STA13:
                self._abort("the receiver is stopping")
                break
            for event in events:
                self._act(event)
                self._send()
            self._send()
            self._get_on(received)
        self._log_end("silent", "connection closed before an association request")

    def _wait(self) -> bool:
        """Set the time the next receive may take; False when the association is over."""
        settings, acceptor = self._host.settings, self._acceptor
        if acceptor.state is State.STA6:
            if self._host.draining.is_set() and acceptor.is_between_messages:
                self._abort("the receiver is stopping")
                return False
            return self._wait_for_pdu()
        if acceptor.state is State.STA13:
            if self._host.draining.is_set():
                return False
            if not self._is_ending:
                self._is_ending, self._artim_started_at = True, time.monotonic()
        # Sta2 and Sta13: one ARTIM for the whole request, or for the close, however slowly bytes drip in.
        left = self._artim_started_at + settings.artim_seconds - time.monotonic()
        if left <= 0:
            self._expired()
            return False
        self._timeout = None
        self._connection.settimeout(left)
        return True

    def _wait_for_pdu(self) -> bool:
        """Set the time until a peer that does not get on is aborted, at most half as long again as `idle_seconds`."""
        idle_seconds = self._idle_seconds
        if self._timeout == idle_seconds and not self._slow_bytes and self._services.look_seconds is None:
            return True  # it got on just now, and the time is set: the bulk path
        left = self._got_on_at + idle_seconds - time.monotonic()
        if left <= 0:
            slow = f"only {self._slow_bytes} bytes of a message" if self._slow_bytes else "no PDU"
            self._abort(f"{slow} for {idle_seconds:g} s")
            return False
        # Set anew only where it matters: it is a system call.
        timeout = idle_seconds if left > idle_seconds / 2 else left
        look_seconds = self._services.look_seconds
        if not _CAN_WAKE:
            look_seconds = _LOOK_SECONDS if look_seconds is None else min(look_seconds, _LOOK_SECONDS)
        if look_seconds is not None:
            timeout = min(timeout, max(look_seconds, _LEAST_TIMEOUT_SECONDS))
        if timeout != self._timeout:
            self._timeout = timeout
            self._connection.settimeout(timeout)
        return True

    def _get_on(self, received_bytes: int) -> None:
        """Note that the peer gets on: it ended what it had begun, or sent enough of it since it last did."""
        self._slow_bytes += received_bytes
        if self._slow_bytes >= self._least_bytes or not self._acceptor.awaits_rest:
            self._slow_bytes = 0
            self._got_on_at = time.monotonic()

    def _expired(self) -> None:
        if self._acceptor.state is State.STA6:
            self._timeout = None
            if self._services.look():
                self._got_on_at = time.monotonic()
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
            self._shut(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(1 << 16):
                    break
        self._acceptor.state = State.STA1

    def _send(self) -> None:
        parts = self._acceptor.parts_to_send()
        if not parts:
            return
        if self._timeout is not None and self._timeout < self._idle_seconds:
            self._timeout = None  # how long we may wait to go on is not how long the peer may take to read
            self._connection.settimeout(self._idle_seconds)
        send_all(self._connection, parts)

    def _act(self, event: Event) -> None:
        match event:
            case DataSetReceived():
                self._services.take_data_set(event)
            case CommandReceived():
                aborted = self._services.take_command(event)
                if aborted is not None:
                    self._act(aborted)
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
        self._got_on_at = time.monotonic()
        identity = request.user_identity
        # Of the types that are not checked nobody can say that the identity stands (PS3.7 D.3.3.7.2).
        wants_response = identity is not None and identity.response_requested and identity.identity_type in {1, 2}
        self._acceptor.accept(
            negotiate(
                request,
                max_length=self._host.settings.max_pdu_bytes,
                user_identity_response=b"" if wants_response else None,
                offer=self._services.offer,
            )
        )

    def _rejection(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        if self._host.draining.is_set():
            return Rejection.TEMPORARY_CONGESTION, "the receiver is stopping"
        rejection = check_request(self._host.settings, request)
        if rejection is not None:
            return rejection
        rejection = self._services.refuse(request)
        if rejection is not None:
            return rejection
        users = self._host.users
        if users is not None and not users.accepts(request.user_identity):
            return Rejection.USER_IDENTITY, "user identity is missing or wrong"
        place = self._host.admission.enter(request.calling_ae_title)
        if isinstance(place, str):
            return Rejection.LOCAL_LIMIT, place
        self._place = place
        return None

    def _end(self, how: str) -> None:
        """Leave, and note the end; at once, since a peer may keep the transport open."""
        place, self._place = self._place, None
        if place is not None:
            self._host.admission.leave(place)
        self._services.end(how)

    def _log_end(self, result: str, how: str) -> None:
        """Log the one line of an association, and count it; what is said first is the cause."""
        if self._is_logged:
            return
        self._is_logged = True
        services = self._services
        self._host.note_end(result, self._calling)
        # The line of a rejection tells what to mend; of a probe nothing came, and the next one comes in seconds.
        is_probe = not services.has_work and result != "rejected"
        is_news = not is_probe or self._host.probes.is_news(result, self._peer, self._calling)
        outcome = services.outcome()
        # Each field has its own place in the text, so that it is a field of the JSON line too.
        text = "association_ended association=%s peer=%s calling=%s called=%s {} seconds=%.3f how=%s"
        _logger.log(
            logging.INFO if is_news else logging.DEBUG,
            text.format(" ".join(f"{name}=%s" for name in outcome)),
            self.association_id,
            self._peer,
            self._calling or "-",
            self._called or "-",
            *outcome.values(),
            time.monotonic() - self._started_at,
            how,
        )
