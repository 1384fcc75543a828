"""The driver: starts import jobs within the service's limits, and follows those nobody has heard of.

Claim first, then call: a job is claimed in the catalog in one transaction, and started with a token from its rows, so
that a crash at any point starts no second job and loses none. Any number of drivers may run at once.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from dicomflow.catalog import imports, jobs, outcomes
from dicomflow.catalog.deliveries import has_delivery_to_report
from dicomflow.catalog.jobs import Job
from dicomflow.errors import InternalError, PermanentError, TransientError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import StartedJob, ThrottledError
from dicomflow.healthimaging.limits import MAX_BYTES, MAX_FILES
from dicomflow.pipeline.collect import LOOK_AGAIN, follow_job
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.feedback import send_feedback
from dicomflow.pipeline.metrics import Counts, Name, after_commit
from dicomflow.pipeline.staging import MAX_COPY_BYTES, clear_staging, stage_objects
from dicomflow.pipeline.wakeups import acknowledge, wake_driver

__all__ = ["DriveResult", "drive"]

logger = logging.getLogger(__name__)

START_BURST: Final = 2
MAX_STARTS: Final = 20
MAX_LOOKS: Final = 50
LONGEST_WAIT: Final = timedelta(seconds=10)
"""The queue is long when its last series, each having a job of its own, would wait longer than this."""
CLAIM_SECONDS: Final = 75  # longer than one call can take
IDLE_PAUSE: Final = timedelta(seconds=1)
FEEDBACK_AGAIN: Final = timedelta(seconds=5)
FIRST_BACKOFF: Final = timedelta(seconds=2)
LONGEST_BACKOFF: Final = timedelta(seconds=300)
MAX_START_ATTEMPTS: Final = 15


@dataclass(frozen=True, slots=True)
class DriveResult:
    """What one run did: jobs started, jobs looked at, and when the driver is needed next."""

    started: int
    looked_at: int
    due_at: datetime | None


def drive(deps: Dependencies, body: str = "{}") -> DriveResult:
    """Start and follow what is due, then send the wake-up for the rest; `body` is the message that woke the driver."""
    acknowledge(deps, body)
    looked_at = started = 0
    while looked_at < MAX_LOOKS and _look_at_one(deps):
        looked_at += 1
    if deps.import_enabled:
        while started < MAX_STARTS and _start_one(deps):
            started += 1
    _tell_edges(deps)
    due_at = _next_due(deps, is_cut_short=looked_at == MAX_LOOKS or started == MAX_STARTS)
    if due_at is not None:
        if started == looked_at == 0:  # whatever kept this run from its work keeps the next one too
            due_at = max(due_at, deps.clock() + IDLE_PAUSE)
        wake_driver(deps, due_at, "sweep")
    return DriveResult(started, looked_at, due_at)


def _look_at_one(deps: Dependencies) -> bool:
    """Follow one job that is due; False when none is."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        job = jobs.take_due_job(connection, now, now + LOOK_AGAIN)
    if job is None:
        return False
    try:
        follow_job(deps, job)
    except TransientError as error:
        logger.warning("import_job_not_followed", extra={"import_job_id": job.import_job_id, "error": str(error)})
    return True


def _start_one(deps: Dependencies) -> bool:
    """Claim and start one job; False when no call is allowed or nothing is ready."""
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        job = _claim(deps, connection, counts)
    if job is None:
        return False
    try:
        started = _call(deps, job)
    except ThrottledError as error:
        _pause(deps, job, str(error))
        return False
    except PermanentError as error:
        _refuse(deps, job, str(error))
        return True
    except TransientError as error:
        if job.attempts + 1 >= MAX_START_ATTEMPTS:
            _refuse(deps, job, str(error))
            return True
        _put_off(deps, job, str(error))
        return False
    now = deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        jobs.record_submitted(connection, job, started.job_id, started.submitted_at, now + LOOK_AGAIN, now)
        jobs.clear_pause(connection, deps.datastore_id)
        rows = imports.series_of_job(connection, job.import_job_id)
        counts[Name.IMPORTS_STARTED] += len(rows)
    logger.info(
        "import_job_started",
        extra={
            "import_job_id": job.import_job_id,
            "job_id": started.job_id,
            "deliveries": sorted({row.delivery_id for row in rows}),
            "series": len(rows),
        },
    )
    return True


def _call(deps: Dependencies, job: Job) -> StartedJob:
    if job.is_staged:
        stage_objects(deps, job)
    return healthimaging.start_import_job(
        deps.client,
        datastore_id=job.datastore_id,
        job_name=job.job_name,
        client_token=job.client_token,
        data_access_role_arn=deps.data_access_role_arn,
        input_s3_uri=job.input_s3_uri,
        output_s3_uri=job.output_s3_uri,
    )


def _claim(deps: Dependencies, connection: Connection, counts: Counts) -> Job | None:
    """Take the next job to start, if rate and concurrency allow one: first those claimed before, then new ones."""
    now = deps.clock()
    due_at = now + timedelta(seconds=CLAIM_SECONDS)
    jobs.lock_claims(connection)
    if _next_call_at(deps, connection, now) > now:
        return None
    job = jobs.retake_claimed_job(connection, now, due_at)
    if job is not None:
        return job
    if jobs.count_unfinished_jobs(connection, deps.datastore_id) >= deps.concurrent_imports:
        return None
    ahead = timedelta(seconds=imports.count_ready_series(connection, now) / deps.start_rate)
    together_before = now - max(LONGEST_WAIT - ahead, timedelta())
    while job is None:
        found = imports.next_ready_series(
            connection, now, max_files=MAX_FILES, max_bytes=MAX_BYTES, together_before=together_before
        )
        if found is None:
            return None
        job = _claim_series(deps, connection, counts, *found, now, due_at)
    return job


