"""From a job's events to its end: what the service says of a job, by an event or when it is asked.

Events come in any order, repeated or not at all; a job ends once in the catalog all the same.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dicomflow.catalog import jobs
from dicomflow.catalog.jobs import GIVEN_UP, UNFINISHED, Job
from dicomflow.errors import PermanentError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImportJob, JobNotFoundError
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.settle import give_up, settle_completed, settle_failed

__all__ = ["LOOK_AGAIN", "collect_event", "follow_job"]

logger = logging.getLogger(__name__)

EVENT_SOURCE: Final = "aws.medical-imaging"
JOB_EVENT: Final = "Import Job "
LOOK_AGAIN: Final = timedelta(seconds=60)
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
        job = jobs.find_job(connection, datastore_id, told.job_id, told.job_name)
    if job is None:
        logger.info("job_event_of_others", extra={"job_id": told.job_id})
        return
    deps = replace(deps, datastore_id=job.datastore_id)  # it may be of a store that was here before
    if job.state == GIVEN_UP:
        if told.status == "COMPLETED":  # later than we had patience for, and good all the same
            settle_completed(deps, job, told)
        return
    if job.state not in UNFINISHED:
        return
    if told.status == "FAILED":  # the event does not say why
        told = healthimaging.get_import_job(deps.client, deps.datastore_id, told.job_id)
    _apply(deps, job, told)


def follow_job(deps: Dependencies, job: Job) -> None:
    """Ask the service about a job under way, and act on the answer; one that hangs is given up.

    Raises:
        TransientError: the service or the store did not answer.
    """
    assert job.job_id is not None  # a job under way has the service's id
    deps = replace(deps, datastore_id=job.datastore_id)  # it may be of a store that was here before
    try:
        told = healthimaging.get_import_job(deps.client, deps.datastore_id, job.job_id)
    except JobNotFoundError:
        settle_failed(deps, job, "the service does not know the job any more", None)
        return
    if told.status in STATES and job.submitted_at is not None and deps.clock() - job.submitted_at > deps.job_limit:
        give_up(deps, job, told)
        return
    _apply(deps, job, told)


def _apply(deps: Dependencies, job: Job, told: ImportJob) -> None:
    now = deps.clock()
    if told.status in STATES:
        with deps.engine.begin() as connection:
            jobs.record_running(connection, job, told.job_id, STATES[told.status], now + LOOK_AGAIN, now)
    elif told.status == "COMPLETED":
        settle_completed(deps, job, told)
    elif told.status == "FAILED":
        settle_failed(deps, job, told.message or "the job failed without a message", told)
    else:
        raise PermanentError(f"job status {told.status!r} is unknown")


def _event_time(document: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(document["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None
