"""Import jobs as the API shows them: start with idempotency and quota, get, list, and their events."""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update

from dicomflow.healthimaging.client import JobStatus
from dicomflow.healthimaging.simulator.datastores import require_datastore
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.state import job
from dicomflow.healthimaging.simulator.world import World, identifier, page_of, split_s3_uri

__all__ = ["change_status", "get_job", "list_jobs", "output_folder", "start_job"]

UNFINISHED: Final = (JobStatus.SUBMITTED, JobStatus.IN_PROGRESS)
LISTED_SECONDS: Final = 90 * 86_400  # jobs older than 90 days are archived


def start_job(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """StartDICOMImportJob: the same token and parameters answer with the same job."""
    require_datastore(connection, params["datastoreId"])
    request = json.loads(json.dumps(dict(params)))
    if params.get("importConfiguration"):
        raise ServiceError("ValidationException", "importConfiguration is not simulated")
    known = _find_token(world, connection, params)
    if known is not None:
        if known.request != request:
            raise ServiceError(world.settings.token_mismatch, "clientToken was used with other parameters")
        return _submitted(known)
    _check_quota(world, connection, params["datastoreId"])
    if world.settings.bad_bucket == "sync":
        _check_buckets(world, params)
    now = world.now()
    job_id = identifier("job", params["datastoreId"], params["clientToken"], now)
    connection.execute(
        insert(job).values(
            job_id=job_id,
            datastore_id=params["datastoreId"],
            client_token=params["clientToken"],
            request=request,
            name=params.get("jobName", job_id),
            status=JobStatus.SUBMITTED,
            submitted_at=now,
            due_at=now + world.settings.submit_seconds,
        )
    )
    row = _find_job(connection, params["datastoreId"], job_id)
    _emit(world, connection, row)
    return _submitted(row)


def get_job(_world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """GetDICOMImportJob: the output URI comes with the job's own folder."""
    require_datastore(connection, params["datastoreId"])
    row = _find_job(connection, params["datastoreId"], params["jobId"])
    properties = {
        **_summary(row),
        "inputS3Uri": row.request["inputS3Uri"],
        "outputS3Uri": output_folder(row),
        "importConfiguration": row.request.get("importConfiguration"),
    }
    return {"jobProperties": properties}


def list_jobs(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """ListDICOMImportJobs: 90 days back."""
    require_datastore(connection, params["datastoreId"])
    statement = (
        select(job)
        .where(job.c.datastore_id == params["datastoreId"])
        .where(job.c.submitted_at > world.now() - LISTED_SECONDS)
        .order_by(job.c.number.desc())
    )
    if "jobStatus" in params:
        statement = statement.where(job.c.status == params["jobStatus"])
    rows = [_summary(row) for row in connection.execute(statement)]
    if world.settings.list_order == "shuffled":
        random.Random(len(rows)).shuffle(rows)  # noqa: S311  # an order, no secret
    page = page_of(rows, params)
    return {"jobSummaries": page.items, "nextToken": page.next_token}


def change_status(
    world: World, connection: Connection, row: Row[Any], status: str, message: str | None, due_at: float | None
) -> None:
    """Move a job to its next status and emit the event."""
    ended_at = None if status in UNFINISHED else world.now()
    changed = connection.execute(
        update(job)
        .where(job.c.job_id == row.job_id, job.c.status == row.status)
        .values(status=status, message=message, due_at=due_at, ended_at=ended_at)
        .returning(*job.c)
    ).one()
    _emit(world, connection, changed)


def output_folder(row: Row[Any]) -> str:
    """Return the URI of the job's own folder under its output URI, with a slash at its end."""
    base: str = row.request["outputS3Uri"]
    return f"{base.rstrip('/')}/{row.datastore_id}-DicomImport-{row.job_id}/"


def _find_token(world: World, connection: Connection, params: Mapping[str, Any]) -> Row[Any] | None:
    statement = (
        select(job)
        .where(job.c.datastore_id == params["datastoreId"], job.c.client_token == params["clientToken"])
        .order_by(job.c.number.desc())
    )
    if world.settings.token_seconds is not None:
        statement = statement.where(job.c.submitted_at > world.now() - world.settings.token_seconds)
    return connection.execute(statement).first()


def _find_job(connection: Connection, datastore_id: str, job_id: str) -> Row[Any]:
    row = connection.execute(select(job).where(job.c.datastore_id == datastore_id, job.c.job_id == job_id)).first()
    if row is None:
        raise ServiceError("ResourceNotFoundException", f"Import job {job_id} does not exist")
    return row


def _check_quota(world: World, connection: Connection, datastore_id: str) -> None:
    limit = world.settings.concurrent_jobs
    if limit is None:
        return
    statement = select(func.count()).where(job.c.datastore_id == datastore_id, job.c.status.in_(UNFINISHED))
    running = connection.execute(statement).scalar_one()
    if running >= limit:
        raise ServiceError(world.settings.concurrency_error, f"{running} import jobs are running, the quota is {limit}")


def _check_buckets(world: World, params: Mapping[str, Any]) -> None:
    for member in ("inputS3Uri", "outputS3Uri"):
        bucket, _ = split_s3_uri(params[member])
        if world.stores(bucket) is None:
            raise ServiceError("AccessDeniedException", f"Bucket {bucket} of {member} is not accessible")


def _submitted(row: Row[Any]) -> dict[str, Any]:
    return {
        "datastoreId": row.datastore_id,
        "jobId": row.job_id,
        "jobStatus": JobStatus.SUBMITTED,
        "submittedAt": row.submitted_at,
    }


def _summary(row: Row[Any]) -> dict[str, Any]:
    return {
        "jobId": row.job_id,
        "jobName": row.name,
        "jobStatus": row.status,
        "datastoreId": row.datastore_id,
        "dataAccessRoleArn": row.request["dataAccessRoleArn"],
        "submittedAt": row.submitted_at,
        "endedAt": row.ended_at,
        "message": row.message,
    }


def _emit(world: World, connection: Connection, row: Row[Any]) -> None:
    suffixed = world.settings.event_output_uri == "suffixed"
    detail = {
        "datastoreId": row.datastore_id,
        "jobId": row.job_id,
        "jobName": row.name,
        "jobStatus": row.status,
        "inputS3Uri": row.request["inputS3Uri"],
        "outputS3Uri": output_folder(row) if suffixed else row.request["outputS3Uri"],
    }
    words = row.status.replace("_", " ").title()
    world.emit(connection, f"Import Job {words}", world.datastore_arn(row.datastore_id), detail)
