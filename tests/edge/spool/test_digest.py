"""The digest of what arrives: the same whether it is computed at once or on a thread of its own."""

import hashlib
import os
import threading

import pytest

from dicomflow.edge.spool import digest as digest_module
from dicomflow.edge.spool.digest import Digest
from dicomflow.errors import InternalError


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


class _Broken:
    """A digest that fails from some update on."""

    def __init__(self, good: int) -> None:
        self._left = good
        self._sha256 = hashlib.sha256()

    def update(self, content: memoryview) -> None:
        self._left -= 1
        if self._left < 0:
            raise MemoryError
        self._sha256.update(content)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


@pytest.mark.parametrize("good", [1, 2, 3])
def test_failure_on_the_thread_is_raised_and_never_a_digest(monkeypatch: pytest.MonkeyPatch, good: int):
    """Nobody waits for a thread that has ended, and no file is named by a digest of half of its bytes."""
    monkeypatch.setattr(digest_module, "_APART_BYTES", 0)
    broken = _Broken(good)
    monkeypatch.setattr(hashlib, "sha256", lambda: broken)
    digest = Digest()

    def _digest() -> None:
        for _ in range(50):
            digest.update([bytes(200_000)])
        digest.hexdigest()

    with pytest.raises(InternalError, match="the digest has failed: MemoryError"):
        _digest()
    digest.drop()
    assert "digest" not in {thread.name for thread in threading.enumerate()}


def test_digest_without_a_thread_to_be_had_is_computed_at_once(monkeypatch: pytest.MonkeyPatch):
    """As where a system has too many of them."""
    monkeypatch.setattr(digest_module, "_APART_BYTES", 0)
    monkeypatch.setattr(threading.Thread, "start", lambda _: _fail())
    digest = Digest()
    for _ in range(3):
        digest.update([b"abc"])
    assert hashlib.sha256(b"abcabcabc").hexdigest() == digest.hexdigest()


def _fail() -> None:
    raise RuntimeError("can't start new thread")
