"""Where a worker's connections come from: the shared listening sockets, and workers that have more of them.

All idle threads of all workers wait in `accept`, and the kernel wakes one of them, whichever worker it is of. A worker
that has two connections more than another gives the newest away, before a byte of it is read; nothing waits for that.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dicomflow.network.admission import Admission
from dicomflow.network.tls import TlsContexts

__all__ = ["Arrival", "Inbox", "Listener", "open_inboxes", "pass_on"]

_PLAIN: Final = b"p"
_TLS: Final = b"t"
_DESCRIPTOR: Final = struct.Struct("i")


class Arrival(NamedTuple):
    """A connection that this worker is to serve: its socket, the peer's address without port, and its TLS contexts."""

    connection: socket.socket
    peer: str
    tls: TlsContexts | None


class Listener:
    """A listening socket that all workers share. Threads: any.

    Args:
        listener: the socket.
        tls: what it speaks TLS with.
        admission: counts the connections of each worker.
        inboxes: where each worker takes connections over, by its index; empty where none are given away.
    """

    def __init__(
        self,
        listener: socket.socket,
        tls: TlsContexts | None,
        admission: Admission,
        inboxes: Sequence[socket.socket] = (),
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._admission = admission
        self._inboxes = inboxes

    @property
    def is_over(self) -> bool:
        """Whether the socket is closed."""
        return self._listener.fileno() < 0

    def take(self) -> Arrival | None:
        """Wait for a connection and count it; None when another worker gets it. Raises `OSError`."""
        connection, address = self._listener.accept()
        self._admission.count_connection(1)
        other = self._admission.less_busy() if self._inboxes else None
        if other is not None and self._give(connection, self._inboxes[other]):
            self._admission.count_connection(-1)
            connection.close()
            return None
        return Arrival(connection, str(address[0]), self._tls)

    def _give(self, connection: socket.socket, inbox: socket.socket) -> bool:
        """Put a connection into a worker's inbox; False when that is full or gone."""
        if sys.platform == "win32":
            return False
        with contextlib.suppress(OSError):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(connection.fileno()))
            # Not `send_fds`, which passes no flags on (CPython 3.11) and would wait.
            inbox.sendmsg([_TLS if self._tls else _PLAIN], [rights], socket.MSG_DONTWAIT)
            return True
        return False


class Inbox:
    """What other workers give to this one. Threads: any.

    Args:
        inbox: the end to receive from.
        tls: what connections of the listener that speaks TLS are served with.
        admission: counts the connections of each worker.
    """

    def __init__(self, inbox: socket.socket, tls: TlsContexts | None, admission: Admission) -> None:
        self._inbox = inbox
        self._contexts: Mapping[bytes, TlsContexts | None] = {_PLAIN: None, _TLS: tls}
        self._admission = admission
        self._has_ended = False

    @property
    def is_over(self) -> bool:
        """Whether no other end is left, or this one is closed."""
        return self._has_ended or self._inbox.fileno() < 0

    def take(self) -> Arrival | None:
        """Wait for a connection and count it; None when its peer has left or the inbox is closed. Raises `OSError`."""
        if sys.platform == "win32":
            raise OSError
        kind, descriptors, _, _ = socket.recv_fds(self._inbox, 1, 1)
        if not descriptors and kind:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # the kernel closed what did not fit
        if not descriptors:
            self._has_ended = True
            return None
        connection = socket.socket(fileno=descriptors[0])
        connection.set_inheritable(False)
        try:
            peer = str(connection.getpeername()[0])
        except OSError:
            connection.close()
            return None
        self._admission.count_connection(1)
        return Arrival(connection, peer, self._contexts[kind])


def pass_on(inbox: socket.socket, other: socket.socket) -> int:
    """Put what waits in an inbox into another; return how many connections. What that one does not take is closed."""
    if sys.platform == "win32":
        return 0
    count = 0
    with contextlib.suppress(OSError):
        while True:
            # Not `recv_fds`, which passes no flags on (CPython 3.11) and would wait.
            kind, ancillary, _, _ = inbox.recvmsg(1, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_DONTWAIT)
            for _, _, sent in ancillary:
                (descriptor,) = _DESCRIPTOR.unpack(sent)
                try:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)
                    other.sendmsg([kind], [rights], socket.MSG_DONTWAIT)
                    count += 1
                finally:
                    os.close(descriptor)
            if not kind:
                break
    return count


def open_inboxes(workers: int) -> list[tuple[socket.socket, socket.socket]]:
    """Return for each worker the end that others put connections in, and the one it takes them from.

    Windows cannot pass them on: no inboxes, and each worker serves what it accepts.
    """
    if sys.platform == "win32":
        return []
    return [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
