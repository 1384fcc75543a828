"""Buffers to a socket: in order, whole, and forgotten however it ends."""

import socket
import threading

import pytest

from dicomflow.network.sending import send_all


def test_parts_arrive_in_order_however_many_and_long() -> None:
    """More buffers than one call takes, and more bytes than the peer has room for."""
    near, far = socket.socketpair()
    parts: list[bytes | memoryview] = [bytes([number % 251]) * (number % 1400) for number in range(1500)]
    parts.append(memoryview(bytes(range(256)) * 8000))
    expected, got = b"".join(parts), bytearray()

    def read() -> None:
        while chunk := far.recv(1 << 16):
            got.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    send_all(near, parts)
    near.close()
    reader.join()
    far.close()
    assert ([], expected) == (parts, bytes(got))


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_kept_after_a_failure(count: int) -> None:
    """The buffer under a view can be closed: a peer that is gone or does not read keeps nothing."""
    near, far = socket.socketpair()
    near.settimeout(0.01)
    buffer = bytearray(8 << 20)
    parts: list[bytes | memoryview] = [memoryview(buffer)[: (8 << 20) // count]] * count
    with pytest.raises(TimeoutError):
        send_all(near, parts)
    assert [] == parts
    buffer.clear()  # a `BufferError` where a view is left
    near.close()
    far.close()
