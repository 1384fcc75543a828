"""A DIMSE listener of one process: its ports, plain and TLS, and the associations on them, until it is closed."""

import contextlib
import socket
import threading
from typing import Final

from dicomflow.network.admission import Admission, table_length
from dicomflow.network.arrivals import Listener
from dicomflow.network.connections import Connections
from dicomflow.network.descriptors import most_waiting
from dicomflow.network.joined import Serve
from dicomflow.network.listening import bind
from dicomflow.network.services import Host
from dicomflow.network.settings import DimseSettings
from dicomflow.network.tls import TlsContexts
from dicomflow.network.users import Users

__all__ = ["DimseServer"]

_WORKERS: Final = 1


class _Stoppable(Listener):
    """A listener whose threads end when they are told to: those of a worker end with their process."""

    is_stopped = False

    @property
    def is_over(self) -> bool:
        """Whether the threads are to end."""
        return self.is_stopped or super().is_over


class DimseServer:
    """Serves associations from its creation on, until `close`; `ports` are the plain one and TLS's, where there is one.

    Raises:
        PermanentError: on creation, when a port cannot be had, or a file of the settings cannot be read.
    """

    def __init__(self, settings: DimseSettings, serve: Serve) -> None:
        table = [0] * table_length(_WORKERS, settings.max_associations)
        admission = Admission(table, 0, settings.max_associations, settings.max_associations_per_ae_title)
        self._stopping = threading.Event()
        users = Users(settings.users_file) if settings.users_file is not None else None
        host = Host(settings, serve, self._stopping, admission, users)
        self._connections = Connections(host, most_waiting(settings.max_associations))
        contexts = TlsContexts(settings.tls) if settings.tls is not None else None
        self._sockets = [bind(settings.bind, settings.port)]
        if settings.tls is not None:
            self._sockets.append(bind(settings.bind, settings.tls.port))
        self.ports: tuple[int, ...] = tuple(each.getsockname()[1] for each in self._sockets)
        pairs = zip(self._sockets, (None, contexts), strict=False)
        self._listeners = [_Stoppable(each, tls, admission) for each, tls in pairs]
        admission.begin()
        for listener in self._listeners:
            self._connections.accept_from(listener)

    def close(self) -> None:
        """Take no more, end what is open, and give the ports back."""
        self._stopping.set()
        for listener in self._listeners:
            listener.is_stopped = True
        for each in self._sockets:
            # A thread that waits in `accept` is not woken by a close.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._connections.drain()
