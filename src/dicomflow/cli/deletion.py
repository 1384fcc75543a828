"""`dicomflow catalog delete-study`: a study's rows, and by option its objects and image sets."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final

import obstore
import typer
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog.anew import UnreadObjectsError
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.engine import begin_read, require_schema
from dicomflow.catalog.index import IndexedObject
from dicomflow.catalog.removal import (
    check_removable,
    delete_study,
    deliveries_of_study,
    image_sets_of_study,
    object_keys_of_study,
    objects_to_index,
    objects_to_read,
)
from dicomflow.cli.database import DatabaseUrl, DataFolder, writing
from dicomflow.cli.stores import StoreUrl, actor, now, store_of
from dicomflow.errors import TransientError
from dicomflow.healthimaging.client import build_client, delete_image_set
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects, read_objects
from dicomflow.pipeline.settings import load_character_sets, load_issuers

__all__ = ["delete_image_sets", "delete_study_"]

_DELETES_AT_ONCE: Final = 1000
_ATTEMPTS: Final = 8
_FIRST_WAIT_SECONDS: Final = 4.0
"""DeleteImageSet is allowed once in four seconds."""


def delete_study_(
    uid: Annotated[str, typer.Argument(help="The Study Instance UID.", metavar="UID")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would go.")] = False,
    objects: Annotated[bool, typer.Option("--objects", help="Delete the stored objects too.")] = False,
    image_sets: Annotated[bool, typer.Option("--image-sets", help="Delete the image sets too.")] = False,
    store_url: StoreUrl = None,
) -> None:
    """Delete a study from the catalog, with its objects and its image sets in HealthImaging if asked.

    Objects that stay in the store come back into the catalog when their events are sent again. What is delivered
    meanwhile stays. An image of another study with a SOP Instance UID of this one is indexed again, and a patient who
    has other studies is made anew from their objects: the store is read. HealthImaging is where AWS's own environment
    variables say, as AWS_ENDPOINT_URL_MEDICAL_IMAGING for a simulator.
    """
    with writing(data, database_url) as engine:
        require_schema(engine)
        with begin_read(engine) as connection:
            check_removable(connection, uid)
            deliveries = deliveries_of_study(connection, uid)
            keys = object_keys_of_study(connection, uid)
            sets = image_sets_of_study(connection, uid)
            others = objects_to_read(connection, uid)
        if not yes:
            typer.echo(
                f"study {uid} has {len(keys)} stored objects and {len(sets)} image sets;"
                " nothing is deleted without --yes"
            )
            raise typer.Exit(2)
        read = _read(store_of(data, store_url)[1], others) if others else {}
        if image_sets:
            with _audited(engine, uid, "delete_image_sets", {"image_sets": [image_set_id for _, image_set_id in sets]}):
                delete_image_sets(sets)
        if objects:
            with _audited(engine, uid, "delete_objects", {"objects": len(keys)}):
                _delete_objects(store_of(data, store_url)[1], keys)
        gone = [image_set_id for _, image_set_id in sets] if image_sets else []
        deleted = len(keys) if objects else 0
        while True:
            try:
                with engine.begin() as connection:
                    removed = delete_study(
                        connection,
                        uid,
                        now(),
                        actor=actor(),
                        deliveries=deliveries,
                        objects_deleted=deleted,
                        image_sets_deleted=gone,
                        read=read,
                    )
                    again = objects_to_index(connection)
                break
            except UnreadObjectsError as error:  # they came meanwhile
                read |= _read(store_of(data, store_url)[1], error.keys)
        if again:
            bucket, store = store_of(data, store_url)
            events = [StoredObjectEvent(key, bucket, key) for key in again]
            index_objects(engine, store, events, issuers=load_issuers(), character_sets=load_character_sets())
    rows = ", ".join(f"{count} {table}" for table, count in removed.items() if count)
    typer.echo(f"deleted study {uid}: {rows}; {deleted} objects; {len(gone)} image sets")


def delete_image_sets(image_sets: Sequence[tuple[str, str]], wait: Callable[[float], None] = time.sleep) -> None:
    """Delete image sets, each a data store's id and its own, no faster than the service lets us.

    Raises:
        TransientError: the service did not do it in all the time it was given; what is deleted stays so.
    """
    client = build_client()
    for datastore_id, image_set_id in image_sets:
        for attempt in range(_ATTEMPTS):
            try:
                delete_image_set(client, datastore_id, image_set_id)
                break
            except TransientError:
                if attempt == _ATTEMPTS - 1:
                    raise
                wait(_FIRST_WAIT_SECONDS * (attempt + 1))


@contextmanager
def _audited(engine: Engine, uid: str, action: str, details: dict[str, object]) -> Iterator[None]:
    """Say beforehand what is to go, since a crash leaves the rows, and then whether it went."""

    def _record(suffix: str, details: dict[str, object]) -> None:
        with engine.begin() as connection:
            record_audit_event(connection, now(), actor=actor(), action=f"{action}{suffix}", uid=uid, details=details)

    _record("_begun", details)
    try:
        yield
    except BaseException as error:
        _record("_failed", {"error": type(error).__name__})
        raise
    _record("", details)


def _read(store: ObjectStore, keys: Sequence[str]) -> dict[str, IndexedObject | None]:
    """Read objects as they were indexed; None for one that can never be read.

    Raises:
        TransientError: the store did not answer.
    """
    read = asyncio.run(read_objects(store, keys, load_issuers(), load_character_sets()))
    for each in read.values():
        if isinstance(each, TransientError):
            raise each
    return {key: each if isinstance(each, IndexedObject) else None for key, each in read.items()}


def _delete_objects(store: ObjectStore, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), _DELETES_AT_ONCE):
        try:
            obstore.delete(store, list(keys[start : start + _DELETES_AT_ONCE]))
        except FileNotFoundError:
            _delete_each(store, keys[start : start + _DELETES_AT_ONCE])
        except (BaseError, OSError) as error:
            raise TransientError(f"the store did not delete all objects: {type(error).__name__}; try again") from error


def _delete_each(store: ObjectStore, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            obstore.delete(store, key)
        except FileNotFoundError:
            continue
