"""From a job's end to the catalog: outcomes of every instance, image sets, and what became of each series.

Everything a job brought is written in one transaction, by whoever comes first. Whatever goes wrong with one job is
kept with that job and shown with its series: it is tried again, later each time, and holds no slot once the service has
ended it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from sqlalchemy import Connection, Row

from dicomflow.bucket.keys import sop_of_key
from dicomflow.catalog import imports, jobs, outcomes
from dicomflow.catalog.hidden import why_hidden
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.outcomes import Outcome, StoredImageSet, record_image_sets, record_outcomes
from dicomflow.catalog.states import UNFINISHED, InstanceState, JobState, SeriesState
from dicomflow.errors import DicomflowError, PermanentError, TransientError, pause_after
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImageSet, ImportJob
from dicomflow.healthimaging.primary import conflicts_of_study
from dicomflow.healthimaging.results import (
    AllResults,
    FileResult,
    Manifest,
    read_all_results,
    results_prefix,
)
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.metrics import Counts, Name, after_commit
from dicomflow.pipeline.staging import clear_staging

__all__ = [
    "MAX_RESULT_ATTEMPTS",
    "MAX_SERIES_ATTEMPTS",
    "RESULTS_AGAIN",
    "ObjectResult",
    "end_without_results",
    "give_up",
    "image_sets_of",
    "keep_trouble",
    "record_results",
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


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """A file's result with the key of its object, and the series it is of, where that is known."""

    key: str
    result: FileResult
    series: Row[Any] | None


def settle_completed(deps: Dependencies, job: Job, told: ImportJob) -> None:
    """Read a completed job's results; while they are not all there, come back for them a number of times."""
    try:
        _settle_completed(deps, job, told)
    except Exception as error:
        if job.state == JobState.GIVEN_UP:  # nobody looks at it again: the event that told of its end comes back
            raise
        keep_trouble(deps, job, told, error)


def settle_failed(deps: Dependencies, job: Job, message: str, told: ImportJob | None) -> None:
    """End a job that failed; its series are queued again a number of times, then wait for an operator."""
    end_without_results(deps, job, JobState.FAILED, message, told, is_final=message.startswith(NOT_RETRIED))


def give_up(deps: Dependencies, job: Job, told: ImportJob) -> None:
    """Stop waiting for a job that hangs; its series go on as after a failure. It may still end, and then counts."""
    message = f"the job was {told.status} for more than {deps.job_limit}, and was given up"
    end_without_results(deps, job, JobState.GIVEN_UP, message, told, is_final=False)


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
        end_without_results(deps, job, JobState.GIVEN_UP, message, is_final=False)
    elif told is not None and (is_old or is_vain):
        end_without_results(deps, job, JobState.FAILED, message, told, is_final=True)
    else:
        _postpone(deps, job, told, message)


def end_without_results(
    deps: Dependencies, job: Job, state: JobState, message: str, told: ImportJob | None = None, *, is_final: bool
) -> None:
    """End a job that brought nothing; its series are queued again a number of times, unless this is final."""
    now = deps.clock()
    job_id, ended_at = (told.job_id, told.ended_at) if told else (None, None)
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if not jobs.finish_job(connection, job, state, now=now, job_id=job_id, ended_at=ended_at, message=message):
            return
        for row in imports.series_of_job(connection, job.import_job_id):
            _retry_or_end(connection, counts, row, job, SeriesState.FAILED, message, now, is_final=is_final)
    _after_end(deps, job, job_id, state, message)


def image_sets_of(manifest: Manifest, found: Iterable[ObjectResult]) -> list[StoredImageSet]:
    """Return the image sets of each series, as the manifest tells of them or else a result."""
    listed = {item.image_set_id: item for item in manifest.image_sets}
    known: dict[tuple[int, str], StoredImageSet] = {}
    for each in found:
        own = each.result.image_set
        if own is None or each.series is None:
            continue
        told = listed.get(own.image_set_id, own)
        of_series = each.series.study_instance_uid, each.series.series_instance_uid
        known.setdefault(
            (each.series.series_import_id, own.image_set_id),
            StoredImageSet(
                *of_series,
                own.image_set_id,
                told.version or own.version,
                told.is_primary if told.is_primary is not None else own.is_primary,
            ),
        )
    return list(known.values())


def record_results(
    connection: Connection,
    import_job_id: int,
    datastore_id: str,
    found: Iterable[ObjectResult],
    image_sets: Iterable[StoredImageSet],
    now: datetime,
) -> None:
    """Record what a job brought; a repeat changes nothing."""
    outcomes = (
        Outcome(
            object_key=each.key,
            series_import_id=each.series.series_import_id if each.series is not None else None,
            sop_instance_uid=sop_of_key(each.key),
            outcome=each.result.outcome,
            image_set_id=each.result.image_set.image_set_id if each.result.image_set else None,
            reason=each.result.reason,
        )
        for each in found
    )
    record_outcomes(connection, import_job_id, outcomes)
    record_image_sets(connection, datastore_id, image_sets, now)


