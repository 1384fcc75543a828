"""A worker process: accepts connections from the shared listening sockets, a thread for each association.

Started by the supervisor with `spawn`, so everything it gets can be pickled. Stops on SIGTERM, or when the
supervisor is gone: it accepts no more, lets messages under way end, aborts the rest, and leaves.
"""

import contextlib
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
from dicomflow.edge.association import Association, Receiver
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool import Spool
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
    """What a worker is started with; `slots` counts each worker's open associations, shared by all of them."""

    index: int
    settings: EdgeSettings
    logs: LogSettings
    listeners: tuple[socket.socket, ...]
    slots: MutableSequence[int]


def run_worker(start: WorkerStart) -> None:
    """Run a worker until it is told to stop. Process: the main function of a worker."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    spool = Spool(start.settings.spool.dir, fsync=start.settings.spool.fsync, lane=str(start.index))
    receiver = Receiver(start.settings.dimse, spool, Watermark(spool, start.settings.spool), stopping)
    worker = _Worker(start, receiver)
    for listener in start.listeners:
        threading.Thread(target=worker.accept_from, args=(listener,), daemon=True).start()
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
    """The connections of one process, and which of them are associations; `_lock` guards both."""

    def __init__(self, start: WorkerStart, receiver: Receiver) -> None:
        self._start = start
        self._receiver = receiver
        self._lock = threading.Lock()
        self._associations: set[Association] = set()
        self._admitted: set[Association] = set()

    def accept_from(self, listener: socket.socket) -> None:
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
            self._begin(connection, str(address[0]).partition("%")[0])

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

    def _begin(self, connection: socket.socket, peer: str) -> None:
        association = Association(self._receiver, connection, peer, self._admit)
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

    def _admit(self, association: Association) -> bool:
        """Count an association against the limit; connections that never ask for one are not counted."""
        with self._lock:
            if sum(self._start.slots) >= self._start.settings.dimse.max_associations:
                return False
            self._admitted.add(association)
            self._start.slots[self._start.index] = len(self._admitted)
            return True

    def _end(self, association: Association) -> None:
        with self._lock:
            self._associations.discard(association)
            self._admitted.discard(association)
            self._start.slots[self._start.index] = len(self._admitted)
