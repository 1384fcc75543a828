"""The process that transfers run in: its start, its lock on the spool, a thread for each association, and its end.

There is one where the settings have destinations, or had them: what waits for an edge that knows none any more has to
be told so. What it does is `courier`'s, `lane`'s and `asker`'s.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from filelock import FileLock, Timeout

from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.metrics import TransferMetrics
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.processes import ProcessStart, begin_process, watch_until_stop
from dicomflow.edge.settings import Destination, EdgeSettings
from dicomflow.edge.spool.locks import lock_of
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.edge.stores import build_store, local_root
from dicomflow.edge.transfer.asker import Asker
from dicomflow.edge.transfer.board import Board
from dicomflow.edge.transfer.courier import Courier
from dicomflow.edge.transfer.lane import Copies, Lane, Route
from dicomflow.edge.transfer.store import TransferStore
from dicomflow.errors import PermanentError
from dicomflow.network.settings import ClientTls
from dicomflow.network.tls import client_context

__all__ = ["TransfersStart", "has_transfers", "routes_of", "run_transfers"]

_POLL_SECONDS: Final = 3.0
_SELDOM_SECONDS: Final = 60.0  # without destinations
_STOP_SECONDS: Final = 3.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransfersStart(ProcessStart):
    """What the process is started with."""

    # Told of each object that is put, by its key and size.
    announce: Callable[[str, int], None] | None = None


def routes_of(settings: EdgeSettings, nodes: Mapping[str, Destination] | None = None) -> list[Route]:
    """Return destinations, those that the cloud may send to unless others are given, as associations need them.

    Raises:
        PermanentError: the files of one's TLS do not load.
    """

    def route(name: str, destination: Destination) -> Route:
        tls = destination.tls
        try:
            context = client_context(tls if isinstance(tls, ClientTls) else ClientTls()) if tls else None
        except PermanentError as error:
            raise PermanentError(f"destinations.{name}: {error}") from error
        return Route(name, destination, destination.calling_ae_title or settings.dimse.ae_title, context)

    return [route(name, destination) for name, destination in (settings.nodes if nodes is None else nodes).items()]


def run_transfers(start: TransfersStart) -> None:
    """Run transfers until the stop. Process: the main function of its process."""
    stopping = begin_process(start)
    lock = lock_of(start.settings.spool.dir, "transfers")
    board = Board()
    threads: list[threading.Thread] = []

    def take_up() -> None:
        if not threads and _is_locked(lock):  # one of an earlier run may still be ending
            threads.extend(_threads(start, board, stopping))
            for thread in threads:
                thread.start()

    watch_until_stop(start, stopping, take_up)
    board.wake()
    deadline = time.monotonic() + _STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    logging.shutdown()
    # An association that is under way breaks, as with a kill.
    os._exit(0)


def _is_locked(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _threads(start: TransfersStart, board: Board, stopping: threading.Event) -> Iterator[threading.Thread]:
    """Yield the courier's thread, and one for each association that may be had at once."""
    settings = start.settings
    metrics = TransferMetrics(settings.spool.dir)
    folders = TransferFolders(settings.spool.dir, fsync=settings.spool.fsync)
    with contextlib.suppress(OSError):  # it is made with the first transfer else
        folders.make()
    delivery = settings.delivery
    store = TransferStore(
        settings.name,
        partial(build_store, delivery),
        StoreMount(local_root(delivery.store_url), settings.spool.dir),
        partial(build_store, delivery, is_patient=False),
        start.announce or (lambda _key, _size: None),
    )
    courier = Courier(settings.name, settings.nodes, folders, board, store, count=metrics.ended)
    pause_seconds = _POLL_SECONDS if settings.nodes else _SELDOM_SECONDS
    yield threading.Thread(target=_follow, args=(courier, stopping, pause_seconds), name="courier", daemon=True)
    copies = Copies(folders, store, settings.spool.refuse_below_bytes)
    for route in routes_of(settings):
        for number in range(route.destination.associations):
            lane = Lane(
                route,
                board,
                copies,
                stopping=stopping,
                count=metrics.answered,
            )
            yield threading.Thread(target=lane.run, name=f"lane-{route.name}-{number}", daemon=True)
        if route.destination.commitment:
            questions = Questions(settings.spool.dir, fsync=settings.spool.fsync)
            asker = Asker(route, board, questions, stopping=stopping, count=metrics.answered)
            yield threading.Thread(target=asker.run, name=f"asker-{route.name}", daemon=True)


def has_transfers(settings: EdgeSettings) -> bool:
    """Tell whether transfers may be asked of an edge: it knows destinations, or has known some."""
    return bool(settings.nodes) or TransferFolders(settings.spool.dir).root.is_dir()


def _follow(courier: Courier, stopping: threading.Event, pause_seconds: float) -> None:
    """Step until the stop; the thread's boundary."""
    is_begun = False
    while not stopping.is_set():
        try:
            if not is_begun:
                courier.take_up()
                is_begun = True
            courier.step()
        except Exception:
            _logger.exception("courier_failed")
        stopping.wait(pause_seconds)
