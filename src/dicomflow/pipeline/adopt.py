"""Objects that something else put into the bucket become deliveries: listed, heads read, copied, manifests put last.

They are copied within the store to keys of their own, since an import takes whole prefixes of one series, and the
names below a foreign prefix mean nothing. The objects stay where they are. Their deliveries are those of `adopted`, a
name that no edge may have, so that what was adopted is told apart from what was received.
"""

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket.keys import (
    ADOPTED,
    OWN_PREFIXES,
    heartbeat_key,
    instance_key,
    is_received,
    manifest_key,
    manifest_of_key,
)
from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.catalog.objects import IndexedObject, ObjectProblem
from dicomflow.dicom.uids import is_usable
from dicomflow.errors import TransientError
from dicomflow.pipeline.adoptions import Adoptions, Found
from dicomflow.pipeline.index import read_objects

__all__ = ["Adopting", "adopt_objects"]

logger = logging.getLogger(__name__)

LISTED_AT_ONCE: Final = 1000
READ_AT_ONCE: Final = 500
COPIES_AT_ONCE: Final = 32
MOST_FILES: Final = 5000
"""Of an import job, and so of a delivery."""
MOST_BYTES: Final = 10_000_000_000
MAX_COPY_BYTES: Final = 5 * 10**9
"""What one CopyObject of S3 takes."""
_NAMESPACE: Final = uuid.UUID("7d3c0b5e-52e1-4f0b-9c5f-6a1f0a7a9d11")
_SEGMENTS: Final = 5

Announce = Callable[[Sequence[tuple[str, int]]], None]
"""Is told keys and sizes of what was put."""


@dataclass(frozen=True, slots=True)
class Adopting:
    """What an adoption works with: the bucket, its memory, and whom to tell of each object that is put."""

    store: ObjectStore
    state: Adoptions
    announce: Announce = lambda _put: None
    tell: Callable[[str], None] = lambda _: None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def adopt_objects(work: Adopting, prefix: str) -> dict[str, int]:
    """Adopt everything below a prefix that is not received or adopted; return the counts.

    Repeats are safe, and so is an end at any moment: another call goes on from there.

    Raises:
        TransientError: the store did not answer; call again.
    """
    try:
        _list(work, prefix)
        _read(work)
        for delivery in work.state.open_deliveries():
            _adopt(work, delivery)
        while (study := work.state.next_study()) is not None:
            for delivery in _group(work.state, study):
                _adopt(work, delivery)
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}; call again to go on") from error
    return work.state.counts()


def _list(work: Adopting, prefix: str) -> None:
    known: dict[str, bool] = {}
    odd: dict[str, str] = {}
    listed = list_objects(work.store, prefix, odd.__setitem__)
    objects = ((each.key, each.bytes) for each in listed if not _is_ours(work.store, each.key, known))
    total = 0
    while batch := list(itertools.islice(objects, LISTED_AT_ONCE)):
        work.state.add(batch)
        total += len(batch)
        work.tell(f"{total} objects listed")
    work.state.add((name, 0) for name in odd)
    work.state.read((), odd.items())


def _is_ours(store: ObjectStore, key: str, known: dict[str, bool]) -> bool:
    """Tell whether an object is one of ours: received by an edge, adopted, or put beside the images.

    What an edge is putting has no manifest yet, so its heartbeat speaks for it.
    """
    if key.startswith((*OWN_PREFIXES, f"{ADOPTED}/")):
        return True
    segments = key.split("/")
    if len(segments) != _SEGMENTS or not key.endswith(".dcm"):
        return not is_received(key)
    sender = "/".join(segments[:2])
    if sender not in known:
        known[sender] = _exists(store, manifest_of_key(key)) or _exists(store, heartbeat_key(segments[0]))
    return known[sender]


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        obstore.head(store, key)
    except FileNotFoundError:
        return False
    return True


