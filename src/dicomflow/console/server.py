"""Serving the console: plain or TLS, and the peer's own address left as it is."""

import socket
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from dicomflow.errors import PermanentError

__all__ = ["ConsoleServer"]

_BACKLOG: Final = 128
_CLOSE_SECONDS: Final = 5


class ConsoleServer:
    """A bound port; `run` serves until `stop`, which any thread or signal may call."""

    def __init__(
        self, app: Starlette, host: str, port: int, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise PermanentError(f"cannot serve the console on {host} port {port}: {error.strerror}") from error
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
        self._is_https = certificate is not None
        self._host = f"[{host}]" if ":" in host else host

    @property
    def port(self) -> int:
        """The bound port."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address to open."""
        return f"{'https' if self._is_https else 'http'}://{self._host}:{self.port}/"

    def run(self) -> None:
        """Serve until `stop`."""
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Answer what is under way, then end."""
        self._server.should_exit = True
