"""Retrieval from a catalog and its store: rows say which object holds an instance, the store gives its bytes."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from dicomflow.archive.errors import BadQueryError, NotHeldError
from dicomflow.archive.objects import open_stored
from dicomflow.archive.retrieval import AsStored, Reading, Selection, StoredInstance
from dicomflow.bucket.ranged import RangedFile
from dicomflow.catalog.retrieving import count_syntaxes, find_stored, find_version
from dicomflow.errors import TransientError

__all__ = ["MAX_UIDS", "CatalogRetrieval"]

MAX_UIDS: Final = 10_000
"""UIDs that one selection may list; a database takes so many values at once, and no more than three times that."""
CHUNK_BYTES: Final = 4 << 20
_AT_ONCE: Final = 8
_SYNTAXES_SECONDS: Final = 60.0
_MOST_COUNTED: Final = 100_000
"""Instances that are counted by syntax while an association waits: some tens of milliseconds."""


class CatalogRetrieval:
    """The instances of a catalog, with their objects. Threads: any; `_lock` guards what is remembered."""

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        clock: Callable[[], float] = time.monotonic,
        most_counted: int = _MOST_COUNTED,
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._most_counted = most_counted
        self._counted: Counter[tuple[str, str]] = Counter()
        self._counted_to = 0
        self._syntaxes: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self._syntaxes_at: float | None = None

    @property
    def at_once(self) -> int:
        """Return 1 of a folder, which answers at once, and several of a service; see `Retrieval`."""
        return 1 if isinstance(self._store, (LocalStore, MemoryStore)) else _AT_ONCE

    def find(self, selection: Selection) -> list[StoredInstance]:
        """Return what a selection means; see `Retrieval`."""
        uids = (*selection.studies, *selection.series, *selection.instances)
        if not uids and selection.patient_id is None:
            raise BadQueryError("nothing is given to select by")
        if len(uids) > MAX_UIDS:
            raise BadQueryError(f"{len(uids):,} UIDs exceed the {MAX_UIDS:,} that are taken at once")
        with self._connected() as connection:
            found = find_stored(
                connection,
                patient_id=selection.patient_id,
                studies=selection.studies,
                series_uids=selection.series,
                instances=selection.instances,
            )
            if selection.version is None:
                return [_instance_of(row) for row in found]
            versions = (find_version(connection, row.sop_instance_uid, selection.version) for row in found)
            return [_instance_of(row) for row in versions if row is not None]

    def stored_syntaxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return what is stored by class; see `Retrieval`. What is new is counted once a minute.

        Of a large catalog each call counts a part: until all is counted nothing is told, since what all objects of a
        class have is not known.
        """
        with self._lock:
            if self._syntaxes_at is None or self._clock() - self._syntaxes_at > _SYNTAXES_SECONDS:
                with self._connected() as connection:
                    found, self._counted_to, is_whole = count_syntaxes(connection, self._counted_to, self._most_counted)
                self._counted += found
                self._syntaxes = _by_class(self._counted) if is_whole else ()
                self._syntaxes_at = self._clock() if is_whole else None
            return self._syntaxes

    def syntaxes_of(self, instance: StoredInstance) -> tuple[str, ...]:
        """Return an instance's transfer syntax; see `Retrieval`."""
        return (instance.transfer_syntax_uid or open_stored(self, instance).transfer_syntax_uid,)

    def reading(self, waiting: Sequence[StoredInstance]) -> Reading:
        """Read objects where they are; see `Retrieval`."""
        del waiting
        return AsStored()

    def open(self, instance: StoredInstance) -> BinaryIO:
        """Return an object as a file; see `Retrieval`."""
        file = RangedFile(instance.size_bytes, lambda start, length: self.read(instance, start, length))
        return cast("BinaryIO", file)

    def read(self, instance: StoredInstance, start: int, length: int) -> bytes:
        """Return bytes of an object; see `Retrieval`."""
        if not length:
            return b""
        try:
            found = bytes(obstore.get_range(self._store, instance.location, start=start, length=length))
        except FileNotFoundError as error:
            raise NotHeldError(f"the object of {instance.sop_instance_uid} is not in the store") from error
        except (BaseError, OSError) as error:
            if self._has_other_size(instance):
                raise NotHeldError(
                    f"the object of {instance.sop_instance_uid} has another size than it came with"
                ) from error
            raise TransientError(f"the store does not answer: {type(error).__name__}") from error
        if len(found) != length:
            raise NotHeldError(f"the object of {instance.sop_instance_uid} has fewer than {start + length:,} bytes")
        return found

    def chunks(self, instance: StoredInstance) -> Iterator[bytes]:
        """Yield an object's bytes; see `Retrieval`."""
        for start in range(0, instance.size_bytes, CHUNK_BYTES):
            yield self.read(instance, start, min(CHUNK_BYTES, instance.size_bytes - start))

    def _has_other_size(self, instance: StoredInstance) -> bool:
        try:
            size: int = obstore.head(self._store, instance.location)["size"]
        except (BaseError, OSError):
            return False
        return size != instance.size_bytes

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise TransientError(f"the catalog does not answer: {type(error).__name__}") from error


def _by_class(counted: Counter[tuple[str, str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the syntaxes of each class, the most frequent first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for (sop_class_uid, syntax), _ in sorted(counted.items(), key=lambda each: (-each[1], each[0])):
        found[sop_class_uid].append(syntax)
    return tuple((uid, tuple(syntaxes)) for uid, syntaxes in found.items())


def _instance_of(row: Row[Any]) -> StoredInstance:
    return StoredInstance(
        row.study_instance_uid,
        row.series_instance_uid,
        row.sop_instance_uid,
        row.sop_class_uid or "",
        row.transfer_syntax_uid or "",
        row.bytes,
        row.sha256,
        row.object_key,
    )
