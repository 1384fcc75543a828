"""Serving an application on a port, in a thread of its own."""

import socket
import threading
from typing import Final

import uvicorn
from starlette.applications import Starlette

from dicomflow.errors import PermanentError
from dicomflow.sites import LOOPBACK_HOSTS, OwnSite

__all__ = ["Server", "serve"]

BACKLOG: Final = 128
CLOSE_SECONDS: Final = 10


class Server:
    """A running server; `close` drains it and waits for its end. On a loopback address no other site's pages reach it.

    Raises:
        PermanentError: on creation, when the port cannot be had.
    """

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        try:
            self._socket = socket.create_server((host, port), backlog=BACKLOG)
        except OSError as error:
            raise PermanentError(f"cannot serve HTTP on {host} port {port}: {error.strerror}") from error
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            OwnSite(app, LOOPBACK_HOSTS if host in LOOPBACK_HOSTS else ()),
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="simulator-http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL, an `endpoint_url` for SDKs."""
        return f"http://{self.host}:{self.port}"

    def close(self) -> None:
        """Answer what is under way, then stop."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def serve(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Serve an application; the socket accepts connections on return, port 0 takes a free one."""
    return Server(app, host, port)
