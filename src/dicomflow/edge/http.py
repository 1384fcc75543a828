"""The edge's HTTP port: `/healthz`, `/readyz` and `/metrics` (Prometheus).

A request has a few seconds to come, and there are never more than some at once: the newest goes first, so that what
others hold open keeps no check of health out.
"""

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dicomflow.edge.commitment.requests import count_requests
from dicomflow.edge.metrics import register_files
from dicomflow.edge.progress import read_progress
from dicomflow.edge.spool.view import SpoolView, free_bytes, look
from dicomflow.edge.supervisor import Supervisor
from dicomflow.errors import PermanentError

__all__ = ["EdgeHttp", "register_edge"]

# How long a stop waits for the server, of the five seconds that it has in all.
_POLL_SECONDS: Final = 0.1
# Until a request has come, and then until its answer is taken.
_REQUEST_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 60.0
_MOST_REQUESTS: Final = 32
_PROGRESS: Final = {
    "waiting_bytes": "Bytes that wait to be stored.",
    "stored_bytes_per_second": "Bytes stored a second.",
    "level_in_seconds": "Seconds until nothing waits, as the line has been; left out while that is not known.",
}
_RESENT: Final = {
    "resent_skipped": "Instances that were sent again and not stored again: the spool or the store had them.",
    "resent_stored_again": "Instances that were stored again: the store did not have what the ledger says.",
}
_LATE_SECONDS: Final = 900.0
_MANY_MINUTES: Final = 120
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")

_logger = logging.getLogger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]  # Any: the write callable that WSGI keeps for old servers


class EdgeHttp:
    """Serves health and metrics of a supervisor on a thread of its own."""

    def __init__(self, supervisor: Supervisor, bind: str, port: int) -> None:
        self._supervisor = supervisor
        registry = CollectorRegistry()
        register_edge(registry, supervisor)
        self._metrics = make_wsgi_app(registry)
        try:
            self._server = make_server(bind, port, self._application, _Server, _QuietHandler)
        except OSError as error:
            raise PermanentError(f"cannot serve HTTP on {bind} port {port}: {error.strerror}; set http_port") from error
        threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True).start()

    @property
    def port(self) -> int:
        """The bound port."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _application(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/healthz":
                # The supervisor answers, so it lives; a dead child is replaced and is no reason to kill the edge.
                start_response("200 OK", [_TEXT])
                return [b"ok\n"]
            case "/readyz":
                shortage = self._supervisor.shortage
                if shortage:
                    start_response("503 Service Unavailable", [_TEXT])
                    return [_lines(f"not ready: {shortage}", *self._supervisor.problems, *self._remarks())]
                is_ready = self._supervisor.is_ready
                start_response("200 OK" if is_ready else "503 Service Unavailable", [_TEXT])
                return [_lines("ready" if is_ready else "not ready", *self._supervisor.problems, *self._remarks())]
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start_response)
                return answer
        start_response("404 Not Found", [_TEXT])
        return [b"not found; try /healthz, /readyz or /metrics\n"]

    def _remarks(self) -> Iterator[str]:
        """Yield what does not keep the edge from receiving, and has to be seen to."""
        progress = read_progress(self._supervisor.spool.root) or {}
        if progress.get("store") == "failing":
            yield "the store fails: what is received stays in the spool"
        if progress.get("set_aside"):
            yield f"set aside: {progress['set_aside']}; `dicomflow spool list` has the reasons"
        if progress.get("name_shared"):
            yield "another edge of this name writes to the same store: give each a name of its own"
        for name, (count, oldest_at) in look(self._supervisor.spool.root).destinations.items():
            if count and time.time() - oldest_at >= _LATE_SECONDS:
                yield f"destination {name}: {count} instances wait, the oldest for {_age(time.time() - oldest_at)}"
        for name, count in self._supervisor.flawed_settings.items():
            if count:
                yield f"{name} is not in force as it is: see the log"


def register_edge(registry: CollectorRegistry, supervisor: Supervisor) -> None:
    """Let a registry give all metrics of an edge that is started."""
    registry.register(_SpoolCollector(supervisor))
    register_files(registry, supervisor.spool.root)


def _age(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < _MANY_MINUTES * 60 else f"{seconds / 3600:.0f} hours"


def _of_progress(progress: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield how delivery to the default store gets on."""
    for name, text in _PROGRESS.items():
        if progress.get(name) is not None:
            yield GaugeMetricFamily(f"dicomflow_delivery_{name}", text, value=progress[name])
    for name, text in _RESENT.items():
        yield CounterMetricFamily(f"dicomflow_{name}", text, value=progress.get(name, 0))
    # Left out before the first progress: nothing is known of the store yet.
    if "store" in progress:
        yield GaugeMetricFamily(
            "dicomflow_store_failing",
            "1 while the store cannot be opened, puts fail one after the other, or make no progress.",
            value=progress["store"] == "failing",
        )
    yield GaugeMetricFamily(
        "dicomflow_delivery_set_aside",
        "Files, folders and deliveries that cannot be worked on.",
        value=progress.get("set_aside", 0),
    )


