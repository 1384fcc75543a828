"""From a job's end to the catalog: outcomes of every instance, image sets, and what became of each series.

Everything a job brought is written in one transaction, by whoever comes first. Whatever goes wrong with one job is
kept with that job and shown with its series: it is tried again, later each time, and holds no slot once the service has
ended it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from sqlalchemy import Connection, Row

from dicomflow.bucket.keys import sop_of_key
from dicomflow.catalog import imports, jobs, outcomes
from dicomflow.catalog.deliveries import next_report_due
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.outcomes import Outcome, StoredImageSet
from dicomflow.catalog.states import UNFINISHED, InstanceState, JobState, SeriesState
from dicomflow.errors import DicomflowError, PermanentError, TransientError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImageSet, ImportJob
from dicomflow.healthimaging.primary import conflicts_of_study
from dicomflow.healthimaging.results import (
    FileResult,
    JobResults,
    UnreadableManifestError,
    read_results,
    results_prefix,
)
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.feedback import send_feedback
from dicomflow.pipeline.metrics import Counts, Name, after_commit
from dicomflow.pipeline.staging import clear_staging, input_prefix
from dicomflow.pipeline.wakeups import wake_driver

__all__ = [
    "MAX_RESULT_ATTEMPTS",
    "MAX_SERIES_ATTEMPTS",
    "RESULTS_AGAIN",
    "give_up",
    "keep_trouble",
    "settle_completed",
    "settle_failed",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

RESULTS_AGAIN: Final = timedelta(seconds=5)
MAX_RESULT_ATTEMPTS: Final = 8
MAX_SERIES_ATTEMPTS: Final = 3
REQUEUE_AFTER: Final = timedelta(seconds=30)
NOT_RETRIED: Final = ("FILE_COUNTS_LI", "TOTAL_SIZE_LI")  # the same files would fail again


def settle_completed(deps: Dependencies, job: Job, told: ImportJob) -> None:
    """Read a completed job's results; while they are not all there, come back for them a number of times."""
    try:
        _settle_completed(deps, job, told)
    except Exception as error:
        if job.state == JobState.GIVEN_UP:  # nobody looks at it again: the event that told of its end comes back
            raise
        keep_trouble(deps, job, told, error)


def _settle_completed(deps: Dependencies, job: Job, told: ImportJob) -> None:
    is_patient = job.attempts < MAX_RESULT_ATTEMPTS and job.state in UNFINISHED
    prefix = results_prefix(told.output_s3_uri or job.output_s3_uri, deps.bucket, deps.datastore_id, told.job_id)
    reason = None
    try:
        results = read_results(deps.store, prefix)
    except UnreadableManifestError as error:
        results, reason = JobResults(deps.store, prefix, None), str(error)
    files = results.by_key(input_prefix(deps, job))
    reason = reason or _missing(results, files)
    if reason is not None and is_patient:
        _postpone(deps, job, told, reason)
        return
    _record(deps, job, told, results, files, reason, is_patient=is_patient)


def settle_failed(deps: Dependencies, job: Job, message: str, told: ImportJob | None) -> None:
    """End a job that failed; its series are queued again a number of times, then wait for an operator."""
    _end_without_results(deps, job, JobState.FAILED, message, told, is_final=message.startswith(NOT_RETRIED))


def give_up(deps: Dependencies, job: Job, told: ImportJob) -> None:
    """Stop waiting for a job that hangs; its series go on as after a failure. It may still end, and then counts."""
    message = f"the job was {told.status} for more than {deps.job_limit}, and was given up"
    _end_without_results(deps, job, JobState.GIVEN_UP, message, told, is_final=False)


def keep_trouble(deps: Dependencies, job: Job, told: ImportJob | None, error: Exception) -> None:
    """Keep what went wrong with one job to that job: look at it again, later each time, and end it when that is vain.

    Args:
        deps: the deployment.
        job: the job under way.
        told: what the service says of a job that it has ended; None when it could not be asked.
        error: what happened. The text of one that is not ours may hold what was stored, and is not repeated.
    """
    if isinstance(error, DicomflowError):
        message = str(error)
    else:
        logger.error("import_job_failed_here", extra={"import_job_id": job.import_job_id}, exc_info=error)
        message = f"the job could not be followed: {type(error).__name__}"
    now = deps.clock()
    is_old = job.submitted_at is not None and now - job.submitted_at > deps.job_limit
    is_vain = not isinstance(error, TransientError) and job.attempts >= MAX_RESULT_ATTEMPTS
    if told is None and is_old:
        _end_without_results(deps, job, JobState.GIVEN_UP, message, None, is_final=False)
    elif told is not None and (is_old or is_vain):
        _end_without_results(deps, job, JobState.FAILED, message, told, is_final=True)
    else:
        _postpone(deps, job, told, message)


