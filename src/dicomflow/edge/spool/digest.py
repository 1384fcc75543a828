"""The SHA-256 of an instance as its bytes arrive; of a large one on a thread of its own.

A core digests about 1.5 GB a second, which is slower than it receives and writes, and digesting needs no interpreter:
from some megabytes on it is worth a copy and a hand-over that it happens meanwhile.
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, Final

from dicomflow.errors import InternalError

__all__ = ["Digest"]

# A CT image is digested faster than a thread is started and waited for.
_APART_BYTES: Final = 4 << 20
_SLOT_BYTES: Final = 256 << 10
_SLOTS: Final = 2


class Digest:
    """A SHA-256 under way. Thread: one owner. `hexdigest` or `drop` ends it."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._length = 0
        self._apart: _Apart | None = None

    def update(self, buffers: Iterable[bytes | memoryview]) -> None:
        """Take more bytes; the buffers may be reused on return."""
        for buffer in buffers:
            if self._apart is not None:
                self._apart.put(buffer)
                continue
            self._sha256.update(buffer)
            self._length += len(buffer)
            if self._length >= _APART_BYTES:
                # Where there is no thread to be had, it is digested here.
                with contextlib.suppress(RuntimeError):
                    self._apart = _Apart(self._sha256)

    def hexdigest(self) -> str:
        """Return the digest of all bytes taken, in hex; raises `InternalError` when the thread has failed."""
        if self._apart is not None:
            apart, self._apart = self._apart, None
            apart.end()
        return self._sha256.hexdigest()

    def drop(self) -> None:
        """Let go of the thread, if there is one."""
        if self._apart is not None:
            apart, self._apart = self._apart, None
            with contextlib.suppress(InternalError):
                apart.end()


class _Apart:
    """A thread that digests what is put, in its order, from slots that hold it until then."""

    def __init__(self, sha256: Any) -> None:  # hashlib has no name for its type at run time
        self._sha256 = sha256
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        self._filled: SimpleQueue[tuple[bytearray, int] | None] = SimpleQueue()
        for _ in range(_SLOTS):
            self._free.put(bytearray(_SLOT_BYTES))
        self._slot = self._free.get()
        self._used = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def put(self, buffer: bytes | memoryview) -> None:
        """Copy bytes to a slot; waits for one where digesting is slower. Raises `InternalError`."""
        self._check()
        view = memoryview(buffer)
        while view:
            piece = view[: _SLOT_BYTES - self._used]
            self._slot[self._used : self._used + len(piece)] = piece
            self._used += len(piece)
            view = view[len(piece) :]
            if self._used == _SLOT_BYTES:
                self._filled.put((self._slot, self._used))
                self._slot, self._used = self._free.get(), 0

    def end(self) -> None:
        """Wait until all is digested. Raises `InternalError`: what was digested is not what came."""
        self._filled.put((self._slot, self._used))
        self._filled.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise InternalError(f"the digest has failed: {type(self._failure).__name__}") from self._failure

    def _run(self) -> None:
        while (filled := self._filled.get()) is not None:
            slot, used = filled
            try:
                if self._failure is None:
                    self._sha256.update(memoryview(slot)[:used])
            except Exception as error:  # noqa: BLE001  # it is raised where the digest is asked for
                self._failure = error
            self._free.put(slot)
