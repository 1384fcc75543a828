"""A deflated data set as a plain one, in a file without a name: it may be large, and much larger than it was."""

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from dicomflow.errors import PeerError

__all__ = ["MOST_INFLATED_BYTES", "inflated"]

MOST_INFLATED_BYTES: Final = 4 << 30
_CHUNK_BYTES: Final = 1 << 20
_IN_MEMORY_BYTES: Final = 16 << 20


@contextmanager
def inflated(file: BinaryIO) -> Iterator[BinaryIO]:
    """Inflate the data set that begins where a file stands (PS3.5 A.5), and open it at its first byte.

    Raises:
        PeerError: it cannot be inflated to its end, or is larger than `MOST_INFLATED_BYTES`.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    written = 0
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as plain:
        try:
            while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(_CHUNK_BYTES)):
                part = inflater.decompress(chunk, _CHUNK_BYTES)
                written += plain.write(part)
                if written > MOST_INFLATED_BYTES:
                    raise PeerError(f"the deflated data set has more than {MOST_INFLATED_BYTES:,} bytes")
        except zlib.error as error:
            raise PeerError("the deflated data set cannot be inflated") from error
        if not inflater.eof:
            raise PeerError("the deflated data set is cut short")
        plain.seek(0)
        yield plain  # type: ignore[misc]  # a binary file in all that is read of one
