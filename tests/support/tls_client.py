"""A TLS client that sees what goes over the line: the records, and what is in them."""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

from waiting import WAIT_SECONDS

__all__ = ["TlsClient"]

_RECORD_TYPES = {20, 21, 22, 23}


class TlsClient:
    """A connection of which every received byte is kept in `raw`."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.raw = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._until_done(self._tls.do_handshake)

    def sendall(self, data: bytes) -> None:
        """Send encrypted."""
        self._tls.write(data)
        self.socket.sendall(self._out.read())

    def read(self, size: int) -> bytes:
        """Return so many decrypted bytes."""
        data = b""
        while len(data) < size:
            data += self._until_done(self._tls.read, size - len(data))
        return data

    def rest(self) -> bytes:
        """Read to the end of the connection, whatever it ends with; return the decrypted bytes."""
        data = b""
        with contextlib.suppress(ssl.SSLError, EOFError):
            while part := self._until_done(self._tls.read, 1 << 16):
                data += part
        with contextlib.suppress(OSError):
            while part := self.socket.recv(1 << 16):
                self.raw += part
        return data

    def is_all_tls(self) -> bool:
        """Tell whether everything that came is whole TLS records."""
        offset = 0
        while offset + 5 <= len(self.raw):
            if self.raw[offset] not in _RECORD_TYPES:
                return False
            offset += 5 + int.from_bytes(self.raw[offset + 3 : offset + 5], "big")
        return offset == len(self.raw)

    def _until_done(self, step: Callable[..., Any], *arguments: int) -> Any:
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self.socket.sendall(self._out.read())
                part = self.socket.recv(1 << 16)
                if not part:
                    raise EOFError from None
                self.raw += part
                self._in.write(part)
            finally:
                if self._out.pending:
                    self.socket.sendall(self._out.read())
