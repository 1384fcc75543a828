"""From a job's end to the catalog: outcomes of every instance, image sets, and what became of each series.

A job ends once in the catalog, whether an event or the sweep told of it, in any order and however often.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote

from sqlalchemy import Row

from dicomflow.catalog import imports, outcomes
from dicomflow.catalog.imports import Job
from dicomflow.catalog.outcomes import Outcome, StoredImageSet
from dicomflow.errors import PermanentError, TransientError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImportJob, JobNotFoundError
from dicomflow.healthimaging.results import FileResult, JobResults, read_results, results_prefix
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.wakeups import wake_driver

__all__ = ["LOOK_AGAIN", "collect_event", "follow_job"]

logger = logging.getLogger(__name__)

EVENT_SOURCE: Final = "aws.medical-imaging"
JOB_EVENT: Final = "Import Job "
LOOK_AGAIN: Final = timedelta(seconds=60)
RESULTS_AGAIN: Final = timedelta(seconds=5)
MAX_RESULT_ATTEMPTS: Final = 8
MAX_SERIES_ATTEMPTS: Final = 3
REQUEUE_AFTER: Final = timedelta(seconds=30)
NOT_RETRIED: Final = ("FILE_COUNTS_LI", "TOTAL_SIZE_LI")  # the same files would fail again
STATES: Final = {"SUBMITTED": "submitted", "IN_PROGRESS": "in_progress"}


def collect_event(deps: Dependencies, document: Mapping[str, Any]) -> None:
    """Act on an event of the service; events of other things than jobs of ours are passed over.

    Raises:
        PermanentError: an event of a job lacks what it must have.
        TransientError: the service or the store did not answer.
    """
    if document.get("source") != EVENT_SOURCE or not str(document.get("detail-type")).startswith(JOB_EVENT):
        return
    try:
        detail = document["detail"]
        told = ImportJob(
            job_id=detail["jobId"],
            job_name=detail.get("jobName", ""),
            status=detail["jobStatus"],
            submitted_at=None,
            ended_at=_event_time(document),
            message=None,
            output_s3_uri=detail.get("outputS3Uri"),
        )
        datastore_id: str = detail["datastoreId"]
    except (KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"the event lacks a member: {error!r}") from error
    with deps.engine.begin() as connection:
        job = imports.find_job(connection, datastore_id, told.job_id, told.job_name)
    if job is None or datastore_id != deps.datastore_id:
        logger.info("job_event_of_others", extra={"job_id": told.job_id})
        return
    if job.state not in imports.UNFINISHED:
        return
    if told.status == "FAILED":  # the event does not say why
        told = healthimaging.get_import_job(deps.client, deps.datastore_id, told.job_id)
    _apply(deps, job, told)


def follow_job(deps: Dependencies, job: Job) -> None:
    """Ask the service about a job under way, and act on the answer.

    Raises:
        TransientError: the service or the store did not answer.
    """
    assert job.job_id is not None  # a job under way has the service's id
    try:
        told = healthimaging.get_import_job(deps.client, deps.datastore_id, job.job_id)
    except JobNotFoundError:
        _settle_failed(deps, job, "the service does not know the job any more", None)
        return
    _apply(deps, job, told)


def _apply(deps: Dependencies, job: Job, told: ImportJob) -> None:
    now = deps.clock()
    if told.status in STATES:
        with deps.engine.begin() as connection:
            imports.record_running(connection, job, told.job_id, STATES[told.status], now + LOOK_AGAIN, now)
    elif told.status == "COMPLETED":
        _settle_completed(deps, job, told)
    elif told.status == "FAILED":
        _settle_failed(deps, job, told.message or "the job failed without a message", told)
    else:
        raise PermanentError(f"job status {told.status!r} is unknown")


def _settle_completed(deps: Dependencies, job: Job, told: ImportJob) -> None:
    """Read a completed job's results; while they are not all there, come back for them a number of times."""
    prefix = results_prefix(told.output_s3_uri or job.output_s3_uri, deps.bucket, deps.datastore_id, told.job_id)
    try:
        results = read_results(deps.store, prefix)
        files = _by_key(results)
        reason = _missing(results, files)
    except TransientError as error:
        results, files, reason = JobResults(deps.store, prefix, None), {}, str(error)
    if reason is not None and job.attempts < MAX_RESULT_ATTEMPTS:
        _postpone(deps, job, told, reason)
        return
    _record(deps, job, told, results, files, reason)


def _postpone(deps: Dependencies, job: Job, told: ImportJob, reason: str) -> None:
    now = deps.clock()
    due_at = now + RESULTS_AGAIN * 2**job.attempts
    with deps.engine.begin() as connection:
        imports.record_running(connection, job, told.job_id, "in_progress", due_at, now)
        imports.postpone_job(connection, job, due_at, reason, now)
    wake_driver(deps, due_at, "results")


def _by_key(results: JobResults) -> dict[str, FileResult]:
    """Return one result per file: a warning says more than the success it comes with."""
    files: dict[str, FileResult] = {}
    for result in results.files():
        known = files.setdefault(result.object_key, result)
        if known.image_set is None and result.image_set is not None:
            files[result.object_key] = FileResult(known.object_key, known.outcome, result.image_set, known.reason)
    return files


def _missing(results: JobResults, files: Mapping[str, FileResult]) -> str | None:
    """Return what a complete result would have and this one lacks."""
    if results.manifest is None:
        return "the job's manifest is not there"
    scanned = results.manifest.scanned
    if scanned is not None and len(files) < scanned:
        return f"{len(files)} of {scanned} files have a result"
    return None