def _read(work: Adopting) -> None:
    """Read the heads of what is listed, some hundreds at a time; what cannot be read now ends the run."""
    total = 0
    while keys := work.state.unread(READ_AT_ONCE):
        found: list[Found] = []
        problems: list[tuple[str, str]] = []
        failed: TransientError | None = None
        for key, outcome in asyncio.run(read_objects(work.store, keys, {})).items():
            match outcome:
                case IndexedObject():
                    _take(outcome, found, problems)
                case ObjectProblem():
                    problems.append((key, outcome.reason))
                case TransientError():
                    failed = outcome
        work.state.read(found, problems)
        total += len(found) + len(problems)
        work.tell(f"{total} heads read")
        if failed is not None:
            raise failed


def _take(indexed: IndexedObject, found: list[Found], problems: list[tuple[str, str]]) -> None:
    at, values = indexed.location, indexed.values
    uids = [str(values[name]) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")]
    transfer_syntax = str(values.get("TransferSyntaxUID") or "")
    if not all(map(is_usable, (*uids, transfer_syntax))):
        problems.append((at.object_key, "one of its UIDs is none"))
    elif at.bytes > MAX_COPY_BYTES:
        problems.append((at.object_key, f"{at.bytes:,} bytes exceed the {MAX_COPY_BYTES:,} of a copy in the store"))
    else:
        study, series, sop, sop_class = uids
        moment = at.stored_at.astimezone(UTC).isoformat()
        found.append(
            Found(at.object_key, at.bytes, moment, study, series, sop, sop_class, transfer_syntax, at.sha256 or "")
        )


def _group(state: Adoptions, study: str) -> Iterator[str]:
    """Put the loose objects of a study into deliveries within an import's limits, and yield these.

    The same objects make the same deliveries.
    """
    batch: list[Found] = []
    size = 0
    for each in [*state.loose(study)]:
        if batch and (len(batch) >= MOST_FILES or size + each.bytes > MOST_BYTES):
            yield _deliver(state, batch)
            batch, size = [], 0
        batch.append(each)
        size += each.bytes
    if batch:
        yield _deliver(state, batch)


def _deliver(state: Adoptions, batch: Sequence[Found]) -> str:
    keys = [each.key for each in batch]
    delivery = str(uuid.uuid5(_NAMESPACE, "\n".join(sorted(keys))))
    state.deliver(delivery, keys)
    return delivery


def _adopt(work: Adopting, delivery: str) -> None:
    """Copy the objects of a delivery, and put its manifest last."""
    objects = work.state.of_delivery(delivery)
    gone: list[tuple[str, str]] = []

    def copy(each: Found) -> bool:
        try:
            work.store.copy(each.key, _target(delivery, each))
        except FileNotFoundError:
            gone.append((each.key, "it went before it could be copied"))
            return False
        return True

    with ThreadPoolExecutor(COPIES_AT_ONCE, "adopt") as threads:
        copied = [each for each, is_copied in zip(objects, threads.map(copy, objects), strict=True) if is_copied]
    work.state.read((), gone)
    if copied:
        manifest = _manifest(delivery, copied, work.clock())
        encoded = manifest.to_json()
        key = manifest_key(ADOPTED, delivery)
        work.store.put(key, encoded)
        work.announce([(_target(delivery, each), each.bytes) for each in copied])
        work.announce([(key, len(encoded))])
        logger.info("delivery_adopted", extra={"delivery": delivery, "instances": len(copied)})
    work.state.adopted(delivery)
    work.tell(f"{len(copied)} instances of a study adopted")


def _target(delivery: str, each: Found) -> str:
    return instance_key(ADOPTED, delivery, each.study, each.series, each.sop)


def _manifest(delivery: str, objects: Sequence[Found], now: datetime) -> Manifest:
    series: dict[str, list[Instance]] = {}
    for each in objects:
        instance = Instance(
            sop_instance_uid=each.sop,
            sop_class_uid=each.sop_class,
            transfer_syntax_uid=each.transfer_syntax,
            key=_target(delivery, each),
            bytes=each.bytes,
            sha256=each.sha256,
            received_at=each.stored_at,
            association_id="",
        )
        series.setdefault(each.series, []).append(instance)
    study = Study(objects[0].study, tuple(Series(uid, tuple(instances)) for uid, instances in series.items()))
    opened_at = min(datetime.fromisoformat(each.stored_at) for each in objects)
    return Manifest(ADOPTED, delivery, opened_at, max(now, opened_at), (), (study,))
