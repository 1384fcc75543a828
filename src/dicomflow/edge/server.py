"""A worker process: accepts connections from the shared listening sockets, a thread for each association.

Started by the supervisor with `spawn`, so everything it gets can be pickled. Stops on SIGTERM, or when the
supervisor is gone: it accepts no more, lets messages under way end, aborts the rest, and leaves.
"""

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Final

from dicomflow import logs
from dicomflow.edge.admission import Admission
from dicomflow.edge.association import Association
from dicomflow.edge.commitment import Commitments
from dicomflow.edge.metrics import Metrics
from dicomflow.edge.services import Receiver
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.tls import TlsContexts
from dicomflow.edge.users import Users
from dicomflow.edge.watermark import Watermark

__all__ = ["DRAIN_SECONDS", "LogSettings", "WorkerStart", "run_worker"]

# Greengrass kills five seconds after SIGTERM.
DRAIN_SECONDS: Final = 3.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a child process logs."""

    level: str
    as_json: bool

    @classmethod
    def of_this_process(cls) -> "LogSettings":
        """Return how the calling process logs, so that its children do the same."""
        root = logging.getLogger()
        return cls(logging.getLevelName(root.level), as_json=logs.is_json())


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker is started with; the table of open associations is shared by all workers."""

    index: int
    settings: EdgeSettings
    logs: LogSettings
    listener: socket.socket
    tls_listener: socket.socket | None
    table: MutableSequence[int]


def run_worker(start: WorkerStart) -> None:
    """Run a worker until it is told to stop. Process: the main function of a worker."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    spool = Spool(start.settings.spool.dir, fsync=start.settings.spool.fsync, lane=str(start.index))
    dimse = start.settings.dimse
    receiver = Receiver(
        dimse,
        spool,
        Watermark(spool, start.settings.spool),
        stopping,
        Admission(start.table, start.index, dimse.max_associations, dimse.max_associations_per_ae_title),
        Users(dimse.users_file) if dimse.users_file is not None else None,
        Metrics(spool.root),
        Commitments(spool) if start.settings.commitment.peers else None,
        start.settings.commitment,
    )
    # What is made so far stays, so the collector need not walk it again and again.
    gc.freeze()
    worker = _Worker(receiver)
    threading.Thread(target=worker.accept_from, args=(start.listener, None), daemon=True).start()
    if start.tls_listener is not None and dimse.tls is not None:
        contexts = TlsContexts(dimse.tls)
        threading.Thread(target=worker.accept_from, args=(start.tls_listener, contexts), daemon=True).start()
    _wait_for_stop(stopping)
    worker.drain()
    # Threads still in a system call must not keep the process: what they hold was not acknowledged.
    logging.shutdown()
    os._exit(0)


def _wait_for_stop(stopping: threading.Event) -> None:
    """Return when a signal came or the supervisor has ended, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by the supervisor"
    while not stopping.is_set():
        if multiprocessing.connection.wait([parent.sentinel], timeout=0.2):
            _logger.warning("supervisor_gone pid=%d", os.getpid())
            stopping.set()


class _Worker:
    """The connections of one process; `_lock` guards the set."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._lock = threading.Lock()
        self._associations: set[Association] = set()

    def accept_from(self, listener: socket.socket, tls: TlsContexts | None) -> None:
        """Accept until the process ends: while draining, to reject; a failed accept is retried, never fatal."""
        while True:
            try:
                connection, address = listener.accept()
            except OSError as error:
                if listener.fileno() < 0:
                    return
                _logger.warning("accept_failed errno=%s", error.errno)
                time.sleep(0.05)
                continue
            # The requestor's scope (fe80::1%eth0) is of this host only.
            self._begin(connection, str(address[0]).partition("%")[0], tls)

    def drain(self) -> None:
        """End all associations within `DRAIN_SECONDS`; those that ask meanwhile are rejected."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline:
            with self._lock:
                left = list(self._associations)
            if not left:
                return
            for association in left:
                association.wake()
            time.sleep(0.05)
        for association in left:
            association.cut()
        _logger.warning("drain_timed_out associations=%d", len(left))

    def _begin(self, connection: socket.socket, peer: str, tls: TlsContexts | None) -> None:
        association = Association(self._receiver, connection, peer, tls)
        with self._lock:
            self._associations.add(association)
        thread = threading.Thread(target=self._serve, args=(association,), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            _logger.exception("thread_failed peer=%s", peer)
            self._end(association)
            connection.close()

    def _serve(self, association: Association) -> None:
        with contextlib.suppress(Exception):  # `run` logs what it could not foresee
            association.run()
        self._end(association)

    def _end(self, association: Association) -> None:
        with self._lock:
            self._associations.discard(association)
