"""What tests of processes wait for, and the ports they give them."""

import socket
import time
from collections.abc import Callable
from typing import Any

__all__ = ["free_ports", "wait_for"]


def wait_for(ask: Callable[[], Any], seconds: float = 60, explain: Callable[[], str] = lambda: "") -> Any:
    """Ask until the answer is true and give it; fail with the explanation when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {explain()}"
        time.sleep(0.01)
    return answer


def free_ports(count: int) -> list[int]:
    """Give ports of 127.0.0.1 that nothing listens on just now."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
