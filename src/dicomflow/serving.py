"""Serving a Starlette application on a port, plain or TLS: the console, the simulator and `dicomflow local`.

This module must not know what the application is.
"""

import socket
import threading
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from dicomflow.errors import PermanentError
from dicomflow.sites import LOOPBACK_HOSTS, OwnSite

__all__ = ["WebServer", "serve"]

_BACKLOG: Final = 128
_CLOSE_SECONDS: Final = 10


class WebServer:
    """A bound port, whose connections wait until `run` or `start` serves them.

    Raises:
        PermanentError: on creation, when the port cannot be had.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise PermanentError(
                f"cannot serve HTTP on {host} port {port}: {error.strerror}; choose another port"
            ) from error
        # asyncio sets it where a socket names its protocol, which this one does not; the connections have it from here.
        # Without it each answer of more than one piece waits 40 ms for the reader's acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if certificate is None else 'https'}://{name}:{self.port}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            # The address of who asks decides whether a header is believed: nobody may write it.
            proxy_headers=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.run, name="http", daemon=True)

    def run(self) -> None:
        """Serve until `stop`."""
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Answer what is under way, then end; any thread or signal may call it."""
        self._server.should_exit = True

    def start(self) -> None:
        """Serve in a thread of its own until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop what `start` began, and wait for its end."""
        self.stop()
        self._thread.join()


def serve(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> WebServer:
    """Serve in a thread of its own; port 0 takes a free one. On a loopback address no other site's pages reach it."""
    server = WebServer(OwnSite(app, LOOPBACK_HOSTS if host in LOOPBACK_HOSTS else ()), host, port)
    server.start()
    return server
