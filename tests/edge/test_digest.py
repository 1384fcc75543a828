"""The digest of what arrives: the same whether it is computed at once or on a thread of its own."""

import hashlib
import os
import threading

import pytest

from dicomflow.edge import digest as digest_module
from dicomflow.edge.digest import Digest


@pytest.mark.parametrize("apart", [0, 1, 1000, 300_000, 1 << 40])
@pytest.mark.parametrize("pieces", [[0], [1], [700_000], [10, 20, 0, 262_144, 3], [262_143, 1, 1], [5000] * 300])
def test_digest_is_that_of_all_bytes_in_their_order(pieces: list[int], apart: int, monkeypatch: pytest.MonkeyPatch):
    """Whatever the pieces, and wherever the thread takes over."""
    monkeypatch.setattr(digest_module, "_APART_BYTES", apart)
    contents = [os.urandom(size) for size in pieces]
    digest = Digest()
    for content in contents:
        buffer = bytearray(content)
        digest.update([memoryview(buffer), b""])
        buffer[:] = bytes(len(buffer))  # it may be used again
    assert hashlib.sha256(b"".join(contents)).hexdigest() == digest.hexdigest()


def test_dropped_digest_leaves_no_thread(monkeypatch: pytest.MonkeyPatch):
    """An association that is lost within a large object leaves nothing behind."""
    monkeypatch.setattr(digest_module, "_APART_BYTES", 0)
    digest = Digest()
    digest.update([bytes(1000)])
    assert "digest" in {thread.name for thread in threading.enumerate()}
    digest.drop()
    digest.drop()
    assert "digest" not in {thread.name for thread in threading.enumerate()}