def _end_without_results(
    deps: Dependencies, job: Job, state: JobState, message: str, told: ImportJob | None, *, is_final: bool
) -> None:
    now = deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if not jobs.finish_job(
            connection,
            job,
            state,
            now=now,
            job_id=told.job_id if told else None,
            ended_at=told.ended_at if told else None,
            message=message,
        ):
            return
        for row in imports.series_of_job(connection, job.import_job_id):
            _retry_or_end(connection, counts, row, job, SeriesState.FAILED, message, now, is_final=is_final)
    _after_end(deps, job, told, state, [])


def _retry_or_end(
    connection: Connection,
    counts: Counts,
    row: Row[Any],
    job: Job,
    state: SeriesState,
    message: str | None,
    now: datetime,
    *,
    is_final: bool,
) -> None:
    """Queue a series again, later each time, until its attempts are used up; then end it in `state`."""
    if is_final or row.attempts >= MAX_SERIES_ATTEMPTS:
        if imports.finish_series(connection, row.series_import_id, job.import_job_id, state, message, now):
            counts[Name.IMPORTS_FAILED] += 1
        return
    not_before = now + REQUEUE_AFTER * 4 ** (row.attempts - 1)
    imports.requeue_series(connection, row.series_import_id, job.import_job_id, not_before, message, now)


def _postpone(deps: Dependencies, job: Job, told: ImportJob | None, reason: str) -> None:
    """Look at a job again later; `told` is of one that the service has ended."""
    now = deps.clock()
    due_at = now + min(RESULTS_AGAIN * 2 ** min(job.attempts, MAX_RESULT_ATTEMPTS), LONGEST_PUT_OFF)
    ended_at = None if told is None else told.ended_at or now
    with deps.engine.begin() as connection:
        if told is not None:
            jobs.record_running(connection, job, told.job_id, JobState.IN_PROGRESS, due_at, now)
        jobs.postpone_job(connection, job, due_at, reason, now, ended_at=ended_at)
        imports.note_trouble(connection, job.import_job_id, reason, now)
    logger.warning(
        "import_job_not_followed",
        extra={"import_job_id": job.import_job_id, "attempts": job.attempts + 1, "error": reason},
    )
    wake_driver(deps, due_at, "results")


def _missing(results: JobResults, files: Mapping[str, FileResult]) -> str | None:
    """Return what a complete result would have and this one lacks."""
    if results.manifest is None:
        return "the job's manifest is not there"
    scanned = results.manifest.scanned
    if scanned is not None and len(files) < scanned:
        unread = f", and {results.lines_unread} lines of the output are none" if results.lines_unread else ""
        return f"{len(files)} of {scanned} files have a result{unread}"
    return None


def _record(
    deps: Dependencies,
    job: Job,
    told: ImportJob,
    results: JobResults,
    files: Mapping[str, FileResult],
    reason: str | None,
    *,
    is_patient: bool,
) -> None:
    """Write everything a job brought in one transaction, if nobody has yet."""
    manifest = results.manifest
    counters = (
        (manifest.scanned, manifest.imported, manifest.customer_errors, manifest.server_errors)
        if manifest
        else (None, None, None, None)
    )
    by_folder = _series_by_folder(deps, job, files)
    image_sets = _image_sets(deps, results, files, by_folder, is_patient=is_patient)
    has_server_errors = manifest is not None and bool(manifest.server_errors)
    now = deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if not jobs.finish_job(
            connection,
            job,
            JobState.COMPLETED,
            now=now,
            job_id=told.job_id,
            ended_at=told.ended_at,
            message=reason,
            counters=counters,
        ):
            return
        found = [_outcome(result, by_folder) for result in files.values()]
        outcomes.record_outcomes(connection, job.import_job_id, found)
        outcomes.record_image_sets(connection, deps.datastore_id, image_sets, now)
        for row in by_folder.values():
            _settle_series(
                connection, counts, row, job, found, deps.datastore_id, reason, now, is_final=not has_server_errors
            )
    _after_end(deps, job, told, JobState.COMPLETED, image_sets)


def _series_by_folder(deps: Dependencies, job: Job, files: Mapping[str, FileResult]) -> dict[str, Row[Any]]:
    """Return the series of a job's files by the prefix these lie under.

    A job that was given up has lost its series to another job, and finds them by their prefixes.
    """
    with deps.engine.begin() as connection:
        rows = imports.series_of_job(connection, job.import_job_id)
        if job.is_staged:
            return {input_prefix(deps, job): row for row in rows}
        by_folder = {row.input_prefix: row for row in rows}
        lost = {_folder(key) for key in files} - by_folder.keys()
        delivery_ids = {unquote(parts[1]) for folder in lost if len(parts := folder.split("/")) > 2}
        if delivery_ids:
            by_folder |= {row.input_prefix: row for row in imports.series_at(connection, delivery_ids, lost)}
    return by_folder


