"""The catalog from the bucket: objects and manifests are listed and go through the functions that their events go to.

Then the outputs of import jobs say what is in HealthImaging, so that nothing is imported twice. What the catalog has
already is passed over: a rebuild that was cut off goes on where it stopped.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Connection, Engine

from dicomflow.bucket.keys import (
    IMPORT_OUTPUT_PREFIX,
    MANIFEST_PREFIX,
    is_manifest,
    is_received,
    is_repair,
    is_staging,
    key_of_uri,
    repair_key,
    sop_of_key,
)
from dicomflow.bucket.listing import ListedObject, list_objects
from dicomflow.bucket.manifest import Manifest
from dicomflow.bucket.reading import read_document
from dicomflow.bucket.repair import decode as decode_repair
from dicomflow.catalog import hidden, restoring
from dicomflow.catalog.deliveries import clear_problem, clear_problems, record_problem
from dicomflow.catalog.engine import begin_read, is_of_a_value
from dicomflow.catalog.restoring import PastJob
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.versions import instances_with_versions
from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging.results import (
    MANIFEST_NAME,
    FileResult,
    JobResults,
    UnreadableManifestError,
    job_of_prefix,
    read_results,
)
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import IndexResult, index_objects
from dicomflow.pipeline.plan import plan_delivery
from dicomflow.pipeline.settle import ObjectResult, image_sets_of, record_results
from dicomflow.pipeline.versions import compare_versions

__all__ = ["Rebuilt", "rebuild_catalog"]

logger = logging.getLogger(__name__)

BATCH: Final = 500
ODD_NAME: Final = "name:"  # before the name of what no key can name, in the place of an object key


@dataclass(slots=True)
class Rebuilt:
    """How far a rebuild is: what is new in the catalog, and what was there."""

    indexed: int = 0
    problems: int = 0
    deliveries: int = 0
    jobs: int = 0
    passed_over: int = 0
    not_read: list[str] = field(default_factory=list)
    not_imported: int = 0
    gone: int = 0


def rebuild_catalog(
    engine: Engine,
    store: ObjectStore,
    bucket: str,
    *,
    issuers: Mapping[str, str],
    character_sets: Mapping[str, str] | None = None,
    is_wanted: Callable[[str], bool] = lambda _: True,
    tell: Callable[[Rebuilt], None] = lambda _: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Rebuilt:
    """Bring everything in the bucket into the catalog; nothing is imported by it.

    Args:
        engine: the catalog, with its schema.
        store: the bucket.
        bucket: its name.
        issuers: the issuer of Patient IDs that name none, as when the objects came.
        character_sets: what devices mean that declare none, as when the objects came.
        is_wanted: tells of the key of a received object or a manifest whether it is taken.
        tell: is called after every batch.
        clock: tells the time of indexing.

    Raises:
        TransientError: the store did not answer; what is done stays done, and another call goes on from there.
    """
    done = Rebuilt()
    index = partial(
        index_objects, engine, store, issuers=issuers, character_sets=character_sets, clock=clock, is_news=False
    )
    datastore_ids: set[str] = set()
    odd: dict[str, str] = {}
    try:
        for keys in _batches(list_objects(store, "", odd.__setitem__), lambda key: is_received(key) and is_wanted(key)):
            _index(engine, index, bucket, keys, done)
            tell(done)
        _record_odd(engine, odd, done)
        for keys in _batches(list_objects(store, MANIFEST_PREFIX), lambda key: is_manifest(key) and is_wanted(key)):
            _plan(engine, store, keys, clock, done)
            tell(done)
        with begin_read(engine) as connection:
            several = instances_with_versions(connection)
        compare_versions(engine, store, several)
        for ended_at, key in _import_notes(store):
            if is_repair(key):
                restore = partial(_show_repaired, engine, store, key, clock)
            else:
                prefix = key.removesuffix(MANIFEST_NAME)
                if (folder := job_of_prefix(prefix)) is not None:
                    datastore_ids.add(folder[0])
                restore = partial(_restore, engine, store, bucket, prefix, ended_at, clock, done)
            _restore_apart(engine, key, restore, done)
            tell(done)
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}; call again to go on") from error
    with engine.begin() as connection:
        done.not_imported = restoring.adopt_unsettled(connection, datastore_ids, clock())
    if done.not_read:
        raise TransientError(
            f"{len(done.not_read)} objects could not be read now, the first because {done.not_read[0]}; call again"
        )
    return done


def _batches(listed: Iterator[ListedObject], is_wanted: Callable[[str], bool]) -> Iterator[Sequence[str]]:
    keys = (each.key for each in listed if is_wanted(each.key))
    while batch := list(itertools.islice(keys, BATCH)):
        yield batch


def _index(
    engine: Engine,
    index: Callable[[Sequence[StoredObjectEvent]], IndexResult],
    bucket: str,
    keys: Sequence[str],
    done: Rebuilt,
) -> None:
    with engine.begin() as connection:
        known = restoring.known_objects(connection, keys)
    events = [StoredObjectEvent(key, bucket, key) for key in keys if key not in known]
    result = index(events)
    done.indexed += result.indexed
    done.problems += result.problems
    done.passed_over += len(known)
    done.not_read += result.failed.values()


def _record_odd(engine: Engine, odd: Mapping[str, str], done: Rebuilt) -> None:
    """Record what no key can name in the place of what an earlier rebuild found of it."""
    with engine.begin() as connection:
        clear_problems(connection, ODD_NAME)
        for name, reason in odd.items():
            logger.warning("name_refused", extra={"name_quoted": name, "error": reason})
            record_problem(connection, ODD_NAME + name, reason)
    done.problems += len(odd)


def _plan(
    engine: Engine, store: ObjectStore, keys: Sequence[str], clock: Callable[[], datetime], done: Rebuilt
) -> None:
    """Record deliveries with series that are not queued: most of them are in HealthImaging already."""
    with engine.begin() as connection:
        known = restoring.known_manifests(connection, keys)
    done.passed_over += len(known)
    for key in keys:
        if key in known:
            continue
        try:
            plan_delivery(
                engine,
                store,
                key,
                import_enabled=False,
                now=clock(),
                only=partial(_in_store, engine, key, done),
                is_news=False,
            )
        except PermanentError as error:
            logger.warning("manifest_refused", extra={"key": key, "error": str(error)})
            _record_refused(engine, key, str(error), done)
        else:
            done.deliveries += 1


def _in_store(engine: Engine, key: str, done: Rebuilt, manifest: Manifest) -> Manifest:
    """Leave out the series of which no object is in the bucket any more, as after `delete-study --objects`."""
    with engine.begin() as connection:
        there = restoring.known_objects(connection, [each.key for each in manifest.instances()])
    series = [each for study in manifest.studies for each in study.series]
    kept = [each for each in series if any(instance.key in there for instance in each.instances)]
    if len(kept) < len(series):
        done.gone += len(series) - len(kept)
        logger.warning("manifest_objects_gone", extra={"key": key, "series": len(series) - len(kept)})
    return manifest.only({instance.sop_instance_uid for each in kept for instance in each.instances})


def _import_notes(store: ObjectStore) -> list[tuple[datetime, str]]:
    """Return the keys of jobs' manifests and of notes on repairs, with when they were written, in that order."""
    return sorted(
        (each.modified_at, each.key)
        for each in list_objects(store, IMPORT_OUTPUT_PREFIX)
        if each.key.endswith(f"/{MANIFEST_NAME}") or is_repair(each.key)
    )


