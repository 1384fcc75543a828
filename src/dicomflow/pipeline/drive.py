"""The driver: starts import jobs within the service's limits, and follows those nobody has heard of.

Claim first, then call: a job is claimed in the catalog in one transaction, and started with a token from its rows, so
that a crash at any point starts no second job and loses none. Any number of drivers may run at once.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from sqlalchemy import Connection

from dicomflow.catalog import imports, jobs
from dicomflow.catalog.deliveries import next_report_due
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.states import JobState, SeriesState
from dicomflow.errors import DicomflowError, PermanentError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ThrottledError
from dicomflow.pipeline.claim import (
    CLAIM_SECONDS,
    FIRST_BACKOFF,
    MAX_START_ATTEMPTS,
    Prepared,
    backoff,
    claim_next,
    next_call_at,
    prepare,
    reason_of,
)
from dicomflow.pipeline.collect import LOOK_AGAIN, follow_job
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.feedback import FEEDBACK_AGAIN, send_feedback
from dicomflow.pipeline.metrics import Name, after_commit
from dicomflow.pipeline.retention import expire_objects
from dicomflow.pipeline.staging import clear_staging, stage_objects
from dicomflow.pipeline.wakeups import acknowledge, wake_driver

__all__ = ["DriveResult", "drive"]

logger = logging.getLogger(__name__)

MAX_STARTS: Final = 20
MAX_STEPS: Final = 400
"""Of a run, with the series that need no job: it is to end long before its time is over."""
MAX_LOOKS: Final = 50
MAX_FAILURES: Final = 3
"""Starts of a run that got no answer: one may be to blame for itself, three are not, and each takes a minute."""
RENEW_AFTER: Final = timedelta(seconds=CLAIM_SECONDS / 3)
IDLE_PAUSE: Final = timedelta(seconds=1)


class ClaimLostError(DicomflowError):
    """Another driver has taken the job over."""


class _Step(Enum):
    """What came of an attempt to start a job: a job, nothing but another may, no answer, or nothing for now."""

    STARTED = auto()
    WENT_ON = auto()
    FAILED = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class DriveResult:
    """What one run did: jobs started, jobs looked at, and when the driver is needed next."""

    started: int
    looked_at: int
    due_at: datetime | None


def drive(deps: Dependencies, body: str = "{}") -> DriveResult:
    """Start and follow what is due, then send the wake-up for the rest; `body` is the message that woke the driver.

    What goes wrong with one job, series or delivery is recorded with it; only a database that fails ends the run.
    """
    acknowledge(deps, body)
    looked_at = started = steps = 0
    while looked_at < MAX_LOOKS and _look_at_one(deps):
        looked_at += 1
    failed = 0
    prepared = Prepared()
    while deps.import_enabled and started < MAX_STARTS and steps < MAX_STEPS and failed < MAX_FAILURES:
        step = _start_next(deps, prepared)
        if step is _Step.STOPPED:
            break
        started += step is _Step.STARTED
        failed += step is _Step.FAILED
        steps += 1
    send_feedback(deps)
    has_more_to_expire = _expire(deps)
    is_cut_short = looked_at == MAX_LOOKS or started == MAX_STARTS or steps == MAX_STEPS or has_more_to_expire
    due_at = _next_due(deps, is_cut_short=is_cut_short)
    if due_at is not None:
        if looked_at == steps == 0:  # whatever kept this run from its work keeps the next one too
            due_at = max(due_at, deps.clock() + IDLE_PAUSE)
        wake_driver(deps, due_at, "sweep")
    return DriveResult(started, looked_at, due_at)


def _expire(deps: Dependencies) -> bool:
    """Delete what has been kept for long enough; a failure is not the imports', and the next run tries again."""
    try:
        return expire_objects(deps)
    except Exception:  # the boundary between two kinds of work
        logger.exception("objects_not_expired")
        return False


