"""The process that sends destinations their shares: its start, its lock on the spool, its threads, and its end.

Each destination has a board, a clerk and lanes of its own, so that one that is dead delays nobody. What was handed over
to one that the settings do not have any more is kept, and said.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from dicomflow.bucket.transfer import JobInstance
from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.deliver.bandwidth import Bandwidth
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.destinations import AnyDestination, Destination, StoreDestination, StowDestination
from dicomflow.edge.forward.clerk import Clerk
from dicomflow.edge.forward.copier import Copier, as_received, profiles_of
from dicomflow.edge.forward.storing import StoreLane
from dicomflow.edge.forward.stowing import StowLane
from dicomflow.edge.metrics import ForwardMetrics
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.processes import ProcessStart, begin_process, watch_until_stop
from dicomflow.edge.settings import DeliverySettings, EdgeSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.handedover import HandedOver, SharedDelivery
from dicomflow.edge.spool.locks import lock_of
from dicomflow.edge.stores import build_store, local_root
from dicomflow.edge.transfer.asker import Asker
from dicomflow.edge.transfer.board import Board, Transfer
from dicomflow.edge.transfer.lane import Lane
from dicomflow.edge.transfer.process import routes_of
from dicomflow.errors import PermanentError

__all__ = ["Forwarding", "check_destinations", "delivery_of", "has_shares", "run_forwarding"]

_LOOK_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 3.5
# Nobody else has the only copy here, so that the answer of a node in trouble is not its last one: over hours.
_TRIES: Final = 20

_logger = logging.getLogger(__name__)


def has_shares(settings: EdgeSettings) -> bool:
    """Tell whether something may have to be sent: there are routes, or were some."""
    return bool(settings.routes) or HandedOver(settings.spool.dir).root.is_dir()


def check_destinations(settings: EdgeSettings) -> None:
    """Find out at start what is wrong with the settings of destinations, asking none of them.

    Raises:
        PermanentError: a store's settings are wrong, a profile cannot be kept, or a file cannot be read.
    """
    profiles_of(settings)
    for name, destination in settings.destinations.items():
        if isinstance(destination, StoreDestination) and local_root(destination.url) is None:
            try:
                build_store(delivery_of(destination))
            except PermanentError as error:
                raise PermanentError(f"destinations.{name}: {error}") from error
        if isinstance(destination, StowDestination):
            for path in (destination.authorization_file, destination.ca_certificate):
                if path is not None and not os.access(path, os.R_OK):
                    raise PermanentError(f"destinations.{name}: {path} cannot be read")


def run_forwarding(start: ProcessStart) -> None:
    """Send until the stop. Process: the main function of its process."""
    stopping = begin_process(start)
    lock = lock_of(start.settings.spool.dir, "forwarding")
    forwarding: list[Forwarding] = []

    def take_up() -> None:
        if not forwarding and _is_locked(lock):  # one of an earlier run may still be ending
            metrics = ForwardMetrics(start.settings.spool.dir)
            forwarding.append(Forwarding(start.settings, stopping, metrics.answered))
            forwarding[0].start()

    watch_until_stop(start, stopping, take_up)
    for each in forwarding:
        each.join(_STOP_SECONDS)
    logging.shutdown()
    # What is under way breaks, as with a kill.
    os._exit(0)


class Forwarding:
    """The threads of all destinations; `start`, then set the event, then `join`."""

    def __init__(self, settings: EdgeSettings, stopping: threading.Event, count: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._stopping = stopping
        self._count = count
        self._handed = HandedOver(settings.spool.dir, fsync=settings.spool.fsync)
        self._spool = Spool(settings.spool.dir, make=False, fsync=settings.spool.fsync)
        self._profiles = profiles_of(settings)
        self._boards: list[Board] = []
        self._threads = list(self._make())

    def start(self) -> None:
        """Begin, and say what nobody will send."""
        for name in self._handed.names():
            waiting = len(self._handed.of(name))
            if waiting and name not in self._settings.destinations:
                _logger.error("destination_unknown name=%s deliveries=%d", name, waiting)
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the threads, for some seconds in all."""
        for board in self._boards:
            board.wake()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _make(self) -> Iterator[threading.Thread]:
        reached = {name: each for name, each in self._settings.destinations.items() if isinstance(each, Destination)}
        routes = {each.name: each for each in routes_of(self._settings, reached)}
        for name, destination in self._settings.destinations.items():
            board = Board()
            self._boards.append(board)
            if isinstance(destination, Destination):
                admit = _Pace(destination, self._stopping).admit
                for number in range(destination.associations):
                    lane = Lane(
                        *(routes[name], board, _whole_file),
                        stopping=self._stopping,
                        count=self._count,
                        tries=_TRIES,
                        admit=admit,
                    )
                    yield threading.Thread(target=lane.run, name=f"forward-{name}-{number}", daemon=True)
                if destination.commitment:
                    # Another process asks the same node for what the cloud sends it.
                    questions = Questions(self._settings.spool.dir, fsync=self._settings.spool.fsync)
                    asker = Asker(
                        *(routes[name], board, questions),
                        stopping=self._stopping,
                        count=self._count,
                        asked_as=f"routes/{name}",
                    )
                    yield threading.Thread(target=asker.run, name=f"asker-{name}", daemon=True)
                clerk = self._clerk(name, destination, board)
            elif isinstance(destination, StowDestination):
                admit = _Pace(destination, self._stopping).admit
                for number in range(destination.concurrency):
                    stow = StowLane(
                        *(name, destination, board),
                        stopping=self._stopping,
                        count=self._count,
                        tries=_TRIES,
                        admit=admit,
                    )
                    yield threading.Thread(target=stow.run, name=f"forward-{name}-{number}", daemon=True)
                clerk = self._clerk(name, destination, board)
            else:
                store = self._store_lane(name, destination, board)
                yield threading.Thread(target=store.run, name=f"forward-{name}", daemon=True)
                clerk = self._clerk(name, destination, board, store)
            yield threading.Thread(target=self._follow, args=(clerk, name), name=f"clerk-{name}", daemon=True)

    def _clerk(self, name: str, destination: AnyDestination, board: Board, store: StoreLane | None = None) -> Clerk:
        return Clerk(
            name,
            self._settings.name,
            is_required=destination.required,
            keep_days=destination.keep_days,
            handed=self._handed,
            board=board,
            quarantine=self._spool.quarantine,
            prepare=self._copier(name),
            finish=store.finish if store is not None else lambda _: None,
        )

    def _copier(self, name: str) -> Callable[[SharedDelivery], SharedDelivery]:
        profile, spool = self._profiles.get(name), self._settings.spool
        if profile is None:
            return as_received
        return Copier(profile, spool.refuse_below_bytes, self._stopping, fsync=spool.fsync)

    def _store_lane(self, name: str, destination: StoreDestination, board: Board) -> StoreLane:
        root, delivery = local_root(destination.url), delivery_of(destination)
        mount = StoreMount(root, self._handed.root / name)
        uploader = Uploader(partial(build_store, delivery), root, mount)
        return StoreLane(
            *(name, destination, self._settings.name, board, uploader), stopping=self._stopping, count=self._count
        )

    def _follow(self, clerk: Clerk, name: str) -> None:
        """Step until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                clerk.step()
            except OSError as error:
                _logger.warning("shares_not_read destination=%s errno=%s", name, error.errno)
            except Exception:
                _logger.exception("clerk_failed destination=%s", name)
            self._stopping.wait(_LOOK_SECONDS)


class _Pace:
    """Lets all lanes of a destination together send no faster than its limit. Threads: any; `_lock` guards the sum."""

    def __init__(self, destination: Destination | StowDestination, stopping: threading.Event) -> None:
        self._bandwidth = Bandwidth(lambda: destination, lambda: datetime.now().astimezone())
        self._stopping = stopping
        self._lock = threading.Lock()

    def admit(self, size_bytes: int) -> None:
        """Return when so many bytes may begin to be sent, or at the stop."""
        with self._lock:
            while (seconds := self._bandwidth.wait_seconds()) is not None and not self._stopping.wait(seconds):
                pass
            self._bandwidth.begin(size_bytes)


def _whole_file(transfer: Transfer, instance: JobInstance) -> Path:
    folder = transfer.folder
    assert isinstance(folder, SharedDelivery)
    return folder.whole_file(instance.number)


def delivery_of(destination: StoreDestination) -> DeliverySettings:
    """Return the settings of a store in the words of the default one."""
    return DeliverySettings(
        store_url=destination.url,
        endpoint=destination.endpoint,
        proxy_url=destination.proxy_url,
        proxy_excludes=destination.proxy_excludes,
        ca_certificate=destination.ca_certificate,
        credentials=destination.credentials,
        aws_profile=destination.aws_profile,
        kms_key_id=destination.kms_key_id,
    )


def _is_locked(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
