"""Whether objects of one instance are versions of it: their data sets are read and compared where only files differ.

Most instances have one object, and cost nothing here; one that came by two ways costs a read of both objects.
"""

import hashlib
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.versions import record_data_set_digests, undecided_objects
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.errors import PeerError, TransientError

__all__ = ["NotComparedError", "compare_versions"]

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 64 << 10
"""The file meta information of an object lies within this."""
CONCURRENT_READS: Final = 8
_PAGE_UIDS: Final = 5000


class NotComparedError(TransientError):
    """Objects of the instances in `uids` could not be compared; those of the others are."""

    def __init__(self, text: str, uids: Collection[str]) -> None:
        super().__init__(text)
        self.uids = frozenset(uids)


def compare_versions(engine: Engine, store: ObjectStore, sop_instance_uids: Collection[str]) -> None:
    """Find out which of several objects of an instance hold the same data set; they are one version.

    Memory: a chunk of each object at once. An object that cannot be read as a file stays a version of its own.

    Raises:
        NotComparedError: the store did not answer for some; what is compared is kept.
    """
    uids = sorted(sop_instance_uids)
    left: dict[str, TransientError] = {}
    for start in range(0, len(uids), _PAGE_UIDS):
        with begin_read(engine) as connection:
            undecided = undecided_objects(connection, uids[start : start + _PAGE_UIDS])
        if not undecided:
            continue
        with ThreadPoolExecutor(CONCURRENT_READS) as threads:
            digests = dict(zip(undecided, threads.map(lambda key: _digest(store, key), undecided), strict=True))
        found = {key: digest for key, digest in digests.items() if isinstance(digest, str)}
        left |= {undecided[key]: digest for key, digest in digests.items() if isinstance(digest, TransientError)}
        with engine.begin() as connection:
            record_data_set_digests(connection, found, {undecided[key] for key in found})
    if left:
        raise NotComparedError(f"{len(left)} instances: {next(iter(left.values()))}", left)


def _digest(store: ObjectStore, key: str) -> str | TransientError | None:
    """Return the SHA-256 of an object's data set in hex; None when it is gone or is no Part 10 file, or why not now."""
    digest = hashlib.sha256()
    head: bytes | None = b""
    try:
        for chunk in store.get(key).stream():
            if head is None:
                digest.update(chunk)
                continue
            head += bytes(chunk)
            if len(head) >= HEAD_BYTES:
                digest.update(head[decode_file_meta(head).data_set_offset :])
                head = None
        if head is not None:
            digest.update(head[decode_file_meta(head).data_set_offset :])
    except (FileNotFoundError, PeerError):
        return None
    except (BaseError, OSError) as error:
        return TransientError(f"the store did not answer: {type(error).__name__}")
    except Exception:  # as for a file that cannot be read; its neighbours are compared all the same
        logger.exception("object_not_compared", extra={"key": key})
        return None
    return digest.hexdigest()