def _restore_apart(engine: Engine, key: str, restore: Callable[[], None], done: Rebuilt) -> None:
    """Bring back one job; what its output cannot be used for is listed under the key of its manifest."""
    try:
        restore()
    except (UnreadableManifestError, PermanentError) as error:  # for good
        reason = str(error)
    except TransientError:
        raise
    except Exception as error:
        if not is_of_a_value(error):
            raise
        logger.exception("job_output_not_written", extra={"key": key})
        reason = f"the catalog cannot hold the job's output: {type(error).__name__}"
    else:
        with engine.begin() as connection:
            clear_problem(connection, key)
        return
    logger.warning("job_output_refused", extra={"key": key, "error": reason})
    _record_refused(engine, key, reason, done)


def _record_refused(engine: Engine, key: str, reason: str, done: Rebuilt) -> None:
    with engine.begin() as connection:
        record_problem(connection, key, reason)
    done.problems += 1


def _restore(
    engine: Engine,
    store: ObjectStore,
    bucket: str,
    prefix: str,
    ended_at: datetime,
    clock: Callable[[], datetime],
    done: Rebuilt,
) -> None:
    """Bring back one job from its output: its outcomes, its image sets, and the state of its series."""
    folder = job_of_prefix(prefix)
    if folder is None:
        raise PermanentError("the job manifest lies in no folder of a job")
    results = read_results(store, prefix)
    manifest = results.manifest
    if manifest is None:  # it went while we looked
        return
    if manifest.input_s3_uri is None:
        raise PermanentError("the job manifest does not name the job's input")
    is_staged = is_staging(key_of_uri(manifest.input_s3_uri))  # the bucket may have had another name then
    uri = f"s3://{bucket}/{prefix}"
    job = PastJob(*folder, manifest.input_s3_uri, uri, ended_at, manifest.counters, is_staged)
    with engine.begin() as connection:
        import_job_id = restoring.record_past_job(connection, job, clock())
        is_new = import_job_id is not None
        import_job_id = import_job_id or restoring.known_job(connection, job)
        found = _objects_of(connection, results, job) if import_job_id is not None else []
        keys = [key for key, _ in found]
        rows = restoring.series_of_objects(connection, keys)
        if not is_new:  # its series are known as well, unless they were deleted and are made anew
            rows = {key: row for key, row in rows.items() if row.state == SeriesState.DISABLED}
        if import_job_id is None or not (is_new or rows):
            done.passed_over += 1
            return
        uids = {uid for key in keys if (uid := sop_of_key(key)) is not None}
        restoring.adopt_before(connection, keys, uids, job.datastore_id, clock())
        there = rows.keys() | (restoring.known_objects(connection, keys) if is_new else ())
        told = [ObjectResult(key, each, rows.get(key)) for key, each in found if key in there]
        record_results(connection, import_job_id, job.datastore_id, told, image_sets_of(manifest, told), clock())
        series = {row.series_import_id: row for row in rows.values()}
        restoring.settle_restored(connection, series.values(), import_job_id, job.datastore_id, clock())
    done.jobs += 1


