"""Connections that one worker gives to another."""

import contextlib
import socket
import sys
from typing import Any

import pytest

from dicomflow.network.admission import Admission, table_length
from dicomflow.network.arrivals import Inbox, Listener, open_inboxes
from dicomflow.network.listening import bind

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows passes no sockets on")


@pytest.mark.parametrize("speaks_tls", [False, True])
def test_connection_is_served_as_its_listener_would(speaks_tls: Any):
    """A connection of the TLS listener is one of TLS for the other worker too, and comes from the same peer."""
    table = [0] * table_length(2, 4)
    busy, idle = (Admission(table, index, 4, 0) for index in range(2))
    busy.begin()
    idle.begin()
    contexts: Any = object()
    inboxes = open_inboxes(2)
    listener = bind("127.0.0.1", 0)
    busy.count_connection(1)
    source = Listener(listener, contexts if speaks_tls else None, busy, [giver for giver, _ in inboxes])
    with socket.create_connection(listener.getsockname()) as peer:
        peer.sendall(b"request")
        assert source.take() is None
        arrival = Inbox(inboxes[1][1], contexts, idle).take()
        assert arrival is not None
        with arrival.connection as connection:
            assert b"request" == connection.recv(100)
            assert not connection.get_inheritable()
    assert ("127.0.0.1", contexts if speaks_tls else None) == (arrival.peer, arrival.tls)
    for each in (listener, *inboxes[0], *inboxes[1]):
        each.close()


def test_inbox_of_an_edge_that_stops_is_over():
    """When its socket is shut down nobody waits on it any longer."""
    (giver, taker), *_ = open_inboxes(1)
    inbox = Inbox(taker, None, Admission([0] * table_length(1, 4), 0, 4, 0))
    taker.shutdown(socket.SHUT_RDWR)
    assert inbox.take() is None
    assert inbox.is_over
    giver.close()
    taker.close()


def test_inbox_that_is_full_takes_no_more_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch):
    """A worker that accepts while the other does not come to its inbox serves what it cannot give away."""
    table = [0] * table_length(2, 4)
    monkeypatch.setattr("dicomflow.network.admission._ON_THE_WAY_SECONDS", 0)
    busy, idle = (Admission(table, index, 4, 0) for index in range(2))
    busy.begin()
    idle.begin()
    inboxes = open_inboxes(2)
    listener = bind("127.0.0.1", 0)
    busy.count_connection(1)
    source = Listener(listener, None, busy, [giver for giver, _ in inboxes])
    kept = None
    with contextlib.ExitStack() as peers:
        for _ in range(2000):
            peers.enter_context(socket.create_connection(listener.getsockname()))
            kept = source.take()
            if kept is not None:
                break
        assert kept is not None
        kept.connection.close()
    for each in (listener, *inboxes[0], *inboxes[1]):
        each.close()


def test_connection_that_no_descriptor_is_left_for_is_an_error():
    """The kernel closes it; the log is to say why, and the worker to pause."""
    (giver, taker), *_ = open_inboxes(1)
    inbox = Inbox(taker, None, Admission([0] * table_length(1, 4), 0, 4, 0))
    giver.send(b"p")
    with pytest.raises(OSError, match="Too many open files"):
        inbox.take()
    assert not inbox.is_over
    giver.close()
    taker.close()
