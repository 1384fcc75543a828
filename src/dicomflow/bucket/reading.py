"""Reads a document of the bucket, and no more than a document may have: who writes it is not who reads it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from obstore.store import ObjectStore

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.errors import PermanentError

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

__all__ = ["MANIFEST_MOST_BYTES", "MOST_BYTES", "read_document", "read_heartbeat"]

MOST_BYTES: Final = 64 << 20
"""Of one document: twice what a transfer of 100,000 instances has."""
MANIFEST_MOST_BYTES: Final = 32 << 20
"""Of a manifest: ten times what one of 5,000 instances has, which is the most of a delivery."""
_HEARTBEAT_MOST_BYTES: Final = 1 << 20


def read_document(
    store: ObjectStore, key: str, options: "GetOptions | None" = None, most_bytes: int | None = None
) -> tuple[bytes, str | None]:
    """Return the bytes of an object, and its ETag.

    Raises:
        PermanentError: it has more than `most_bytes`, or `MOST_BYTES`, of which none is read.
        FileNotFoundError, BaseError, OSError: as the store's `get`.
    """
    found = _get(store, key, options, MOST_BYTES if most_bytes is None else most_bytes)
    return bytes(found.bytes()), found.meta["e_tag"]


def read_heartbeat(store: ObjectStore, key: str) -> Heartbeat:
    """Return what an edge says of itself; a clock that is ahead makes it no younger than the store says.

    Raises:
        PermanentError: it is none, of another edge than its key, or has more than 1 MiB.
        FileNotFoundError, BaseError, OSError: as the store's `get`.
    """
    found = _get(store, key, None, _HEARTBEAT_MOST_BYTES)
    heartbeat = Heartbeat.from_json(bytes(found.bytes()))
    if heartbeat_key(heartbeat.edge) != key:
        raise PermanentError("the heartbeat names another edge than its key")
    return replace(heartbeat, at=min(heartbeat.at, found.meta["last_modified"]))


def _get(store: ObjectStore, key: str, options: "GetOptions | None", most_bytes: int) -> "GetResult":
    found = store.get(key, options=options or {})
    size = found.meta["size"]
    if size > most_bytes:
        raise PermanentError(f"the object has {size:,} bytes, more than the {most_bytes:,} of a document")
    return found
