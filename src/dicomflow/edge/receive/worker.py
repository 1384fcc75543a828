"""A worker process: accepts connections from the shared listening sockets, a thread for each association.

Started by the supervisor with `spawn`, so everything it gets can be pickled. Stops on SIGTERM, or when the
supervisor says so or is gone: it accepts no more, lets messages under way end, aborts the rest, and leaves.
"""

import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import partial

from dicomflow import logs
from dicomflow.edge.children import BEAT_SECONDS, beat
from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.commitment.requests import Commitments
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.metrics import Metrics
from dicomflow.edge.receive.services import Receiver
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.room import Room
from dicomflow.network.admission import Admission
from dicomflow.network.arrivals import Inbox, Listener
from dicomflow.network.connections import Connections
from dicomflow.network.descriptors import most_waiting
from dicomflow.network.joined import joined
from dicomflow.network.services import Beside, Host
from dicomflow.network.tls import TlsContexts
from dicomflow.network.users import KnownUsers, Users

__all__ = ["WorkerStart", "run_worker"]


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker is started with; listeners, the table of open associations and the inboxes are shared by all.

    It counts its beats in `beats[slot]`, and stops at the end of the pipe `stop`.
    """

    index: int
    settings: EdgeSettings
    logs: logs.LogSettings
    listener: socket.socket
    tls_listener: socket.socket | None
    table: MutableSequence[int]
    inboxes: Sequence[tuple[socket.socket, socket.socket]]
    beats: MutableSequence[int]
    slot: int
    stop: multiprocessing.connection.Connection
    room: Room | None = None
    # What is served beside storage on the same port, made in this process; it knows what the edge does not.
    beside: Callable[[], Beside] | None = None
    users: KnownUsers = field(default_factory=dict)  # in force where the file of the users cannot be read


def run_worker(start: WorkerStart) -> None:
    """Run a worker until it is told to stop. Process: the main function of a worker."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    kept = start.settings.spool
    lane = Lane(
        kept.dir,
        str(start.index),
        fsync=kept.fsync,
        spare_bytes=kept.spare_bytes,
        segment_bytes=kept.segment_bytes,
    )
    dimse = start.settings.dimse
    metrics = Metrics(kept.dir)
    receiver = _receiver(start, lane, stopping, metrics)
    asked = start.beside() if start.beside is not None else None
    host = _host(start, receiver, asked, stopping, metrics)
    # What is made so far stays, so the collector need not walk it again and again.
    gc.freeze()
    connections = Connections(host, most_waiting(dimse.max_associations))
    givers = [giver for giver, _ in start.inboxes]
    contexts = TlsContexts(dimse.tls, may_wait=True) if dimse.tls is not None else None
    # From here on nothing is left to go wrong, so that what others give is served.
    host.admission.begin()
    connections.accept_from(Listener(start.listener, None, host.admission, givers))
    if start.inboxes:
        connections.accept_from(Inbox(start.inboxes[start.index][1], contexts, host.admission))
    if start.tls_listener is None or contexts is None:
        _wait_for_stop(start, stopping, lambda: True)
    else:
        listener = Listener(start.tls_listener, contexts, host.admission, givers)
        _wait_for_stop(start, stopping, partial(_accept_tls, listener, contexts, connections))
    connections.drain()
    if asked is not None:
        asked.close()
    # Threads still in a system call must not keep the process: what they hold was not acknowledged.
    logging.shutdown()
    os._exit(0)


def _host(
    start: WorkerStart, receiver: Receiver, asked: Beside | None, stopping: threading.Event, metrics: Metrics
) -> Host:
    dimse = start.settings.dimse
    return Host(
        dimse,
        receiver.serve if asked is None else joined(receiver.serve, asked.serve),
        stopping,
        Admission(start.table, start.index, dimse.max_associations, dimse.max_associations_per_ae_title),
        Users(dimse.users_file, start.users) if dimse.users_file is not None else None,
        metrics.ended,
    )


def _receiver(start: WorkerStart, lane: Lane, stopping: threading.Event, metrics: Metrics) -> Receiver:
    settings = start.settings
    kept = settings.spool
    witness = StoreWitness(settings.delivery, kept.dir)
    asked = frozenset(each.ae_title for each in settings.nodes.values() if each.commitment)
    return Receiver(
        lane,
        Watermark(kept),
        stopping,
        metrics,
        Commitments(kept.dir, witness, fsync=kept.fsync) if settings.commitment.peers else None,
        settings.commitment,
        room=start.room,
        questions=Questions(kept.dir, fsync=kept.fsync) if asked else None,
        asked_ae_titles=asked,
    )


def _accept_tls(listener: Listener, contexts: TlsContexts, connections: Connections) -> bool:
    """Accept on the TLS listener; False while no certificate is in force here: workers that have one accept."""
    if contexts.current() is None:
        return False
    connections.accept_from(listener)
    return True


def _wait_for_stop(start: WorkerStart, stopping: threading.Event, accept_tls: Callable[[], bool]) -> None:
    """Return when a signal came, or the supervisor stops it or has ended, however it ended; beat meanwhile."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by the supervisor"
    is_complete = False
    while not stopping.is_set():
        is_complete = is_complete or accept_tls()
        beat(start.beats, start.slot)
        ended = multiprocessing.connection.wait([parent.sentinel, start.stop], timeout=BEAT_SECONDS)
        if parent.sentinel in ended:
            _logger.warning("supervisor_gone pid=%d", os.getpid())
        if ended:
            stopping.set()