def _settle_completed(deps: Dependencies, job: Job, told: ImportJob) -> None:
    is_patient = job.attempts < MAX_RESULT_ATTEMPTS and job.state in UNFINISHED
    prefix = results_prefix(told.output_s3_uri or job.output_s3_uri, deps.bucket, job.datastore_id, told.job_id)
    results = read_all_results(deps.store, prefix, job.input_prefix)
    if results.missing is not None and is_patient:
        _postpone(deps, job, told, results.missing)
        return
    _record(deps, job, told, results, is_patient=is_patient)


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
    due_at = now + pause_after(job.attempts + 1, RESULTS_AGAIN, LONGEST_PUT_OFF)
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


def _record(deps: Dependencies, job: Job, told: ImportJob, results: AllResults, *, is_patient: bool) -> None:
    """Write everything a job brought in one transaction, if nobody has yet."""
    manifest, reason = results.manifest, results.missing
    by_folder = _series_by_folder(deps, job, results.files)
    found = [_object_result(result, by_folder) for result in results.files.values()]
    image_sets = _asked_for_rest(deps, job, image_sets_of(manifest, found), is_patient=is_patient)
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
            counters=manifest.counters,
        ):
            return
        record_results(connection, job.import_job_id, job.datastore_id, found, image_sets, now)
        for row in by_folder.values():
            failed = (each for each in found if each.series is row and each.result.outcome is InstanceState.FAILED)
            because = next((each.result.reason for each in failed if each.result.reason), reason)
            _settle_series(connection, counts, row, job, because, now, is_final=not manifest.counters.server_errors)
    _after_end(deps, job, told.job_id, JobState.COMPLETED, reason, image_sets)


def _series_by_folder(deps: Dependencies, job: Job, files: Mapping[str, FileResult]) -> dict[str, Row[Any]]:
    """Return the series of a job's files by the prefix these lie under.

    A job that was given up has lost its series to another job, and finds them by their prefixes.
    """
    with deps.engine.begin() as connection:
        rows = imports.series_of_job(connection, job.import_job_id)
        if job.is_staged:
            return {job.input_prefix: rows[-1]} if rows else {}
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
    because: str | None,
    now: datetime,
    *,
    is_final: bool,
) -> None:
    """Decide a series: completed only when every instance is in, by this job or an earlier one, and can be seen."""
    imported = outcomes.count_in(connection, row, job.datastore_id)
    if imported >= row.object_count:
        why = why_hidden(connection, row, job.datastore_id)
        state = SeriesState.COMPLETED if why is None else SeriesState.HIDDEN
        if imports.finish_series(
            connection, row.series_import_id, job.import_job_id, state, why, now
        ) or imports.complete_series(connection, row.series_import_id, state, why, now):
            counts[Name.IMPORTS_COMPLETED if why is None else Name.IMPORTS_HIDDEN] += 1
        return
    message = f"{imported} of {row.object_count} instances imported; first reason: {because or 'none was given'}"
    state = SeriesState.PARTIAL if imported else SeriesState.FAILED
    _retry_or_end(connection, counts, row, job, state, message, now, is_final=is_final)


def _object_result(result: FileResult, by_folder: Mapping[str, Row[Any]]) -> ObjectResult:
    """Return a file's result under the key of the object, of which a staged file is a copy."""
    row = by_folder.get(_folder(result.object_key))
    name = result.object_key.rpartition("/")[2]
    return ObjectResult(row.input_prefix + name if row is not None else result.object_key, result, row)


def _asked_for_rest(
    deps: Dependencies, job: Job, image_sets: Sequence[StoredImageSet], *, is_patient: bool
) -> list[StoredImageSet]:
    """Return image sets with what the results do not say of them, which is asked of the service.

    What it does not tell stays unknown, once there is no patience left: the outcomes are worth more.
    """

    @cache
    def ask(image_set_id: str) -> ImageSet | None:
        return _asked(
            lambda: healthimaging.get_image_set(deps.client, job.datastore_id, image_set_id), is_patient=is_patient
        )

    @cache
    def conflicts_of(study_instance_uid: str) -> Mapping[str, tuple[str, ...]]:
        search = partial(conflicts_of_study, deps.client, job.datastore_id, study_instance_uid)
        return _asked(search, is_patient=is_patient) or {}

    told = []
    for item in image_sets:
        version, is_primary, differs_in = item.version, item.is_primary, None
        if (version is None or is_primary is None) and (answer := ask(item.image_set_id)):
            version = version or answer.version
            is_primary = answer.is_primary if is_primary is None else is_primary
        if is_primary is False:
            differs_in = conflicts_of(item.study_instance_uid).get(item.image_set_id)
        told.append(replace(item, version=version, is_primary=is_primary, differs_in=differs_in))
    return told


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
    deps: Dependencies,
    job: Job,
    job_id: str | None,
    state: JobState,
    reason: str | None,
    image_sets: Sequence[StoredImageSet] = (),
) -> None:
    """Do what may be lost without harm: the log, and the copies."""
    ended = {"import_job_id": job.import_job_id, "job_id": job_id or job.job_id, "state": state}
    logger.info("import_job_ended", extra=ended if reason is None else {**ended, "error": reason})
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
    if job.is_staged and state is not JobState.GIVEN_UP:  # a job that hangs may still read them
        clear_staging(deps, job)


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"