def _look_at_one(deps: Dependencies) -> bool:
    """Follow one job that is due; False when none is."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        job = jobs.take_due_job(connection, now, now + LOOK_AGAIN)
    if job is None:
        return False
    follow_job(deps, job)
    return True


def _start_next(deps: Dependencies, prepared: Prepared) -> _Step:
    """Claim and start one job, or prepare the series that are next for one."""
    found = claim_next(deps, prepared)
    if found is None:
        return _Step.STOPPED
    if isinstance(found, Job):
        return _start(deps, found)
    try:
        prepare(deps, found, prepared)
    except ThrottledError as error:
        logger.warning("import_starts_stopped", extra={"error": str(error)})
        return _Step.STOPPED
    return _Step.WENT_ON


def _start(deps: Dependencies, job: Job) -> _Step:
    """Start a claimed job; one that cannot be started is kept for later, or ended with the reason."""
    try:
        _call(deps, job)
    except ClaimLostError:
        logger.warning("import_job_taken_over", extra={"import_job_id": job.import_job_id})
        return _Step.WENT_ON
    except ThrottledError as error:
        _pause(deps, job, str(error))
        return _Step.STOPPED
    except Exception as error:
        if not isinstance(error, DicomflowError):
            logger.exception("import_job_not_started", extra={"import_job_id": job.import_job_id})
        if isinstance(error, PermanentError) or job.attempts + 1 >= MAX_START_ATTEMPTS:
            _refuse(deps, job, reason_of(error))
            return _Step.WENT_ON
        _put_off(deps, job, reason_of(error))
        return _Step.FAILED
    return _Step.STARTED


def _call(deps: Dependencies, job: Job) -> None:
    """Make the copies that a job takes, start it, and record that."""
    if job.is_staged:
        stage_objects(deps, job, _Claim(deps, job).renew, is_last_attempt=job.attempts + 1 >= MAX_START_ATTEMPTS)
    started = healthimaging.start_import_job(
        deps.client,
        datastore_id=job.datastore_id,
        job_name=job.job_name,
        client_token=job.client_token,
        data_access_role_arn=deps.data_access_role_arn,
        input_s3_uri=job.input_s3_uri,
        output_s3_uri=job.output_s3_uri,
    )
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


class _Claim:
    """A job that this driver holds until a time, which it puts off. Thread: one owner."""

    def __init__(self, deps: Dependencies, job: Job) -> None:
        self._deps, self._job = deps, job
        self._renewed_at = deps.clock()

    def renew(self) -> None:
        """Put the time off, when a third of it has passed.

        Raises:
            ClaimLostError: another driver has the job.
        """
        now = self._deps.clock()
        if timedelta() <= now - self._renewed_at < RENEW_AFTER:
            return
        with self._deps.engine.begin() as connection:
            job = jobs.renew_claim(connection, self._job, now + timedelta(seconds=CLAIM_SECONDS), now)
        if job is None:
            raise ClaimLostError(f"job {self._job.import_job_id} is another driver's")
        self._job, self._renewed_at = job, now


def _pause(deps: Dependencies, job: Job, message: str) -> None:
    """Let no driver start anything for a while; the claimed job is the first after it, with the same token."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        jobs.lock_claims(connection)
        until = jobs.pause_starts(connection, deps.datastore_id, now, FIRST_BACKOFF, LONGEST_PUT_OFF)
        jobs.postpone_job(connection, job, until, message, now, is_counted=False)
    logger.warning("import_starts_paused", extra={"until": until.isoformat(), "error": message})


def _put_off(deps: Dependencies, job: Job, message: str) -> None:
    """Keep a claimed job for a later call with the same token: it may have been started although we heard otherwise."""
    now = deps.clock()
    with deps.engine.begin() as connection:
        jobs.postpone_job(connection, job, now + backoff(job.attempts), message, now)
        imports.note_trouble(connection, job.import_job_id, message, now)
    logger.warning(
        "import_job_put_off",
        extra={"import_job_id": job.import_job_id, "attempts": job.attempts + 1, "error": message},
    )


def _refuse(deps: Dependencies, job: Job, message: str) -> None:
    """End a job that the service will not take; its series wait for an operator."""
    now = deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if not jobs.finish_job(connection, job, JobState.FAILED, now=now, message=message):
            return
        for row in imports.series_of_job(connection, job.import_job_id):
            imports.finish_series(connection, row.series_import_id, job.import_job_id, SeriesState.FAILED, message, now)
            counts[Name.IMPORTS_FAILED] += 1
    clear_staging(deps, job)
    logger.warning("import_job_refused", extra={"import_job_id": job.import_job_id, "error": message})


def _next_due(deps: Dependencies, *, is_cut_short: bool) -> datetime | None:
    """Return when there is something to do again; None when nothing is queued or unfinished."""
    now = deps.clock()
    if is_cut_short:
        return now
    with deps.engine.begin() as connection:
        times = [jobs.next_job_due(connection, (JobState.SUBMITTED, JobState.IN_PROGRESS), now)]
        if deps.import_enabled:
            times.append(imports.next_series_due(connection, now))
            times.append(_next_start_at(deps, connection, now))
        if (report_due := next_report_due(connection, now)) is not None:
            times.append(max(report_due, now + FEEDBACK_AGAIN))
    return min((time for time in times if time is not None), default=None)


def _next_start_at(deps: Dependencies, connection: Connection, now: datetime) -> datetime | None:
    """Return when the next job can be started; None when nothing is ready or every slot is taken."""
    call_at = next_call_at(deps, connection, now)
    has_slot = jobs.count_unfinished_jobs(connection, deps.datastore_id) < deps.concurrent_imports
    if has_slot and imports.count_ready_series(connection, now, 1) > 0:
        return call_at
    put_off = jobs.next_job_due(connection, (JobState.CLAIMED,), now)
    return None if put_off is None else max(put_off, call_at)
