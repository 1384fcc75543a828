"""The supervisor: binds the ports, starts workers and the deliverer, replaces those that die, stops them in order.

Children are started with `spawn` on every platform. A child that dies again and again is replaced with growing
pauses, never given up: the others go on receiving. One that is alive and does not get on is killed, and so replaced.
What stops them is the end of a pipe that only the supervisor writes to, so that they end after it however it ended.
"""

import contextlib
import itertools
import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, MutableSequence
from dataclasses import replace
from functools import partial
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import Timeout

from dicomflow.edge import metrics
from dicomflow.edge.children import SILENT_SECONDS, Child, slots_of
from dicomflow.edge.deliver.deliverer import Announce, StoredObject
from dicomflow.edge.deliver.process import DelivererStart, run_deliverer
from dicomflow.edge.forward.process import check_destinations, has_shares, run_forwarding
from dicomflow.edge.ledger import LEDGER_FILE
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.processes import ProcessStart
from dicomflow.edge.pull.fetch import peer_of
from dicomflow.edge.pull.process import run_pulls
from dicomflow.edge.receive.worker import WorkerStart, run_worker
from dicomflow.edge.settings import EdgeSettings, SettingsFile
from dicomflow.edge.spool.associations import AssociationLog
from dicomflow.edge.spool.durable import close_to_others
from dicomflow.edge.spool.lane import discard_incoming
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.locks import lock_of
from dicomflow.edge.spool.room import Room
from dicomflow.edge.stores import build_store, check_store, local_root
from dicomflow.edge.transfer.process import TransfersStart, has_transfers, routes_of, run_transfers
from dicomflow.errors import PermanentError, TransientError
from dicomflow.logs import LogSettings
from dicomflow.network.admission import clear_row, open_associations, table_length
from dicomflow.network.arrivals import open_inboxes, pass_on
from dicomflow.network.connections import DRAIN_SECONDS
from dicomflow.network.descriptors import raise_limit
from dicomflow.network.listening import bind
from dicomflow.network.services import Beside
from dicomflow.network.tls import TlsContexts
from dicomflow.network.users import Users

if TYPE_CHECKING:
    import socket

__all__ = ["Supervisor", "worker_count"]

_LEAST_WORKERS: Final = 2
_STOP_SECONDS: Final = 4.5
# Workers whose supervisor was killed give the port free when they have drained.
_PORT_SECONDS: Final = DRAIN_SECONDS + 2.5
_LOOK_SECONDS: Final = 0.1
_READ_SETTINGS_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)


def worker_count(settings: EdgeSettings) -> int:
    """Return how many processes receive."""
    return settings.spool.workers or max(_LEAST_WORKERS, os.cpu_count() or 1)


