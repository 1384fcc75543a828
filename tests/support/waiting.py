"""What tests of processes wait for, and the ports they give them.

A wait ends when what it waits for has happened, so its limit is for what never happens: it is far above what a busy
machine takes.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable
from typing import Any

__all__ = ["WAIT_SECONDS", "free_ports", "least_seconds", "wait_for"]

WAIT_SECONDS = 120
# Below what Linux gives out by itself (`ip_local_port_range`), and a part for each process of a run.
_FIRST_PORT, _PROCESSES, _PORTS_OF_A_PROCESS = 20_000, 20, 500
_numbers = itertools.count(os.getpid())  # so that runs beside each other do not go in step


def wait_for(ask: Callable[[], Any], seconds: float = WAIT_SECONDS, explain: Callable[[], str] = lambda: "") -> Any:
    """Ask until the answer is true and give it; fail with the explanation when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if answer := ask():
            return answer
        now = time.monotonic()
        assert now < deadline, f"not within {seconds} s: {explain()}"
        # A dear question, asked without a rest, takes the processor from what it waits for.
        time.sleep(max(0.01, 10 * (now - asked)))


def least_seconds(act: Callable[[], Any], enough_seconds: float, tries: int = 5) -> float:
    """Act until it takes less than enough, and give the least time: a busy machine slows a try, a defect slows all."""
    least = float("inf")
    for _ in range(tries):
        started = time.monotonic()
        act()
        least = min(least, time.monotonic() - started)
        if least < enough_seconds:
            break
    return least


def free_ports(count: int) -> list[int]:
    """Give ports of 127.0.0.1 that nothing listens on, that nobody is given by chance, and that no other test has."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
    ports: list[int] = []
    for number in itertools.islice(_numbers, _PORTS_OF_A_PROCESS):
        port = _FIRST_PORT + process * _PORTS_OF_A_PROCESS + number % _PORTS_OF_A_PROCESS
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            break
    assert count == len(ports), "too few ports are free"
    return ports
