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
import sys
import threading
import time
from collections import Counter, defaultdict
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
# So many threads of a listener stay to wait for connections; more come with them, and go.
_IDLE_THREADS: Final = 8
# A worker that waits in `accept` has long taken what comes by then; one that is being replaced costs a sender no more.
_COURTESY_SECONDS: Final = 0.002

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
    kept = start.settings.spool
    spool = Spool(
        kept.dir,
        fsync=kept.fsync,
        lane=str(start.index),
        spare_bytes=kept.spare_bytes,
        segment_bytes=kept.segment_bytes,
    )
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
    worker.accept_from(start.listener, None)
    if start.tls_listener is not None and dimse.tls is not None:
        contexts = TlsContexts(dimse.tls)
        worker.accept_from(start.tls_listener, contexts)
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
    """The connections of one process. A thread accepts and serves; `_lock` guards set and counts."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._lock = threading.Lock()
        self._associations: set[Association] = set()
        self._idle: Counter[socket.socket] = Counter()
        # One thread of each listener waits in `accept`, the other idle ones for its place.
        self._accepting: defaultdict[socket.socket, threading.Lock] = defaultdict(threading.Lock)

    def accept_from(self, listener: socket.socket, tls: TlsContexts | None) -> None:
        """Have threads accept and serve until the process ends; there is always one that waits for the next."""
        with self._lock:
            self._idle[listener] += 1
        threading.Thread(target=self._accept_and_serve, args=(listener, tls), daemon=True).start()

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """End all associations, and cut what is left after `seconds`; those that ask meanwhile are rejected."""
        deadline = time.monotonic() + seconds
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

    def _accept_and_serve(self, listener: socket.socket, tls: TlsContexts | None) -> None:
        """Serve one association after the other: a thread for each would cost more than a short association does."""
        while True:
            with self._accepting[listener]:
                try:
                    connection, address = self._accept(listener)
                except (OSError, ValueError) as error:  # a closed listener is no valid thing to wait for
                    if listener.fileno() < 0:
                        return
                    _logger.warning("accept_failed errno=%s", getattr(error, "errno", None))
                    time.sleep(0.05)
                    continue
                self._receiver.admission.count_connection(1)
            # The requestor's scope (fe80::1%eth0) is of this host only.
            association = Association(self._receiver, connection, str(address[0]).partition("%")[0], tls)
            if not self._begin(association, listener, tls):
                connection.close()
                self._receiver.admission.count_connection(-1)
                continue
            with contextlib.suppress(Exception):  # `run` logs what it could not foresee
                association.run()
            self._receiver.admission.count_connection(-1)
            with self._lock:
                self._associations.discard(association)
                if self._idle[listener] >= _IDLE_THREADS:
                    return
                self._idle[listener] += 1

    def _accept(self, listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
        """Take the next connection, unless a worker that has fewer of them takes it within a moment."""
        while self._receiver.admission.is_ahead and sys.platform != "win32":  # there a listener cannot be waited for
            multiprocessing.connection.wait([listener])
            if not self._receiver.admission.is_ahead:
                break
            time.sleep(_COURTESY_SECONDS)
            if multiprocessing.connection.wait([listener], timeout=0):
                break
        return listener.accept()

    def _begin(self, association: Association, listener: socket.socket, tls: TlsContexts | None) -> bool:
        """Take an association on this thread, and see to it that another accepts; False when none can be started."""
        with self._lock:
            self._idle[listener] -= 1
            is_last = not self._idle[listener]
            self._associations.add(association)
        if not is_last:
            return True
        try:
            self.accept_from(listener, tls)
        except RuntimeError:
            _logger.exception("thread_failed")
            with self._lock:
                # The thread's place was counted already; this one goes back to it.
                self._associations.discard(association)
            return False
        return True
