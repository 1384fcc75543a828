"""Reads a document of the bucket, and no more than a document may have: who writes it is not who reads it."""

from typing import TYPE_CHECKING, Final

import obstore
from obstore.store import ObjectStore

from dicomflow.errors import PermanentError

if TYPE_CHECKING:
    from obstore import GetOptions

__all__ = ["MOST_BYTES", "read_document"]

MOST_BYTES: Final = 64 << 20
"""Of one document: twice what a transfer of 100,000 instances has."""


def read_document(store: ObjectStore, key: str, options: "GetOptions | None" = None) -> tuple[bytes, str | None]:
    """Return the bytes of an object, and its ETag.

    Raises:
        PermanentError: it has more than `MOST_BYTES`, of which none is read.
        FileNotFoundError, BaseError, OSError: as `obstore.get`.
    """
    found = obstore.get(store, key, options=options or {})
    size = found.meta["size"]
    if size > MOST_BYTES:
        raise PermanentError(f"the object has {size:,} bytes, more than the {MOST_BYTES:,} of a document")
    return bytes(found.bytes()), found.meta["e_tag"]
