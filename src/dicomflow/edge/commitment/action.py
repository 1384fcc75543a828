"""The data set of an N-ACTION as it comes, within a limit for one and a limit for all of a process.

An AE title proves nothing, so that anybody may be a peer that may ask for commitment.
"""

import threading
from collections.abc import Sequence
from typing import Final

from dicomflow.edge.commitment.requests import MAX_ACTION_BYTES

__all__ = ["Action", "ActionMemory"]

_MAX_BYTES: Final = 64 << 20


class ActionMemory:
    """The bytes that all data sets of N-ACTIONs have now. Threads: any; `_lock` guards the sum."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._left = max_bytes

    def take(self, size_bytes: int) -> bool:
        """Take bytes, or tell that there are not so many left."""
        with self._lock:
            if size_bytes > self._left:
                return False
            self._left -= size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size_bytes


class Action:
    """One data set. Thread: one owner. `drop` ends it, however far it came."""

    def __init__(self, memory: ActionMemory) -> None:
        self.is_refused = False
        self._memory = memory
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """What came."""
        return bytes(self._data)

    def take(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Keep the next bytes; where a limit is passed let go of all, and refuse the request at its end."""
        size_bytes = sum(map(len, fragments))
        if self.is_refused:
            return
        if len(self._data) + size_bytes > MAX_ACTION_BYTES or not self._memory.take(size_bytes):
            self.is_refused = True
            self.drop()
            return
        for fragment in fragments:
            self._data += fragment

    def drop(self) -> None:
        """Let go of the bytes."""
        self._memory.give_back(len(self._data))
        self._data = bytearray()
