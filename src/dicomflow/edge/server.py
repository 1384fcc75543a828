"""A worker process: accepts connections from the shared listening sockets, a thread for each association.

Started by the supervisor with `spawn`, so everything it gets can be pickled. Stops on SIGTERM, or when the
supervisor says so or is gone: it accepts no more, lets messages under way end, aborts the rest, and leaves.
"""

import contextlib
import errno
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import Final

from dicomflow import logs
from dicomflow.edge.access import is_within
from dicomflow.edge.admission import Admission
from dicomflow.edge.arrivals import Arrival, Inbox, Listener
from dicomflow.edge.association import Association
from dicomflow.edge.children import BEAT_SECONDS, beat
from dicomflow.edge.commitment import Commitments
from dicomflow.edge.descriptors import most_waiting
from dicomflow.edge.metrics import Metrics
from dicomflow.edge.services import Receiver
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.tls import TlsContexts
from dicomflow.edge.users import Users
from dicomflow.edge.watermark import Watermark
from dicomflow.edge.witness import StoreWitness

__all__ = ["DRAIN_SECONDS", "LogSettings", "WorkerStart", "run_worker"]

# Greengrass kills five seconds after SIGTERM.
DRAIN_SECONDS: Final = 3.5
# So many threads stay to wait for connections of a listener or an inbox; more come with them, and go.
_IDLE_THREADS: Final = 8
# So many of the newest connections without an association stay where descriptors are short: they may be about to ask.
_NEWEST: Final = 8
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

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
    """What a worker is started with; listeners, the table of open associations and the inboxes are shared by all.

    It counts its beats in `beats[slot]`, and stops at the end of the pipe `stop`.
    """

    index: int
    settings: EdgeSettings
    logs: LogSettings
    listener: socket.socket
    tls_listener: socket.socket | None
    table: MutableSequence[int]
    inboxes: Sequence[tuple[socket.socket, socket.socket]]
    beats: MutableSequence[int]
    slot: int
    stop: multiprocessing.connection.Connection


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
        Commitments(spool, StoreWitness(start.settings.delivery)) if start.settings.commitment.peers else None,
        start.settings.commitment,
    )
    # What is made so far stays, so the collector need not walk it again and again.
    gc.freeze()
    worker = _Worker(receiver, most_waiting(dimse.max_associations))
    givers = [giver for giver, _ in start.inboxes]
    contexts = TlsContexts(dimse.tls) if dimse.tls is not None else None
    # From here on nothing is left to go wrong, so that what others give is served.
    receiver.admission.begin()
    worker.accept_from(Listener(start.listener, None, receiver.admission, givers))
    if start.tls_listener is not None:
        worker.accept_from(Listener(start.tls_listener, contexts, receiver.admission, givers))
    if start.inboxes:
        worker.accept_from(Inbox(start.inboxes[start.index][1], contexts, receiver.admission))
    _wait_for_stop(start, stopping)
    worker.drain()
    # Threads still in a system call must not keep the process: what they hold was not acknowledged.
    logging.shutdown()
    os._exit(0)


def _wait_for_stop(start: WorkerStart, stopping: threading.Event) -> None:
    """Return when a signal came, or the supervisor stops it or has ended, however it ended; beat meanwhile."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by the supervisor"
    while not stopping.is_set():
        beat(start.beats, start.slot)
        ended = multiprocessing.connection.wait([parent.sentinel, start.stop], timeout=BEAT_SECONDS)
        if parent.sentinel in ended:
            _logger.warning("supervisor_gone pid=%d", os.getpid())
        if ended:
            stopping.set()


class _Worker:
    """The connections of one process. A thread accepts and serves; `_lock` guards connections and counts.

    Of connections without an association there are `most_waiting`: a newer one takes the place of the oldest, since an
    honest requestor asks, or closes, at once. Their number bounds threads, descriptors and memory.
    """

    def __init__(self, receiver: Receiver, most_waiting: int = 256) -> None:
        self._receiver = receiver
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._associations: dict[Association, None] = {}  # in the order they came
        self._idle: Counter[Listener | Inbox] = Counter()

    def accept_from(self, source: Listener | Inbox) -> None:
        """Have threads accept and serve until the process ends; there is always one that waits for the next."""
        with self._lock:
            self._idle[source] += 1
        threading.Thread(target=self._accept_and_serve, args=(source,), daemon=True).start()

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """End all associations, and cut what is left after `seconds`; those that ask meanwhile are rejected."""
        self._receiver.admission.close()
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

    def _accept_and_serve(self, source: Listener | Inbox) -> None:
        """Serve one association after the other: a thread for each would cost more than a short association does.

        So would a thread that accepts and hands over to another: where the interpreter changes hands, both wait for it.
        """
        while not source.is_over:
            try:
                arrival = source.take()
            except OSError as error:
                if not source.is_over:
                    if self._receiver.probes.is_news("accept", error.errno):
                        _logger.warning("accept_failed errno=%s", error.errno)
                    if error.errno in _NO_DESCRIPTORS:
                        self._make_room(_NEWEST)
                    time.sleep(0.05)
                continue
            if arrival is None:
                continue
            # The requestor's scope (fe80::1%eth0) is of this host only.
            peer = arrival.peer.partition("%")[0]
            if not is_within(self._receiver.settings.networks, peer):
                self._turn_away(arrival, peer)
                continue
            association = Association(self._receiver, arrival.connection, peer, arrival.tls)
            if self._begin(association, source):
                with contextlib.suppress(Exception):  # `run` logs what it could not foresee
                    association.run()
                self._receiver.admission.count_connection(-1)
                with self._lock:
                    self._associations.pop(association, None)
                    if self._idle[source] >= _IDLE_THREADS:
                        return
                    self._idle[source] += 1
            else:
                arrival.connection.close()
                self._receiver.admission.count_connection(-1)

    def _begin(self, association: Association, source: Listener | Inbox) -> bool:
        """Take an association on this thread, and see to it that another accepts; False when none can be started."""
        with self._lock:
            self._idle[source] -= 1
            is_last = not self._idle[source]
            self._associations[association] = None
        self._make_room(self._most_waiting)
        if not is_last:
            return True
        try:
            self.accept_from(source)
        except RuntimeError:
            _logger.exception("thread_failed")
            with self._lock:
                # The thread's place was counted already; this one goes back to it.
                self._associations.pop(association, None)
            return False
        return True

    def _make_room(self, most_waiting: int) -> None:
        """Cut the oldest connection without an association if there are more than so many."""
        if len(self._associations) <= most_waiting:
            return
        with self._lock:
            waiting = [each for each in self._associations if each.is_waiting]
        if len(waiting) > most_waiting:
            if self._receiver.probes.is_news("too many"):
                _logger.warning("connections_without_association most=%d", self._most_waiting)
            waiting[0].cut()

    def _turn_away(self, arrival: Arrival, peer: str) -> None:
        """Close a connection from another network, before a byte of it is read."""
        arrival.connection.close()
        self._receiver.admission.count_connection(-1)
        if self._receiver.metrics is not None:
            self._receiver.metrics.ended("network", "")
        if self._receiver.probes.is_news("network", peer):
            _logger.warning("connection_refused peer=%s reason=the address is in none of dimse.networks", peer)