def _show_repaired(engine: Engine, store: ObjectStore, key: str, clock: Callable[[], datetime]) -> None:
    """Bring back that a hidden image set was repaired, where the catalog has it as hidden."""
    try:
        note = decode_repair(read_document(store, key)[0])
    except FileNotFoundError:  # it went while we looked
        return
    if key != repair_key(note.datastore_id, note.image_set_id):
        raise PermanentError("the note on a repair is of another image set")
    found = {each.image_set_id: (each.version, each.is_primary) for each in note.image_sets}
    with engine.begin() as connection:
        if hidden.is_hidden(connection, note.datastore_id, note.image_set_id):
            hidden.record_repair(
                connection,
                note.datastore_id,
                note.image_set_id,
                note.primary_image_set_id,
                found,
                clock(),
                note.rejected,
                note.elements,
            )


def _objects_of(connection: Connection, results: JobResults, job: PastJob) -> list[tuple[str, FileResult]]:
    """Return each result with the key of its object, of which a staged file was a copy."""
    files = list(results.by_key(key_of_uri(job.input_s3_uri)).values())
    if not job.is_staged:
        return [(each.object_key, each) for each in files]
    uids = {uid: each for each in files if (uid := sop_of_key(each.object_key)) is not None}
    newest = restoring.newest_objects(connection, uids.keys(), job.ended_at)
    return [(newest[uid], each) for uid, each in uids.items() if uid in newest]
