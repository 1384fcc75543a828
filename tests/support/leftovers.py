"""What a test leaves behind in its process is the next one's trouble, so the test that leaves it fails."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from waiting import WAIT_SECONDS

__all__ = ["_nothing_is_left"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _is_ours(thread: threading.Thread) -> bool:
    """Tell whether a thread runs a function of the program, which may log when pytest has closed what it writes to."""
    target = getattr(thread, "_target", None)
    return (getattr(target, "__module__", None) or "").startswith("dicomflow.")


@cache
def _close_sockets(sockets: Any) -> None:
    """Let pynetdicom's `AssociationSocket` close its socket where the peer was gone first, so that a shutdown fails.

    It keeps it open then, and the collector finds it in the middle of another test.
    """
    shut_down = sockets._shutdown_socket

    def _shut_down_and_close(self: Any) -> None:
        opened = self.socket
        shut_down(self)
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    sockets._shutdown_socket = _shut_down_and_close


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Fail the test that leaves variables of the environment, or threads of the program; forget clients of AWS.

    Clients follow the environment in which they were first asked for, as boto3's own session does.
    """
    environment, threads = _environment(), set(threading.enumerate())
    if (transport := sys.modules.get("pynetdicom.transport")) is not None:
        _close_sockets(transport.AssociationSocket)
    yield
    if (client := sys.modules.get("dicomflow.healthimaging.client")) is not None:
        client.build_client.cache_clear()
    if (boto3 := sys.modules.get("boto3")) is not None:
        boto3.DEFAULT_SESSION = None
    left = _environment()
    changed = sorted(name for name in left.keys() | environment.keys() if left.get(name) != environment.get(name))
    for name in changed:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
    assert [] == changed, "the test leaves these variables changed"
    running = [thread for thread in threading.enumerate() if thread not in threads and _is_ours(thread)]
    for thread in running:
        thread.join(WAIT_SECONDS / len(running))
    assert [] == [thread.name for thread in running if thread.is_alive()], "the test leaves these threads"
