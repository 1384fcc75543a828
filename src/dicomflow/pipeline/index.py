"""From object-created events to index rows: the heads of a batch are read in parallel, then upserted at once.

Memory is bounded by the reads under way, whatever the objects' sizes. An object that can never be indexed becomes a
row with its reason; what may work later is returned, so that its message comes back.
"""

import asyncio
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.bucket.keys import is_received
from dicomflow.bucket.ranged import RangedFile
from dicomflow.catalog.engine import is_of_a_value
from dicomflow.catalog.index import (
    IndexedObject,
    ObjectLocation,
    ObjectProblem,
    upsert_objects,
    upsert_problems,
)
from dicomflow.catalog.objects import without_long_identity
from dicomflow.catalog.outgoing import tell_studies_receiving
from dicomflow.dicom.attributes import Level
from dicomflow.dicom.header import Header, SiteCharacterSet, read_header, read_header_from
from dicomflow.errors import DicomflowError, PeerError, PermanentError, TransientError
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.versions import NotComparedError, compare_versions

__all__ = ["IndexResult", "index_objects", "read_objects", "write_objects"]

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 64 << 10
"""The first read of an object: pixel data of most begins within 10 KB, of nearly all within this."""
LONG_HEAD_BYTES: Final = 1 << 20
DIGEST_ATTRIBUTE: Final = "sha256"
"""The object's user metadata that holds its digest, lower-case hex, where the store keeps metadata."""
CONCURRENT_READS: Final = 32
_READ_AHEAD_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What became of a batch: objects indexed, objects with a problem, and messages to be tried again with why."""

    indexed: int
    problems: int
    failed: Mapping[str, str]


def index_objects(
    engine: Engine,
    store: ObjectStore,
    objects: Sequence[StoredObjectEvent],
    *,
    issuers: Mapping[str, str] | None = None,
    character_sets: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    is_news: bool = True,
) -> IndexResult:
    """Index the objects of a batch of events; repeats within the batch and of earlier ones change nothing.

    Whatever is wrong with one object, it is that object's problem: it is recorded with its reason, and the others are
    indexed.

    Args:
        engine: the catalog.
        store: the bucket that the events are of.
        objects: the events; those of what is no received image are passed over.
        issuers: the issuer of Patient IDs that name none, by `EDGE/CALLING AE TITLE` or by `EDGE`; an edge is its own
            by default.
        character_sets: what devices mean that declare no Specific Character Set, by the same names.
        clock: tells the time of indexing.
        is_news: others are told of a study of which images arrive.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database failed; what is written stays, and a repeat writes the rest.
    """
    keys = sorted({event.key for event in objects if is_received(event.key)})
    outcomes = asyncio.run(read_objects(store, keys, issuers or {}, character_sets))
    indexed = [outcome for outcome in outcomes.values() if isinstance(outcome, IndexedObject)]
    problems = [outcome for outcome in outcomes.values() if isinstance(outcome, ObjectProblem)]
    refused = write_objects(engine, indexed, clock(), is_news=is_news)
    problems += refused
    _write_problems(engine, problems)
    failed = {
        event.message_id: str(outcome)
        for event in objects
        if isinstance(outcome := outcomes.get(event.key), TransientError)
    }
    try:
        compare_versions(engine, store, {each.values["SOPInstanceUID"] for each in indexed})
    except NotComparedError as error:
        left = {each.location.object_key for each in indexed if each.values["SOPInstanceUID"] in error.uids}
        failed |= {event.message_id: str(error) for event in objects if event.key in left}
    return IndexResult(len(indexed) - len(refused), len(problems), failed)


async def read_objects(
    store: ObjectStore,
    keys: Sequence[str],
    issuers: Mapping[str, str],
    character_sets: Mapping[str, str] | None = None,
) -> dict[str, IndexedObject | ObjectProblem | TransientError]:
    """Read the heads of objects in parallel; return by key what each is, why it never will be, or why not now."""
    outcomes: dict[str, IndexedObject | ObjectProblem | TransientError] = {}
    waiting = iter(keys)

    async def read_some() -> None:
        for key in waiting:
            outcomes[key] = await _read_one(store, key, issuers, character_sets or {})

    async with asyncio.TaskGroup() as readers:
        for _ in range(min(CONCURRENT_READS, len(keys))):
            readers.create_task(read_some())
    return outcomes


def write_objects(
    engine: Engine, indexed: Sequence[IndexedObject], now: datetime, *, is_news: bool = False
) -> list[ObjectProblem]:
    """Write a batch in one transaction; return the objects that the catalog cannot hold, each found by halves.

    With `is_news` others are told of each study of a delivery.
    """
    if not indexed:
        return []
    try:
        with engine.begin() as connection:
            upsert_objects(connection, indexed, now)
            if is_news:
                tell_studies_receiving(connection, _studies(indexed), now)
    except Exception as error:
        if not is_of_a_value(error):
            raise
        if len(indexed) == 1:
            logger.exception("object_not_written", extra={"key": indexed[0].location.object_key})
            return [_refusal(indexed[0], error)]
        middle = len(indexed) // 2
        halves = (indexed[:middle], indexed[middle:])
        return [each for half in halves for each in write_objects(engine, half, now, is_news=is_news)]
    return []


def _studies(indexed: Sequence[IndexedObject]) -> Iterator[tuple[str, str, str]]:
    """Yield edge, delivery and study of the objects of deliveries."""
    for each in indexed:
        if each.location.delivery_id:
            yield each.location.edge, each.location.delivery_id, each.values["StudyInstanceUID"]


async def _read_one(
    store: ObjectStore, key: str, issuers: Mapping[str, str], character_sets: Mapping[str, str]
) -> IndexedObject | ObjectProblem | TransientError:
    edge, delivery_id = _sender_of(key)

    def of_site(settings: Mapping[str, str], calling_ae_title: str) -> str:
        return settings.get(f"{edge}/{calling_ae_title}") or settings.get(edge) or ""

    try:
        location, header = await _read(store, key, edge, delivery_id, partial(of_site, character_sets))
        site_issuer = of_site(issuers, header.calling_ae_title) or edge
        values, long, told = without_long_identity(header.values)
        raw_values = dict(header.raw_values)
        if long:
            raw_values[Level.PATIENT] = {**raw_values.get(Level.PATIENT, {}), **long}
        problem = "; ".join(filter(None, (header.problem, told))) or None
        return IndexedObject(location, site_issuer, values, raw_values, problem)
    except (PermanentError, PeerError) as error:
        return ObjectProblem(key, edge, delivery_id, None, str(error))
    except TransientError as error:
        return error
    except Exception as error:  # one object's bytes, whatever they led a reader into
        logger.exception("object_not_read", extra={"key": key})
        return ObjectProblem(key, edge, delivery_id, None, f"the object cannot be read: {type(error).__name__}")


async def _read(
    store: ObjectStore, key: str, edge: str, delivery_id: str | None, site_character_set: SiteCharacterSet
) -> tuple[ObjectLocation, Header]:
    """Read an object's header: a first range, a longer one, and at last a walk with a range for each read.

    Raises:
        PermanentError: there is no such object, or it is empty.
        PeerError: it is no readable Part 10 file.
        TransientError: the store did not answer.
    """
    for length in (HEAD_BYTES, LONG_HEAD_BYTES):
        head, size, stored_at, sha256 = await _get_head(store, key, length)
        location = ObjectLocation(key, edge, delivery_id, size, stored_at, sha256)
        header = read_header(head, complete=len(head) == size, site_character_set=site_character_set)
        if header is not None:
            return location, header
        if len(head) == size:
            return location, await asyncio.to_thread(read_header_from, io.BytesIO(head), site_character_set)

    def fetch(start: int, length: int) -> bytes:
        try:
            return bytes(obstore.get_range(store, key, start=start, length=length))
        except (BaseError, OSError, ValueError) as error:
            raise _store_error(error) from error

    file = io.BufferedReader(RangedFile(size, fetch), _READ_AHEAD_BYTES)
    return location, await asyncio.to_thread(read_header_from, file, site_character_set)


async def _get_head(store: ObjectStore, key: str, length: int) -> tuple[bytes, int, datetime, str | None]:
    """Return an object's first bytes, its size in bytes, when it was stored, and its SHA-256.

    The digest is that of the bytes where they are the whole object, or what the store keeps as its metadata.
    """
    try:
        result = await obstore.get_async(store, key, options={"range": (0, length)})
        meta = result.meta
        head = bytes(await result.bytes_async())
    except BaseError as error:
        if await _is_empty(store, key):
            raise PermanentError("the object is empty") from error
        raise _store_error(error) from error
    except (OSError, ValueError) as error:
        raise _store_error(error) from error
    told = result.attributes.get(DIGEST_ATTRIBUTE)
    sha256 = hashlib.sha256(head).hexdigest() if len(head) == meta["size"] else told
    return head, meta["size"], meta["last_modified"], sha256


async def _is_empty(store: ObjectStore, key: str) -> bool:
    """Tell whether a range was refused because there is nothing to give."""
    try:
        return (await obstore.head_async(store, key))["size"] == 0
    except (BaseError, OSError, ValueError):
        return False


def _store_error(error: Exception) -> DicomflowError:
    if isinstance(error, FileNotFoundError):
        return PermanentError("the object is not in the store")
    if isinstance(error, ValueError):
        return PermanentError("the key is no path that the store can hold")
    return TransientError(f"the store did not answer: {type(error).__name__}")


def _sender_of(key: str) -> tuple[str, str | None]:
    """Return edge and delivery of a key `{edge}/{delivery}/{study}/{series}/{sop}.dcm`, nothing of another."""
    parts = [unquote(part) for part in key.split("/")]
    return (parts[0], parts[1]) if len(parts) == 5 else ("", None)


def _write_problems(engine: Engine, problems: Sequence[ObjectProblem]) -> None:
    """Record problems in a transaction of their own: locks of objects' rows are then taken in the order of keys."""
    if problems:
        with engine.begin() as connection:
            upsert_problems(connection, problems)


def _refusal(indexed: IndexedObject, error: Exception) -> ObjectProblem:
    location = indexed.location
    reason = f"the catalog cannot hold a value: {type(error).__name__}"
    return ObjectProblem(location.object_key, location.edge, location.delivery_id, location.bytes, reason)
