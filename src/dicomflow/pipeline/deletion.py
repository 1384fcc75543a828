"""Deleting a study: its rows, and where asked its image sets in HealthImaging and its objects, in that order.

Image sets and objects go before the rows that name them, so that a repeat finds what is left. What is to go is in the
audit trail before it goes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog import removal
from dicomflow.catalog.anew import UnreadObjectsError
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.index import IndexedObject
from dicomflow.errors import TransientError
from dicomflow.healthimaging.client import delete_image_set
from dicomflow.healthimaging.patience import call_patiently
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects, read_objects

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient

__all__ = ["Deleted", "Deletion", "StudyToDelete", "find_study"]

_DELETES_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class StudyToDelete:
    """What the catalog has of a study; `image_sets` are pairs of data store and id, `others` its patients' objects."""

    uid: str
    deliveries: frozenset[str]
    keys: Sequence[str]
    image_sets: Sequence[tuple[str, str]]
    others: Sequence[str]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How much went: rows by table, objects and image sets."""

    rows: Mapping[str, int]
    objects: int
    image_sets: int


def find_study(engine: Engine, uid: str) -> StudyToDelete:
    """Return what there is of a study.

    Raises:
        PermanentError: no row of the catalog names it.
        TransientError: a series of it is queued or being imported.
    """
    with begin_read(engine) as connection:
        removal.check_removable(connection, uid)
        return StudyToDelete(
            uid,
            removal.deliveries_of_study(connection, uid),
            removal.object_keys_of_study(connection, uid),
            removal.image_sets_of_study(connection, uid),
            removal.objects_to_read(connection, uid),
        )


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion works on, who asks for it, and what device and site settings mean when objects are read again.

    Store (the bucket's name and itself) and client are made when they are needed.
    """

    engine: Engine
    open_store: Callable[[], tuple[str, ObjectStore]]
    build_client: "Callable[[], HealthImagingClient]"
    actor: str
    issuers: Mapping[str, str]
    character_sets: Mapping[str, str]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    wait: Callable[[float], None] = time.sleep

    def delete(self, study: StudyToDelete, *, objects: bool, image_sets: bool) -> Deleted:
        """Delete a study's rows, and its objects and image sets if asked; what comes meanwhile stays.

        An image of another study with a SOP Instance UID of this one is indexed again, and a patient who has other
        studies is made anew from their objects.

        Raises:
            TransientError: store or service did not do it; what is deleted stays so, and a repeat goes on.
        """
        read = self._read(study.others)
        gone = [image_set_id for _, image_set_id in study.image_sets] if image_sets else []
        deleted = len(study.keys) if objects else 0
        if image_sets:
            with self._audited(study.uid, "delete_image_sets", {"image_sets": gone}):
                self._delete_image_sets(study.image_sets)
        if objects:
            with self._audited(study.uid, "delete_objects", {"objects": deleted}):
                self._delete_objects(study.keys)
        while True:
            try:
                with self.engine.begin() as connection:
                    rows = removal.delete_study(
                        connection,
                        study.uid,
                        self.clock(),
                        actor=self.actor,
                        deliveries=study.deliveries,
                        objects_deleted=deleted,
                        image_sets_deleted=gone,
                        read=read,
                    )
                    again = removal.objects_to_index(connection)
                break
            except UnreadObjectsError as error:  # they came meanwhile
                read |= self._read(error.keys)
        if again:
            bucket, store = self.open_store()
            events = [StoredObjectEvent(key, bucket, key) for key in again]
            index_objects(self.engine, store, events, issuers=self.issuers, character_sets=self.character_sets)
        return Deleted(rows, deleted, len(gone))

    @contextmanager
    def _audited(self, uid: str, action: str, details: dict[str, object]) -> Iterator[None]:
        """Say beforehand what is to go, since a crash leaves the rows, and then whether it went."""

        def record(suffix: str, details: dict[str, object]) -> None:
            with self.engine.begin() as connection:
                record_audit_event(
                    connection, self.clock(), actor=self.actor, action=f"{action}{suffix}", uid=uid, details=details
                )

        record("_begun", details)
        try:
            yield
        except BaseException as error:
            record("_failed", {"error": type(error).__name__})
            raise
        record("", details)

    def _delete_image_sets(self, image_sets: Sequence[tuple[str, str]]) -> None:
        """Delete image sets, no faster than the service lets us."""
        client = self.build_client()
        for datastore_id, image_set_id in image_sets:
            call_patiently(partial(delete_image_set, client, datastore_id, image_set_id), self.wait)

    def _delete_objects(self, keys: Sequence[str]) -> None:
        store = self.open_store()[1]
        for start in range(0, len(keys), _DELETES_AT_ONCE):
            some = list(keys[start : start + _DELETES_AT_ONCE])
            try:
                try:
                    store.delete(some)
                except FileNotFoundError:  # a folder tells that one had gone, and leaves those after it
                    for key in some:
                        _delete_one(store, key)
            except (BaseError, OSError) as error:
                raise TransientError(
                    f"the store did not delete all objects: {type(error).__name__}; try again"
                ) from error

    def _read(self, keys: Sequence[str]) -> dict[str, IndexedObject | None]:
        """Read objects as they were indexed; None for one that can never be read."""
        if not keys:
            return {}
        read = asyncio.run(read_objects(self.open_store()[1], keys, self.issuers, self.character_sets))
        for each in read.values():
            if isinstance(each, TransientError):
                raise each
        return {key: each if isinstance(each, IndexedObject) else None for key, each in read.items()}


def _delete_one(store: ObjectStore, key: str) -> None:
    try:
        store.delete(key)
    except FileNotFoundError:
        return
