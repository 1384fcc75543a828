"""The call: a claimed job is started at the service, within its limits.

A job is claimed in the catalog in one transaction, and started with a token from its rows, so that a crash at any
point starts no second job and loses none. Any number of drivers may do it at once.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from dicomflow.catalog import imports, jobs, pace
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.states import JobState
from dicomflow.errors import DicomflowError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ThrottledError
from dicomflow.pipeline.claim import (
    CLAIM_SECONDS,
    FIRST_BACKOFF,
    MAX_START_ATTEMPTS,
    MAX_STEPS,
    Prepared,
    backoff,
    claim_next,
    is_vain,
    reason_of,
)
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.follow import LOOK_AGAIN
from dicomflow.pipeline.metrics import Name, after_commit
from dicomflow.pipeline.settle import end_without_results
from dicomflow.pipeline.staging import stage_objects

__all__ = ["Started", "start_jobs"]

logger = logging.getLogger(__name__)

MAX_STARTS: Final = 20
MAX_FAILURES: Final = 3
"""Starts of a run that got no answer: one may be to blame for itself, three are not, and each takes a minute."""
RENEW_AFTER: Final = timedelta(seconds=CLAIM_SECONDS / 3)


class ClaimLostError(DicomflowError):
    """Another driver has taken the job over."""


class _Call(Enum):
    """What came of a call: a job, nothing but another may, no answer, or nothing for now."""

    STARTED = auto()
    REFUSED = auto()
    FAILED = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class Started:
    """What a run has started: the jobs, the steps it took, and whether there may be more to start at once."""

    jobs: int = 0
    steps: int = 0
    is_cut_short: bool = False


def start_jobs(deps: Dependencies) -> Started:
    """Claim and start jobs until the service's limits, those of a run, or nothing ready are reached."""
    prepared = Prepared()
    calls: list[_Call] = []
    while calls.count(_Call.STARTED) < MAX_STARTS and calls.count(_Call.FAILED) < MAX_FAILURES:
        job = claim_next(deps, prepared)
        if job is None:
            break
        calls.append(_start(deps, job))
        if calls[-1] is _Call.STOPPED:
            break
    started = calls.count(_Call.STARTED)
    return Started(started, prepared.steps, started == MAX_STARTS or prepared.steps >= MAX_STEPS)


def _start(deps: Dependencies, job: Job) -> _Call:
    """Start a claimed job; one that cannot be started is kept for later, or ended with the reason."""
    try:
        _call(deps, job)
    except ClaimLostError:
        logger.warning("import_job_taken_over", extra={"import_job_id": job.import_job_id})
        return _Call.REFUSED
    except ThrottledError as error:
        _pause(deps, job, str(error))
        return _Call.STOPPED
    except Exception as error:
        if not isinstance(error, DicomflowError):
            logger.exception("import_job_not_started", extra={"import_job_id": job.import_job_id})
        if is_vain(error, job.attempts):
            end_without_results(deps, job, JobState.FAILED, reason_of(error), is_final=True)
            return _Call.REFUSED
        _put_off(deps, job, reason_of(error))
        return _Call.FAILED
    return _Call.STARTED


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
        pace.clear_pause(connection, deps.datastore_id)
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
        pace.lock_claims(connection)
        until = pace.pause_starts(connection, deps.datastore_id, now, FIRST_BACKOFF, LONGEST_PUT_OFF)
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