def _record(
    deps: Dependencies,
    job: Job,
    told: ImportJob,
    results: JobResults,
    files: Mapping[str, FileResult],
    reason: str | None,
) -> None:
    """Write everything a job brought in one transaction, if nobody has yet."""
    manifest = results.manifest
    counters = (
        (manifest.scanned, manifest.imported, manifest.customer_errors, manifest.server_errors)
        if manifest
        else (None, None, None, None)
    )
    with deps.engine.begin() as connection:
        rows = imports.series_of_job(connection, job)
    by_prefix = {row.input_prefix: row for row in rows}
    image_sets = _image_sets(deps, results, files, by_prefix)
    now = deps.clock()
    with deps.engine.begin() as connection:
        if not imports.finish_job(
            connection,
            job,
            "completed",
            now=now,
            job_id=told.job_id,
            ended_at=told.ended_at,
            message=reason,
            counters=counters,
        ):
            return
        outcomes.record_outcomes(connection, job, [_outcome(result, by_prefix) for result in files.values()])
        outcomes.record_image_sets(connection, deps.datastore_id, image_sets, now)
        for row in rows:
            imported = outcomes.count_imported(connection, job, row.series_import_id)
            state, message = _verdict(row, imported, files, reason)
            imports.finish_series(connection, row.series_import_id, job, state, message, now)
    _log_end(job, told, "completed", image_sets)
    _free_slot(deps)


def _outcome(result: FileResult, by_prefix: Mapping[str, Row[Any]]) -> Outcome:
    row = by_prefix.get(_folder(result.object_key))
    return Outcome(
        object_key=result.object_key,
        series_import_id=row.series_import_id if row else None,
        sop_instance_uid=unquote(result.object_key.rpartition("/")[2].removesuffix(".dcm")),
        outcome=result.outcome,
        image_set_id=result.image_set.image_set_id if result.image_set else None,
        reason=result.reason,
    )


def _verdict(
    row: Row[Any], imported: int, files: Mapping[str, FileResult], reason: str | None
) -> tuple[str, str | None]:
    """Return a series' state and what to say of it: completed only when every instance is in."""
    if imported == row.object_count:
        return "completed", None
    failed = [result for key, result in files.items() if _folder(key) == row.input_prefix and result.reason]
    because = next((result.reason for result in failed if result.outcome == "failed"), reason)
    message = f"{imported} of {row.object_count} instances imported; first reason: {because or 'none was given'}"
    return ("partial" if imported else "failed"), message


def _image_sets(
    deps: Dependencies, results: JobResults, files: Mapping[str, FileResult], by_prefix: Mapping[str, Row[Any]]
) -> list[StoredImageSet]:
    """Return the image sets of each series; what the results do not say of them is asked of the service."""
    listed = {item.image_set_id: item for item in (results.manifest.image_sets if results.manifest else ())}
    known: dict[str, tuple[int | None, bool | None]] = {}
    found = set()
    for key, result in files.items():
        row = by_prefix.get(_folder(key))
        if result.image_set is None or row is None:
            continue
        image_set_id = result.image_set.image_set_id
        if image_set_id not in known:
            in_manifest = listed.get(image_set_id, result.image_set)
            version = in_manifest.version or result.image_set.version
            primary = in_manifest.is_primary if in_manifest.is_primary is not None else result.image_set.is_primary
            if version is None or primary is None:
                asked = healthimaging.get_image_set(deps.client, deps.datastore_id, image_set_id)
                version, primary = version or asked.version, asked.is_primary if primary is None else primary
            known[image_set_id] = (version, primary)
        found.add(StoredImageSet(row.series_instance_uid, image_set_id, *known[image_set_id]))
    return list(found)


def _settle_failed(deps: Dependencies, job: Job, message: str, told: ImportJob | None) -> None:
    """End a job that failed; its series are queued again a number of times, then wait for an operator."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        if not imports.finish_job(
            connection,
            job,
            "failed",
            now=now,
            job_id=told.job_id if told else None,
            ended_at=told.ended_at if told else None,
            message=message,
        ):
            return
        for row in imports.series_of_job(connection, job):
            if row.attempts < MAX_SERIES_ATTEMPTS and not message.startswith(NOT_RETRIED):
                not_before = now + REQUEUE_AFTER * 4 ** (row.attempts - 1)
                imports.requeue_series(connection, row.series_import_id, job, not_before, message, now)
            else:
                imports.finish_series(connection, row.series_import_id, job, "failed", message, now)
    _log_end(job, told, "failed", [])
    _free_slot(deps)


def _free_slot(deps: Dependencies) -> None:
    """Wake the driver when a series waits for the slot that is free now, or for its next attempt."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        is_ready = imports.count_ready_series(connection, now) > 0
        later = imports.next_series_due(connection, now)
    if is_ready:
        wake_driver(deps, now, "slot")
    elif later is not None:
        wake_driver(deps, later, "retry")


def _log_end(job: Job, told: ImportJob | None, state: str, image_sets: list[StoredImageSet]) -> None:
    logger.info(
        "import_job_ended",
        extra={"import_job_id": job.import_job_id, "job_id": told.job_id if told else job.job_id, "state": state},
    )
    for item in image_sets:
        if item.is_primary is False:
            logger.warning(
                "image_set_not_primary",
                extra={"image_set_id": item.image_set_id, "series_instance_uid": item.series_instance_uid},
            )


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"


def _event_time(document: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(document["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None
