"""The connections of a process: threads that accept one and serve its association, and the end of all when it stops."""

import contextlib
import errno
import logging
import threading
import time
from collections import Counter
from typing import Final

from dicomflow.network.access import is_within
from dicomflow.network.arrivals import Arrival, Inbox, Listener
from dicomflow.network.association import Association
from dicomflow.network.services import Host

__all__ = ["DRAIN_SECONDS", "Connections"]

# Greengrass kills five seconds after SIGTERM.
DRAIN_SECONDS: Final = 3.5
# So many threads stay to wait for connections of a listener or an inbox; more come with them, and go.
_IDLE_THREADS: Final = 8
# So many of the newest connections without an association stay where descriptors are short: they may be about to ask.
_NEWEST: Final = 8
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_logger = logging.getLogger(__name__)


class Connections:
    """The connections of one process. A thread accepts and serves; `_lock` guards connections and counts.

    Of connections without an association there are `most_waiting`: a newer one takes the place of the oldest, since an
    honest requestor asks, or closes, at once. Their number bounds threads, descriptors and memory.
    """

    def __init__(self, host: Host, most_waiting: int = 256) -> None:
        self._host = host
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
        self._host.admission.close()
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
                    if self._host.probes.is_news("accept", error.errno):
                        _logger.warning("accept_failed errno=%s", error.errno)
                    if error.errno in _NO_DESCRIPTORS:
                        self._make_room(_NEWEST)
                    time.sleep(0.05)
                continue
            if arrival is None:
                continue
            # The requestor's scope (fe80::1%eth0) is of this host only.
            peer = arrival.peer.partition("%")[0]
            if not is_within(self._host.settings.networks, peer):
                self._turn_away(arrival, peer)
                continue
            association = Association(self._host, arrival.connection, peer, arrival.tls)
            if self._begin(association, source):
                with contextlib.suppress(Exception):  # `run` logs what it could not foresee
                    association.run()
                self._host.admission.count_connection(-1)
                with self._lock:
                    self._associations.pop(association, None)
                    if self._idle[source] >= _IDLE_THREADS:
                        return
                    self._idle[source] += 1
            else:
                arrival.connection.close()
                self._host.admission.count_connection(-1)

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
            if self._host.probes.is_news("too many"):
                _logger.warning("connections_without_association most=%d", self._most_waiting)
            waiting[0].cut()

    def _turn_away(self, arrival: Arrival, peer: str) -> None:
        """Close a connection from another network, before a byte of it is read."""
        arrival.connection.close()
        self._host.admission.count_connection(-1)
        self._host.note_end("network", "")
        if self._host.probes.is_news("network", peer):
            _logger.warning("connection_refused peer=%s reason=the address is in none of dimse.networks", peer)