def _claim_series(
    deps: Dependencies,
    connection: Connection,
    counts: Counts,
    prefix: str,
    rows: Sequence[Row[Any]],
    now: datetime,
    due_at: datetime,
) -> Job | None:
    """Claim a job for what is not in yet of these series; None when the first needs no job, or no job can take it."""
    for row in rows:
        outcomes.adopt_outcomes(connection, row)
    left = [outcomes.objects_left(connection, row) for row in rows]
    if any(len(objects) < row.object_count for objects, row in zip(left, rows, strict=True)):
        prefix, rows, left = rows[0].input_prefix, rows[:1], left[:1]
    row, objects = rows[0], [item for items in left for item in items]
    if not objects:
        imports.complete_series(connection, row.series_import_id, "unchanged: every instance was in already", now)
        counts[Name.IMPORTS_COMPLETED] += 1
        return None
    is_staged = len(objects) < sum(row.object_count for row in rows) and all(
        item.bytes <= MAX_COPY_BYTES for item in objects
    )
    files = len(objects) if is_staged else sum(row.object_count for row in rows)
    size = sum(item.bytes for item in objects) if is_staged else sum(row.bytes for row in rows)
    if files > MAX_FILES or size > MAX_BYTES:
        message = f"{files} files of {size} bytes exceed a job's limits of {MAX_FILES} files and {MAX_BYTES} bytes"
        imports.refuse_series(connection, row.series_import_id, message, now)
        counts[Name.IMPORTS_FAILED] += 1
        return None
    job = jobs.claim_job(connection, deps.target, prefix, rows, now, due_at, is_staged=is_staged)
    if job is None:
        raise InternalError(f"series import {row.series_import_id} has a job of attempt {row.attempts + 1} already")
    return job


def _next_call_at(deps: Dependencies, connection: Connection, now: datetime) -> datetime:
    """Return when the next call is within the rate, and not in a pause.

    The rate: at most a burst of calls in the time a burst takes to refill.
    """
    calls = jobs.recent_calls(connection, deps.datastore_id, START_BURST)
    next_at = now if len(calls) < START_BURST else calls[-1] + timedelta(seconds=START_BURST / deps.start_rate)
    return max(next_at, jobs.paused_until(connection, deps.datastore_id) or next_at)


def _pause(deps: Dependencies, job: Job, message: str) -> None:
    """Let no driver start anything for a while; the claimed job is the first after it, with the same token."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        jobs.lock_claims(connection)
        until = jobs.pause_starts(connection, deps.datastore_id, now, FIRST_BACKOFF, LONGEST_BACKOFF)
        jobs.postpone_job(connection, job, until, message, now, is_counted=False)
    logger.warning("import_starts_paused", extra={"until": until.isoformat(), "error": message})


def _put_off(deps: Dependencies, job: Job, message: str) -> None:
    """Keep a claimed job for a later call with the same token: it may have been started although we heard otherwise."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        jobs.postpone_job(connection, job, now + min(FIRST_BACKOFF * 2**job.attempts, LONGEST_BACKOFF), message, now)
    logger.warning(
        "import_job_put_off",
        extra={"import_job_id": job.import_job_id, "attempts": job.attempts + 1, "error": message},
    )


def _refuse(deps: Dependencies, job: Job, message: str) -> None:
    """End a job that the service will not take; its series wait for an operator."""
    now = deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if not jobs.finish_job(connection, job, "failed", now=now, message=message):
            return
        for row in imports.series_of_job(connection, job.import_job_id):
            imports.finish_series(connection, row.series_import_id, job.import_job_id, "failed", message, now)
            counts[Name.IMPORTS_FAILED] += 1
    clear_staging(deps, job)
    logger.warning("import_job_refused", extra={"import_job_id": job.import_job_id, "error": message})


def _tell_edges(deps: Dependencies) -> None:
    try:
        send_feedback(deps)
    except TransientError as error:  # `_next_due` brings the driver back for it
        logger.warning("feedback_not_sent", extra={"error": str(error)})


def _next_due(deps: Dependencies, *, is_cut_short: bool) -> datetime | None:
    """Return when there is something to do again; None when nothing is queued or unfinished."""
    now = deps.clock()
    if is_cut_short:
        return now
    with deps.engine.begin() as connection:
        times = [jobs.next_job_due(connection, ("submitted", "in_progress"))]
        if deps.import_enabled:
            times.append(imports.next_series_due(connection, now))
            times.append(_next_start_at(deps, connection, now))
        if has_delivery_to_report(connection):
            times.append(now + FEEDBACK_AGAIN)
    return min((time for time in times if time is not None), default=None)


def _next_start_at(deps: Dependencies, connection: Connection, now: datetime) -> datetime | None:
    """Return when the next job can be started; None when nothing is ready or every slot is taken."""
    next_call_at = _next_call_at(deps, connection, now)
    has_slot = jobs.count_unfinished_jobs(connection, deps.datastore_id) < deps.concurrent_imports
    if has_slot and imports.count_ready_series(connection, now) > 0:
        return next_call_at
    put_off = jobs.next_job_due(connection, ("claimed",))
    return None if put_off is None else max(put_off, next_call_at)
