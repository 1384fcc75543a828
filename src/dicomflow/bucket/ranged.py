"""A stored object as a file that is read by ranges: what a reader seeks past is never fetched."""

import io
from collections.abc import Callable
from typing import Final, Self

import obstore
from obstore.store import ObjectStore

__all__ = ["RangedFile"]

BLOCK_BYTES: Final = 64 << 10
_MAX_BLOCKS: Final = 64


class RangedFile(io.RawIOBase):
    """A read-only, seekable file over one object; short reads come in blocks, long ones as one range.

    Thread: one owner. `fetched_bytes` counts what the store was asked for.

    Args:
        size: the object's, in bytes.
        fetch: gives so many bytes from a place on.
        name: as files have one; pydicom asks for it.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes], name: str = "") -> None:
        super().__init__()
        self.name = name
        self.size = size
        self._fetch = fetch
        self.fetched_bytes = 0
        self._at = 0
        self._blocks: dict[int, bytes] = {}

    @classmethod
    def of_object(cls, store: ObjectStore, object_key: str) -> Self:
        """Return the file of a stored object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        size: int = obstore.head(store, object_key)["size"]
        return cls(size, lambda start, length: bytes(obstore.get_range(store, object_key, start=start, length=length)))

    def readable(self) -> bool:
        """Tell that it is for reading."""
        return True

    def seekable(self) -> bool:
        """Tell that it seeks."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; one behind the end is allowed, and reads nothing."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, or to the end."""
        left = max(0, self.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        found = self._range(self._at, wanted) if wanted > BLOCK_BYTES else self._in_blocks(self._at, wanted)
        self._at += len(found)
        return found

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # the two that are used
        """Fill a buffer as far as the object goes."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _in_blocks(self, start: int, wanted: int) -> bytes:
        first, last = start // BLOCK_BYTES, (start + wanted - 1) // BLOCK_BYTES
        joined = b"".join(self._block(number) for number in range(first, last + 1))
        skipped = start - first * BLOCK_BYTES
        return joined[skipped : skipped + wanted]

    def _block(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is None:
            if len(self._blocks) >= _MAX_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            start = number * BLOCK_BYTES
            found = self._blocks[number] = self._range(start, min(BLOCK_BYTES, self.size - start))
        return found

    def _range(self, start: int, length: int) -> bytes:
        self.fetched_bytes += length
        return self._fetch(start, length)