def _settle_series(
    connection: Connection,
    counts: Counts,
    row: Row[Any],
    job: Job,
    found: Sequence[Outcome],
    datastore_id: str,
    reason: str | None,
    now: datetime,
    *,
    is_final: bool,
) -> None:
    """Decide a series: completed only when every instance is in, by this job or an earlier one."""
    imported = outcomes.count_in(connection, row, datastore_id)
    if imported >= row.object_count:
        if imports.finish_series(
            connection, row.series_import_id, job.import_job_id, SeriesState.COMPLETED, None, now
        ) or imports.complete_series(connection, row.series_import_id, None, now):
            counts[Name.IMPORTS_COMPLETED] += 1
        return
    failed = (
        item for item in found if item.series_import_id == row.series_import_id and item.outcome is InstanceState.FAILED
    )
    because = next((item.reason for item in failed if item.reason), reason)
    message = f"{imported} of {row.object_count} instances imported; first reason: {because or 'none was given'}"
    state = SeriesState.PARTIAL if imported else SeriesState.FAILED
    _retry_or_end(connection, counts, row, job, state, message, now, is_final=is_final)


def _outcome(result: FileResult, by_folder: Mapping[str, Row[Any]]) -> Outcome:
    """Return a file's result under the key of the object, of which a staged file is a copy."""
    row = by_folder.get(_folder(result.object_key))
    name = result.object_key.rpartition("/")[2]
    return Outcome(
        object_key=row.input_prefix + name if row else result.object_key,
        series_import_id=row.series_import_id if row else None,
        sop_instance_uid=sop_of_key(name),
        outcome=result.outcome,
        image_set_id=result.image_set.image_set_id if result.image_set else None,
        reason=result.reason,
    )


def _image_sets(
    deps: Dependencies,
    results: JobResults,
    files: Mapping[str, FileResult],
    by_folder: Mapping[str, Row[Any]],
    *,
    is_patient: bool,
) -> list[StoredImageSet]:
    """Return the image sets of each series; what the results do not say of them is asked of the service.

    What it does not tell stays unknown, once there is no patience left: the outcomes are worth more.
    """
    listed = {item.image_set_id: item for item in (results.manifest.image_sets if results.manifest else ())}
    known: dict[str, tuple[int | None, bool | None]] = {}
    conflicts: dict[str, dict[str, tuple[str, ...]]] = {}  # by study
    found = set()
    for key, result in files.items():
        row = by_folder.get(_folder(key))
        if result.image_set is None or row is None:
            continue
        image_set_id = result.image_set.image_set_id
        if image_set_id not in known:
            in_manifest = listed.get(image_set_id, result.image_set)
            version = in_manifest.version or result.image_set.version
            primary = in_manifest.is_primary if in_manifest.is_primary is not None else result.image_set.is_primary
            if version is None or primary is None:
                asked = _asked(partial(_get_image_set, deps, image_set_id), is_patient=is_patient)
                version = version or (asked.version if asked else None)
                primary = asked.is_primary if primary is None and asked else primary
            known[image_set_id] = (version, primary)
        version, primary = known[image_set_id]
        differs_in = None
        if primary is False:
            study = row.study_instance_uid
            if study not in conflicts:
                search = partial(conflicts_of_study, deps.client, deps.datastore_id, study)
                conflicts[study] = _asked(search, is_patient=is_patient) or {}
            differs_in = conflicts[study].get(image_set_id)
        found.add(
            StoredImageSet(row.study_instance_uid, row.series_instance_uid, image_set_id, version, primary, differs_in)
        )
    return list(found)


def _get_image_set(deps: Dependencies, image_set_id: str) -> ImageSet:
    return healthimaging.get_image_set(deps.client, deps.datastore_id, image_set_id)


def _asked(ask: Callable[[], T], *, is_patient: bool) -> T | None:
    """Return what the service answers; None when it never will, or there is no patience left.

    Raises:
        TransientError: it may answer later, and there is patience.
    """
    try:
        return ask()
    except TransientError as error:
        if is_patient:
            raise
        logger.warning("image_set_unknown", extra={"error": str(error)})
    except PermanentError as error:
        logger.warning("image_set_unknown", extra={"error": str(error)})
    return None


def _after_end(
    deps: Dependencies, job: Job, told: ImportJob | None, state: JobState, image_sets: Sequence[StoredImageSet]
) -> None:
    """Do what may be lost without harm: the log, the copies; and wake the driver for what is free or due now."""
    logger.info(
        "import_job_ended",
        extra={"import_job_id": job.import_job_id, "job_id": told.job_id if told else job.job_id, "state": state},
    )
    for item in image_sets:
        if item.is_primary is False:
            logger.warning(
                "image_set_not_primary",
                extra={
                    "image_set_id": item.image_set_id,
                    "series_instance_uid": item.series_instance_uid,
                    "differs_in": ",".join(item.differs_in or ()),
                },
            )
    if state != JobState.GIVEN_UP:  # a job that hangs may still read them
        clear_staging(deps, job)
    send_feedback(deps)
    now = deps.clock()
    with deps.engine.begin() as connection:
        is_ready = imports.count_ready_series(connection, now, 1) > 0
        later = [imports.next_series_due(connection, now), next_report_due(connection, now)]
    if is_ready:
        wake_driver(deps, now, "slot")
    elif due_at := min(filter(None, later), default=None):
        wake_driver(deps, due_at, "later")


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"
