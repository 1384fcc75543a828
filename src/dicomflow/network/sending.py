"""Buffers to a socket in as few calls as it takes: headers and views of a data set, which is not copied for that."""

import socket
import ssl
from typing import Final

__all__ = ["send_all"]

_MAX_BUFFERS: Final = 512  # below the 1,024 that Linux takes in a call


def send_all(connection: socket.socket, parts: list[bytes | memoryview]) -> None:
    """Send buffers in their order; the list is empty when this ends, however it ends.

    So no view of a mapped file stays behind in it, which its owner wants to close.

    Raises:
        OSError: the peer is gone, or does not read for the socket's time.
    """
    try:
        while parts:
            chunk = parts[:_MAX_BUFFERS]
            del parts[:_MAX_BUFFERS]
            _send_chunk(connection, chunk)
    finally:
        parts.clear()


def _send_chunk(connection: socket.socket, parts: list[bytes | memoryview]) -> None:
    if len(parts) == 1 or not hasattr(connection, "sendmsg") or isinstance(connection, ssl.SSLSocket):
        connection.sendall(parts[0] if len(parts) == 1 else b"".join(parts))
        return
    try:
        while parts:
            sent = connection.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts[0])
                parts.pop(0)
            if parts and sent:
                parts[0] = memoryview(parts[0])[sent:]
    finally:
        parts.clear()
