"""Listening sockets: bound with patience, and refused in words that say what to do."""

import errno
import socket
import sys
import time
from typing import Final

from dicomflow.errors import PermanentError

__all__ = ["bind"]

_BACKLOG: Final = 1024
_PORT_RETRY_SECONDS: Final = 0.1


def bind(address: str, port: int, *, patience_seconds: float = 0.0) -> socket.socket:
    """Return a listening socket.

    Args:
        address: of the interface; with a colon it is IPv6.
        port: 0 for any that is free.
        patience_seconds: how long to try again while something else has the port.

    Raises:
        PermanentError: the address cannot be bound; the text says what to do.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _listen(address, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise PermanentError(
                    f"cannot listen on {address} port {port}: {error.strerror}; {_advice(error, port)}"
                ) from error
        time.sleep(_PORT_RETRY_SECONDS)  # a port that becomes free tells nobody


def _advice(error: OSError, port: int) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return (
            "ports below 1024 need a right: take one above 1023, set AmbientCapabilities=CAP_NET_BIND_SERVICE in the"
            f" service's unit, or as root sysctl net.ipv4.ip_unprivileged_port_start={port}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address: name one of its own, or 0.0.0.0 for all"
    return f"choose another port or stop what has it: `ss -ltnp | grep :{port}` tells"


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR lets any program take over a port that another has.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