class Supervisor:
    """One edge: `start`, then `stop`. Threads: `start` and `stop` from one; a thread of its own watches the children.

    Raises:
        PermanentError: from `start`, when a port, the spool or the store cannot be had.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        log_settings: LogSettings,
        announce: Announce | None = None,
        config: Path | None = None,
        beside: Callable[[], Beside] | None = None,
    ) -> None:
        """Prepare an edge.

        Args:
            settings: what it runs with.
            log_settings: how its processes log.
            announce: told of every stored object, at least once.
            config: the file of the settings; limits and priorities are read again when it changes.
            beside: makes, in each worker, what it serves beside storage; it is pickled.
        """
        self._settings = settings
        self._mount = StoreMount(local_root(settings.delivery.store_url), settings.spool.dir)
        self._logs = log_settings
        self._announce = announce
        self._config = config
        self._beside = beside
        self._context = multiprocessing.get_context("spawn")
        self._children: list[Child] = []
        self._beats: MutableSequence[int] = ()  # type: ignore[assignment]  # until there are children
        self._table: MutableSequence[int] = []  # of open associations; as above
        self._room = Room(settings.spool, self._context.RawArray("d", [-math.inf]))
        self._looked_at = self._settings_read_at = time.monotonic()
        self._stop_reader, self._stop_writer = self._context.Pipe(duplex=False)
        self._users: Users | None = None
        self._tls: TlsContexts | None = None
        self._settings_file = SettingsFile(config, settings, is_told=False) if config is not None else None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._tls_listener: socket.socket | None = None
        self._inboxes: list[tuple[socket.socket, socket.socket]] = []
        self._lock = lock_of(settings.spool.dir, "supervisor")
        self._unnoted: set[int] = set()  # processes that are gone, whose associations are to be noted as lost
        self.spool = Layout(settings.spool.dir)
        self._associations = AssociationLog(self.spool.associations_folder)
        self.restarts = 0

    @property
    def dimse_port(self) -> int:
        """The bound port, also where the settings say 0."""
        assert self._listener is not None, "the supervisor is started"
        return int(self._listener.getsockname()[1])

    @property
    def tls_port(self) -> int | None:
        """The bound port of the TLS listener; None without one."""
        return None if self._tls_listener is None else int(self._tls_listener.getsockname()[1])

    @property
    def workers_alive(self) -> int:
        """How many workers run."""
        return sum(child.process.is_alive() for child in self._children if child.is_worker)

    @property
    def is_ready(self) -> bool:
        """Whether all children run and get on, and no stop was asked for."""
        return not self._stopping.is_set() and not self.problems

    @property
    def problems(self) -> list[str]:
        """What hinders the edge: each child that does not run or get on; and when no place for a sender is left."""
        found = [f"{child.name} {child.problem}" for child in self._children if child.problem]
        most = self._settings.dimse.max_associations
        if open_associations(self._table, most) >= most:
            found.append(
                f"all {most} associations are open, and others are rejected until one ends;"
                f" one that is silent is cut after {self._settings.dimse.idle_seconds:g} s"
            )
        return found

    @property
    def silent_seconds(self) -> dict[str, float]:
        """For how long each child has not moved."""
        return {child.name: child.silent_seconds for child in self._children}

    @property
    def flawed_settings(self) -> dict[str, int]:
        """How much of the files that are read again while it runs is not in force: lines of users, certificates."""
        return {
            "users_file": 0 if self._users is None else self._users.look(),
            "tls": 0 if self._tls is None else self._tls.look(),
            "settings": 0 if self._settings_file is None else int(self._settings_file.is_flawed),
        }

    @property
    def shortage(self) -> str:
        """Why images are refused for want of space, or nothing."""
        return self._room.shortage

    @property
    def open_associations(self) -> int:
        """How many associations are open."""
        return open_associations(self._table, self._settings.dimse.max_associations)

    def start(self) -> None:
        """Bind, open the spool, start the children; on return connections are accepted."""
        settings = self._settings
        check_destinations(settings)
        routes_of(settings)  # what is wrong with their files is told at start
        for name in settings.sources:
            peer_of(name, settings)
        raise_limit()
        self.spool.make()
        close_to_others(self.spool.root)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise PermanentError(f"another edge runs on the spool {settings.spool.dir}: stop it first") from error
        self._try_store()
        dimse = settings.dimse
        if dimse.users_file is not None:
            self._users = Users(dimse.users_file)
        if dimse.tls is not None:
            self._tls = TlsContexts(dimse.tls)
            self._tls_listener = bind(dimse.bind, dimse.tls.port, patience_seconds=_PORT_SECONDS)
            if dimse.tls.client_ca is None:
                _logger.warning("tls_without_client_certificates port=%d", dimse.tls.port)
        self._listener = bind(dimse.bind, dimse.port, patience_seconds=_PORT_SECONDS)
        metrics.wipe(self.spool.root)
        discarded = discard_incoming(self.spool)
        if discarded:
            _logger.info("incoming_discarded files=%d", discarded)
        self._unnoted = self._associations.process_ids()
        self._note_lost()
        if settings.archive.peers and self._beside is None:
            _logger.warning("archive_peers_ignored reason=archive.dicomweb_url names no archive to ask")
        self._start_children()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()
        _logger.info("edge_started name=%s port=%d workers=%d", settings.name, self.dimse_port, self.workers_alive)

    def stop(self) -> None:
        """Drain: refuse new associations, let messages under way end, leave within five seconds."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        self._stop_writer.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                _logger.warning("child_killed name=%s", child.name)
                child.process.kill()
                child.process.join()
        for shared in (self._listener, self._tls_listener, *itertools.chain(*self._inboxes)):
            if shared is not None:
                shared.close()
        self._stop_reader.close()
        self._lock.release()
        _logger.info("edge_stopped name=%s", self._settings.name)

    def _start_children(self) -> None:
        """Start the workers, the deliverer, and what else the settings have work for."""
        assert self._listener is not None
        settings = self._settings
        workers = worker_count(settings)
        length = table_length(workers, settings.dimse.max_associations)
        self._table = self._context.RawArray("Q", length)
        self._beats = self._context.RawArray("Q", slots_of(workers + 4).start)
        self._inboxes = open_inboxes(workers)
        for index in range(workers):
            start = WorkerStart(
                index,
                settings,
                self._logs,
                self._listener,
                self._tls_listener,
                self._table,
                self._inboxes,
                self._beats,
                slots_of(index)[0],
                self._stop_reader,
                room=self._room,
                beside=self._beside,
            )
            self._add(f"worker-{index}", lambda start=start: self._spawn_worker(start), 1)  # type: ignore[misc]
        self._add("deliverer", lambda: self._spawn_deliverer(slots_of(workers)), 2)
        if has_transfers(settings):
            self._add("transfers", lambda: self._spawn_transfers(slots_of(workers + 1)), 2)
        if settings.sources:
            place = len(self._children)
            self._add("pulls", lambda: self._spawn_beside(run_pulls, slots_of(place)), 2)
        if has_shares(settings):
            here = len(self._children)
            self._add("forwarding", lambda: self._spawn_beside(run_forwarding, slots_of(here)), 2)

    def _try_store(self) -> None:
        """Find out at start what is wrong with the store.

        Raises:
            PermanentError: the settings are wrong; at an edge's first start also what the store will never take.
        """
        delivery = self._settings.delivery
        is_folder = local_root(delivery.store_url) is not None
        if not is_folder:
            build_store(delivery)  # which asks nobody; a folder may be away, or hang
        if is_folder or (self._settings.spool.dir / LEDGER_FILE).exists():
            # It must receive whatever its store says now, and at once.
            threading.Thread(target=self._warn_of_store, name="store-check", daemon=True).start()
            return
        try:
            check_store(delivery, self._settings.name, self._mount)
        except TransientError as error:
            _logger.warning("store_unavailable reason=%s", error)

    def _warn_of_store(self) -> None:
        try:
            check_store(self._settings.delivery, self._settings.name, self._mount)
        except TransientError as error:
            _logger.warning("store_unavailable reason=%s", error)
        except PermanentError as error:
            _logger.error("store_refuses reason=%s", error)  # noqa: TRY400  # no bug of ours

    def _add(self, name: str, start: Callable[[], SpawnProcess], slots: int) -> None:
        places = slots_of(len(self._children))[:slots]
        self._children.append(Child(name, start, start(), time.monotonic(), places))

    def _spawn_worker(self, start: WorkerStart) -> SpawnProcess:
        users = {} if self._users is None else self._users.in_force
        return self._spawn(run_worker, replace(start, users=users))

    def _spawn_deliverer(self, slots: range) -> SpawnProcess:
        """Start a deliverer with what is in force by now, which may not be what the edge was started with."""
        settings = self._settings
        if self._settings_file is not None:
            file = self._settings_file
            settings = settings.model_copy(update={"delivery": file.read(), "routes": file.routes})
        start = DelivererStart(
            settings, self._logs, self._announce, self._config, self._beats, slots, self._stop_reader, self._room
        )
        return self._spawn(run_deliverer, start)

    def _spawn_transfers(self, slots: range) -> SpawnProcess:
        announce = None if self._announce is None else partial(_announce_one, self._announce)
        start = TransfersStart(self._settings, self._logs, self._beats, slots, self._stop_reader, announce)
        return self._spawn(run_transfers, start)

    def _spawn_beside(self, run: Callable[[ProcessStart], None], slots: range) -> SpawnProcess:
        return self._spawn(run, ProcessStart(self._settings, self._logs, self._beats, slots, self._stop_reader))

    def _spawn(
        self, target: Callable[..., None], argument: WorkerStart | DelivererStart | ProcessStart
    ) -> SpawnProcess:
        process = self._context.Process(target=target, args=(argument,), daemon=False)
        process.start()
        return process

    def _watch(self) -> None:
        """Look after the children until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                alive = [child.process.sentinel for child in self._children if child.restart_at is None]
                connection.wait(alive, timeout=_LOOK_SECONDS)
                if not self._stopping.is_set():
                    self._look_around(time.monotonic())
            except Exception:
                _logger.exception("watcher_failed")
                self._stopping.wait(_LOOK_SECONDS)

    def _look_around(self, now: float) -> None:
        for index, child in enumerate(self._children):
            try:
                self._look_after(index, child, now, now - self._looked_at)
            except Exception:
                _logger.exception("child_not_looked_after name=%s", child.name)
        self._looked_at = now
        if self._unnoted:
            self._note_lost()
        if self._settings_file is not None and now - self._settings_read_at >= _READ_SETTINGS_SECONDS:
            self._settings_read_at = now
            # So that they outlive the deliverer, whatever the file holds when it dies.
            self._settings_file.read()

    def _look_after(self, index: int, child: Child, now: float, seconds: float) -> None:
        """Do what one child needs now, `seconds` after it was looked after last."""
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._replace(child, now)
            elif child.is_worker:
                self._pass_on(index)
        elif child.process.is_alive():
            self._listen(child, seconds)
            if child.is_worker and child.silent_seconds >= SILENT_SECONDS:
                self._pass_on(index)  # the others do not know, and go on giving
        else:
            if child.is_worker:
                clear_row(self._table, index, self._settings.dimse.max_associations)
            self._bury(child, now)

    def _listen(self, child: Child, seconds: float) -> None:
        """Take in a child's beats, and kill it when it has long been silent: a stopped process dies of that too."""
        was_silent = child.silent_seconds >= SILENT_SECONDS
        child.look(self._beats, seconds)
        if child.silent_seconds >= SILENT_SECONDS and not was_silent:
            _logger.warning("child_silent name=%s pid=%s", child.name, child.process.pid)
        if child.is_frozen and not child.is_killed:
            child.is_killed = True
            _logger.error("child_frozen name=%s pid=%s", child.name, child.process.pid)
            child.process.kill()

    def _pass_on(self, index: int) -> None:
        """Give the connections that wait for a worker that is gone, or silent, to one that is there, if there is."""
        if not self._inboxes:
            return
        others = [
            other
            for other, child in enumerate(self._children)
            if child.is_worker and other != index and child.process.is_alive() and child.silent_seconds < SILENT_SECONDS
        ]
        if others:
            passed = pass_on(self._inboxes[index][1], self._inboxes[min(others, key=self._silence_of)][0])
            if passed:
                _logger.info("connections_passed_on name=%s count=%d", self._children[index].name, passed)

    def _silence_of(self, index: int) -> float:
        return self._children[index].silent_seconds

    def _note_lost(self) -> None:
        """Note that processes that are gone lost their associations; what a full volume does not take, again later."""
        running = {child.process.pid for child in self._children if child.process.is_alive()}
        for process_id in self._unnoted - running:
            try:
                if self._associations.is_at_work(process_id):
                    continue  # a worker of an earlier run is ending, and may begin another log
                self._associations.note_lost(process_id)
            except OSError as error:
                _logger.warning("lost_not_noted errno=%s", error.errno)
                continue
            self._unnoted.discard(process_id)

    def _bury(self, child: Child, now: float) -> None:
        """Note a death, clean up after it, and set when the child is started again."""
        _logger.error("child_died name=%s exit_code=%s", child.name, child.process.exitcode)
        child.bury(now)
        if child.process.pid is not None:
            self._unnoted.add(child.process.pid)
            self._note_lost()
            with contextlib.suppress(OSError):
                discard_incoming(self.spool, child.process.pid)

    def _replace(self, child: Child, now: float) -> None:
        """Start a child again; when there is no process to be had, try later."""
        try:
            child.replace(self._beats, now)
        except OSError as error:
            _logger.error("child_not_started name=%s errno=%s", child.name, error.errno)  # noqa: TRY400  # no bug
            return
        self.restarts += 1


def _announce_one(announce: Announce, key: str, size_bytes: int) -> None:
    announce([StoredObject(key, size_bytes)])