def _of_spool(view: SpoolView) -> Iterator[Metric]:
    """Yield what waits in the spool: for the default store, and for each destination that routes send to."""
    files = GaugeMetricFamily("dicomflow_spool_files", "Files in the spool.", labels=["folder"])
    for folder, count in view.counts().items():
        files.add_metric([folder], count)
    yield files
    yield GaugeMetricFamily(
        "dicomflow_spool_oldest_seconds", "Age of the oldest file to deliver.", value=view.oldest_seconds()
    )
    yield GaugeMetricFamily(
        "dicomflow_spool_unreadable", "Folders of the spool that cannot be read.", value=len(view.unreadable)
    )
    waiting = GaugeMetricFamily(
        "dicomflow_destination_waiting", "Instances that wait to be sent to a destination.", labels=["destination"]
    )
    oldest = GaugeMetricFamily(
        "dicomflow_destination_oldest_seconds", "Age of the oldest of them; 0 without one.", labels=["destination"]
    )
    for name, (count, oldest_at) in view.destinations.items():
        waiting.add_metric([name], count)
        oldest.add_metric([name], max(0.0, time.time() - oldest_at) if count else 0.0)
    if view.destinations:
        yield waiting
        yield oldest


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


class _Server(ThreadingMixIn, WSGIServer):
    """Threads: one accepts and looks at times, one serves each request; `_lock` guards the deadlines."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}  # in the order they were given
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own; the oldest one makes room for it."""
        self.give(request, _REQUEST_SECONDS)
        with self._lock:
            oldest = next(iter(self._deadlines)) if len(self._deadlines) > _MOST_REQUESTS else None
        if oldest is not None:
            self._cut(oldest)
        super().process_request(request, client_address)

    def give(self, request: socket.socket, seconds: float) -> None:
        """Give a connection so much time from now on, as the newest."""
        with self._lock:
            self._deadlines.pop(request, None)
            self._deadlines[request] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Cut the connections whose time is up; called between connections, many times a second."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, deadline in self._deadlines.items() if deadline <= now]
        for request in late:
            self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is served."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one request; that a peer is gone, or was cut, is none of it."""
        del request, client_address
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _logger.error("http_request_failed", exc_info=error)

    def _cut(self, request: socket.socket) -> None:
        """End a connection under the thread that serves it, which closes it."""
        with self._lock:
            self._deadlines.pop(request, None)
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _QuietHandler(WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        """Give what the request asks for: it has come."""
        assert isinstance(self.server, _Server)
        self.server.give(self.connection, _ANSWER_SECONDS)
        return super().get_environ()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Leave out a line a request."""


class _SpoolCollector:
    """Counts at the moment of the question."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        root = self._supervisor.spool.root
        view = look(root)
        yield from _of_spool(view)
        requests = GaugeMetricFamily(
            "dicomflow_commitment_requests", "Storage commitment requests without a report.", labels=["state"]
        )
        for state, count in count_requests(root).items():
            requests.add_metric([state], count)
        yield requests
        progress = read_progress(root) or {}
        yield from _of_progress(progress)
        yield GaugeMetricFamily(
            "dicomflow_spool_full",
            "1 while images are refused for want of space, or something found no room a moment ago.",
            value=bool(self._supervisor.shortage) or bool(progress.get("spool_full")),
        )
        yield GaugeMetricFamily("dicomflow_spool_free_bytes", "Free space for the spool.", value=free_bytes(root))
        yield GaugeMetricFamily(
            "dicomflow_associations_open",
            "Associations that are open; none is taken beyond dimse.max_associations.",
            value=self._supervisor.open_associations,
        )
        yield GaugeMetricFamily("dicomflow_workers", "Workers that run.", value=self._supervisor.workers_alive)
        yield GaugeMetricFamily(
            "dicomflow_child_restarts", "Processes that died and were replaced.", value=self._supervisor.restarts
        )
        silent = GaugeMetricFamily(
            "dicomflow_child_silent_seconds", "For how long a process that runs has not moved.", labels=["name"]
        )
        for name, seconds in self._supervisor.silent_seconds.items():
            silent.add_metric([name], seconds)
        yield silent
        flawed = GaugeMetricFamily(
            "dicomflow_settings_flawed",
            "Lines of users, certificates and settings that are not in force as their files are now.",
            labels=["file"],
        )
        for name, count in self._supervisor.flawed_settings.items():
            flawed.add_metric([name], count)
        yield flawed
