"""Listening sockets."""

import socket

import pytest

from dicomflow.errors import PermanentError
from dicomflow.network.listening import bind


def test_bind_names_port_and_remedy():
    """A port that is taken is named in the error."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PermanentError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            bind("127.0.0.1", port)


def test_bind_takes_ipv6():
    """An address with colons is IPv6."""
    with bind("::1", 0) as listener:
        assert socket.AF_INET6 == listener.family
