"""An HTTP proxy between a client and an S3 server that fails on demand, in the ways networks and services fail."""

import contextlib
import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from waiting import WAIT_SECONDS, free_ports

__all__ = ["FaultProxy", "Request"]

_HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_SLICE_BYTES: Final = 8192


@dataclass(frozen=True)
class Request:
    """A request that arrived, with the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class FaultProxy:
    """Passes requests on, unless `fault` or the next of `faults` says otherwise; `requests` tells what came.

    A fault takes the handler of a request, and returns whether that request is done with.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.fault: Callable[[Any], bool] | None = None
        self.faults: deque[Callable[[Any], bool]] = deque()
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()
        (self.port,) = free_ports(1)  # its own over all refusals
        self.accept()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_refusing(self) -> bool:
        """Whether connections are refused."""
        return self._server is None

    def accept(self) -> None:
        """Listen, after `refuse` on the same port."""
        proxy = self

        class _Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128
            allow_reuse_address = True

            def process_request(self, request: Any, client_address: Any) -> None:
                proxy._connections.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                proxy._connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that go away are what is tested here."""

        handler = type("_BoundHandler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, with everything that is slow."""
        self.stopping.set()
        self.refuse()

    def puts(self) -> list[str]:
        """Return the paths of all PUT requests, in order."""
        return [request.path for request in self.requests if request.method == "PUT"]

    @staticmethod
    def status(status: int, code: str) -> Callable[[Any], bool]:
        """Answer with a status and S3's error document."""
        return lambda handler: handler.answer_status(status, code)

    @staticmethod
    def reset_in_body(handler: Any) -> bool:
        """Read half of the body, then reset the connection."""
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)) // 2)
        return bool(handler.reset())

    @staticmethod
    def lose_answer(handler: Any) -> bool:
        """Pass the request on, then reset the connection in place of the answer."""
        handler.forward()
        return bool(handler.reset())

    @staticmethod
    def truncate_answer(handler: Any) -> bool:
        """Pass the request on, then close in the middle of the answer's head."""
        handler.forward()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        handler.close_connection = True
        return True

    @staticmethod
    def hang(handler: Any) -> bool:
        """Take the request and never answer it."""
        handler.body()
        handler.proxy.stopping.wait(WAIT_SECONDS)
        return bool(handler.reset())

    @staticmethod
    def pause(seconds: float) -> Callable[[Any], bool]:
        """Answer, but later."""
        return lambda handler: handler.proxy.stopping.wait(seconds)

    @staticmethod
    def slow(bytes_per_second: int) -> Callable[[Any], bool]:
        """Take the body no faster than this, then pass it on."""
        return lambda handler: handler.read_slowly(bytes_per_second)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        self._body: bytes | None = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.requests.append(Request(self.command, self._path(), headers))
        try:
            fault = self.proxy.faults.popleft()
        except IndexError:
            fault = self.proxy.fault  # type: ignore[assignment]  # none
        if fault is None or not fault(self):
            self._send(*self.forward())

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815  # the base class's names

    def body(self) -> bytes:
        if self._body is None:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self._body

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(
            self.proxy.upstream.hostname or "", self.proxy.upstream.port, timeout=WAIT_SECONDS
        )
        with contextlib.closing(upstream):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            upstream.request(self.command, self._path(), self.body(), headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def answer_status(self, status: int, code: str) -> bool:
        self.body()
        document = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
        self._send(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else document)
        return True

    def read_slowly(self, bytes_per_second: int) -> bool:
        left = int(self.headers.get("Content-Length", 0))
        parts = []
        while left and not self.proxy.stopping.wait(_SLICE_BYTES / bytes_per_second):
            parts.append(self.rfile.read(min(left, _SLICE_BYTES)))
            left -= len(parts[-1])
        self._body = b"".join(parts)
        return False

    def reset(self) -> bool:
        # Closed with data to linger for no time, a socket sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
        self.close_connection = True
        return True

    def _path(self) -> str:
        """Return the path alone, also where a client speaks to a proxy and sends the whole URL."""
        parts = urlsplit(self.path)
        return self.path if not parts.scheme else parts.path + (f"?{parts.query}" if parts.query else "")

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), "")
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""
