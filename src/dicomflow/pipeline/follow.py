"""From a job's events to its end: what the service says of a job, by an event or when it is asked.

Events come in any order, repeated or not at all; a job ends once in the catalog all the same. What goes wrong with one
job is kept with it, and is nobody else's.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dicomflow.catalog import jobs
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.states import UNFINISHED, JobState
from dicomflow.errors import PermanentError
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImportJob, JobNotFoundError, JobStatus
from dicomflow.healthimaging.results import ID_LENGTH, UNSTORABLE, clean_text
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.settle import give_up, keep_trouble, settle_completed, settle_failed
from dicomflow.pipeline.tell import tell

__all__ = ["LOOK_AGAIN", "MAX_LOOKS", "collect_event", "follow_jobs"]

logger = logging.getLogger(__name__)

EVENT_SOURCE: Final = "aws.medical-imaging"
JOB_EVENT: Final = "Import Job "
LOOK_AGAIN: Final = timedelta(seconds=60)
MAX_LOOKS: Final = 50
STATES: Final[dict[str, JobState]] = {
    JobStatus.SUBMITTED: JobState.SUBMITTED,
    JobStatus.IN_PROGRESS: JobState.IN_PROGRESS,
}


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
            job_id=_text(detail["jobId"]),
            job_name=_text(detail.get("jobName", "")),
            status=_text(detail["jobStatus"]),
            submitted_at=None,
            ended_at=_event_time(document),
            message=None,
            output_s3_uri=None if detail.get("outputS3Uri") is None else _text(detail["outputS3Uri"]),
        )
        datastore_id = _text(detail["datastoreId"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PermanentError(f"the event lacks a member: {type(error).__name__}") from error
    with deps.engine.begin() as connection:
        job = jobs.find_job(connection, datastore_id, told.job_id, told.job_name)
    if job is None:
        logger.info("job_event_of_others", extra={"job_id": told.job_id})
        return
    # One that was given up may end later than we had patience for, and that is good all the same.
    if job.state not in UNFINISHED and (job.state, told.status) != (JobState.GIVEN_UP, JobStatus.COMPLETED):
        return
    if told.status == JobStatus.FAILED:  # the event does not say why
        told = healthimaging.get_import_job(deps.client, job.datastore_id, told.job_id)
    _apply(deps, job, told)
    if told.status not in STATES:
        tell(deps, "ended")


def follow_jobs(deps: Dependencies) -> int:
    """Ask the service about the jobs that nobody has heard of for a while, up to a number; return how many.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: not even the trouble with a job could be recorded.
    """
    for looked_at in range(MAX_LOOKS):
        now = deps.clock()
        with deps.engine.begin() as connection:
            job = jobs.take_due_job(connection, now, now + LOOK_AGAIN)
        if job is None:
            return looked_at
        _follow(deps, job)
    return MAX_LOOKS


def _follow(deps: Dependencies, job: Job) -> None:
    """Ask about one job, and act on the answer; what goes wrong is kept with it."""
    try:
        _ask(deps, job)
    except Exception as error:  # noqa: BLE001  # it belongs to this job; what ends its settling is caught there
        keep_trouble(deps, job, None, error)


def _ask(deps: Dependencies, job: Job) -> None:
    """Act on what the service says of a job; one that hangs is given up."""
    assert job.job_id is not None  # a job under way has the service's id
    try:
        told = healthimaging.get_import_job(deps.client, job.datastore_id, job.job_id)
    except JobNotFoundError:
        settle_failed(deps, job, "the service does not know the job any more", None)
        return
    has_ended = told.status in {JobStatus.COMPLETED, JobStatus.FAILED}
    if not has_ended and job.submitted_at is not None and deps.clock() - job.submitted_at > deps.job_limit:
        give_up(deps, job, told)
        return
    _apply(deps, job, told)


def _apply(deps: Dependencies, job: Job, told: ImportJob) -> None:
    now = deps.clock()
    if told.status == JobStatus.COMPLETED:
        settle_completed(deps, job, told)
    elif told.status == JobStatus.FAILED:
        settle_failed(deps, job, told.message or "the job failed without a message", told)
    else:
        if told.status not in STATES:  # whatever that is, it is no end
            status = clean_text(told.status, ID_LENGTH)
            logger.warning("import_job_status_unknown", extra={"job_id": told.job_id, "status": status})
        with deps.engine.begin() as connection:
            state = STATES.get(told.status, JobState.IN_PROGRESS)
            jobs.record_running(connection, job, told.job_id, state, now + LOOK_AGAIN, now)


def _text(value: object) -> str:
    """Return a member of an event that can be looked up.

    Raises:
        TypeError: it is no text.
        ValueError: no database holds it.
    """
    if not isinstance(value, str):
        raise TypeError
    if UNSTORABLE.search(value):
        raise ValueError
    return value


def _event_time(document: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(document["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
