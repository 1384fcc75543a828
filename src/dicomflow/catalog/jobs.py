"""Statements of import jobs: who claims, starts and follows them, and when somebody looks again; `pace` says how fast.

A change of state names the old one, so that of two callers at once one changes the row and the other gets None.
Transactions are the caller's. This module must not know HealthImaging or queues.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, case, func, literal, or_, select, update

from dicomflow.bucket.keys import IMPORT_OUTPUT_PREFIX, key_of_uri, staging_prefix
from dicomflow.catalog.imports import has_come, move_series
from dicomflow.catalog.states import UNFINISHED, JobState, SeriesState
from dicomflow.catalog.tables import import_job, series_import
from dicomflow.catalog.types import UtcDateTime
from dicomflow.catalog.upsert import dialect_insert

__all__ = [
    "Job",
    "JobTarget",
    "claim_job",
    "find_job",
    "finish_job",
    "next_job_due",
    "postpone_job",
    "record_running",
    "record_submitted",
    "renew_claim",
    "retake_claimed_job",
    "take_due_job",
]

_UNDER_WAY: Final = (JobState.SUBMITTED, JobState.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class JobTarget:
    """Where the jobs of a driver go; the URIs' bucket is the store's."""

    datastore_id: str
    bucket: str


@dataclass(frozen=True, slots=True)
class Job:
    """An import job's row, as far as others need it."""

    import_job_id: int
    client_token: str
    job_name: str
    datastore_id: str
    input_s3_uri: str
    output_s3_uri: str
    job_id: str | None
    state: str
    attempts: int
    submitted_at: datetime | None
    is_staged: bool
    due_at: datetime | None

    @property
    def input_prefix(self) -> str:
        """The key prefix of the job's input, which ends in a slash."""
        return key_of_uri(self.input_s3_uri)


_JOB_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = (
    import_job.c.import_job_id,
    import_job.c.client_token,
    import_job.c.job_name,
    import_job.c.datastore_id,
    import_job.c.input_s3_uri,
    import_job.c.output_s3_uri,
    import_job.c.job_id,
    import_job.c.state,
    import_job.c.attempts,
    import_job.c.submitted_at,
    import_job.c.is_staged,
    import_job.c.due_at,
)


def claim_job(
    connection: Connection,
    target: JobTarget,
    input_prefix: str,
    rows: Sequence[Row[Any]],
    now: datetime,
    due_at: datetime,
    *,
    is_staged: bool = False,
) -> Job | None:
    """Make a claimed job of series: queued → in_progress; the caller starts it before `due_at`.

    Token and name come from the rows, so that a repeated start is the same start. None when another driver was faster.
    The input of a staged job is a prefix of its own, which the caller fills before the start.
    """
    token = _client_token(target, input_prefix, rows)
    uri = f"s3://{target.bucket}/"
    inserted = connection.execute(
        dialect_insert(connection, import_job)
        .values(
            client_token=token,
            job_name=f"dicomflow-{rows[0].series_import_id}-{token[:12]}",
            datastore_id=target.datastore_id,
            input_s3_uri=uri + (staging_prefix(token) if is_staged else input_prefix),
            output_s3_uri=uri + IMPORT_OUTPUT_PREFIX,
            state=JobState.CLAIMED,
            created_at=now,
            updated_at=now,
            called_at=now,
            due_at=due_at,
            is_staged=is_staged,
        )
        .on_conflict_do_nothing()
        .returning(*_JOB_COLUMNS)
    ).first()
    if inserted is None:
        return None
    connection.execute(
        move_series([SeriesState.QUEUED], SeriesState.IN_PROGRESS, now)
        .where(series_import.c.series_import_id.in_([row.series_import_id for row in rows]))
        .values(
            attempts=series_import.c.attempts + 1,
            import_job_id=inserted.import_job_id,
            client_token=token,
            not_before=None,
            message=None,
        )
    )
    return Job(*inserted)


def retake_claimed_job(connection: Connection, now: datetime, due_at: datetime, *, has_slot: bool = True) -> Job | None:
    """Take a job that was claimed and not started by its time, of any store: its driver crashed, or it was put off.

    One whose start has failed holds no slot, and needs one.
    """
    candidate = (
        select(import_job.c.import_job_id)
        .where(import_job.c.state == JobState.CLAIMED)
        .where(has_come(import_job.c.due_at, now), or_(import_job.c.attempts == 0, literal(has_slot)))
        .order_by(import_job.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    return _take(
        connection, candidate, [JobState.CLAIMED], now, {"due_at": due_at, "called_at": now, "updated_at": now}
    )


def take_due_job(connection: Connection, now: datetime, due_at: datetime) -> Job | None:
    """Take a job under way that nobody has heard of by its time, of any data store, and put off the next look."""
    candidate = (
        select(import_job.c.import_job_id)
        .where(import_job.c.state.in_(_UNDER_WAY), has_come(import_job.c.due_at, now))
        .order_by(import_job.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    return _take(connection, candidate, _UNDER_WAY, now, {"due_at": due_at})


def renew_claim(connection: Connection, job: Job, due_at: datetime, now: datetime) -> Job | None:
    """Keep a claimed job until another time; None when it is another driver's meanwhile."""
    row = connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == job.import_job_id, import_job.c.state == JobState.CLAIMED)
        .where(import_job.c.due_at == job.due_at)
        .values(due_at=due_at, called_at=now, updated_at=now)
        .returning(*_JOB_COLUMNS)
    ).first()
    return None if row is None else Job(*row)


def postpone_job(
    connection: Connection,
    job: Job,
    due_at: datetime,
    message: str,
    now: datetime,
    *,
    is_counted: bool = True,
    ended_at: datetime | None = None,
) -> None:
    """Look at an unfinished job later, and count the attempt if it was one.

    With `ended_at` the service has ended it, and it holds no slot any more.
    """
    connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == job.import_job_id, import_job.c.state.in_(UNFINISHED))
        .values(
            attempts=import_job.c.attempts + int(is_counted),
            due_at=due_at,
            message=message,
            updated_at=now,
            ended_at=func.coalesce(import_job.c.ended_at, literal(ended_at, UtcDateTime())),
        )
    )


def record_submitted(
    connection: Connection, job: Job, job_id: str, submitted_at: datetime, due_at: datetime, now: datetime
) -> bool:
    """Record that the service has taken a job: claimed → submitted; False when an event was faster."""
    changed = connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == job.import_job_id, import_job.c.state == JobState.CLAIMED)
        .values(
            state=JobState.SUBMITTED,
            job_id=job_id,
            submitted_at=submitted_at,
            due_at=due_at,
            attempts=0,
            message=None,
            updated_at=now,
        )
        .returning(import_job.c.import_job_id)
    ).first()
    return changed is not None


def record_running(
    connection: Connection, job: Job, job_id: str, state: JobState, due_at: datetime, now: datetime
) -> bool:
    """Record how far a job is: claimed → submitted → in_progress; False when it is further already."""
    earlier = UNFINISHED[: UNFINISHED.index(state)]
    changed = connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == job.import_job_id, import_job.c.state.in_(earlier))
        .values(
            state=state,
            job_id=job_id,
            submitted_at=func.coalesce(import_job.c.submitted_at, literal(now, UtcDateTime())),
            due_at=due_at,
            attempts=0,
            message=None,
            updated_at=now,
        )
        .returning(import_job.c.import_job_id)
    ).first()
    return changed is not None


def find_job(connection: Connection, datastore_id: str, job_id: str, job_name: str | None) -> Job | None:
    """Return the job the service calls so; before its id is known, by the name we gave it."""
    of_store = select(*_JOB_COLUMNS).where(import_job.c.datastore_id == datastore_id)
    row = connection.execute(of_store.where(import_job.c.job_id == job_id)).first()
    if row is None and job_name:
        row = connection.execute(
            of_store.where(import_job.c.job_name == job_name, import_job.c.job_id.is_(None))
        ).first()
    return None if row is None else Job(*row)


def finish_job(
    connection: Connection,
    job: Job,
    state: JobState,
    *,
    now: datetime,
    job_id: str | None = None,
    ended_at: datetime | None = None,
    message: str | None = None,
    counters: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None),
) -> bool:
    """End a job; False when it has ended already, and nothing else is to be done.

    claimed | submitted | in_progress → completed | failed | given_up, and given_up → completed | failed.

    Args:
        connection: the caller's transaction.
        job: which.
        state: completed, failed or given_up.
        now: the time.
        job_id: the service's id, if it was not known yet.
        ended_at: when the service ended it.
        message: the service's reason.
        counters: files scanned, imported, with customer errors and with server errors.
    """
    scanned, imported, customer_errors, server_errors = counters
    earlier = UNFINISHED if state is JobState.GIVEN_UP else (*UNFINISHED, JobState.GIVEN_UP)
    changed = connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == job.import_job_id, import_job.c.state.in_(earlier))
        .values(
            state=state,
            job_id=func.coalesce(import_job.c.job_id, job_id),
            ended_at=ended_at or now,
            message=message,
            scanned=scanned,
            imported=imported,
            customer_errors=customer_errors,
            server_errors=server_errors,
            due_at=None,
            updated_at=now,
        )
        .returning(import_job.c.import_job_id)
    ).first()
    return changed is not None


def next_job_due(connection: Connection, states: Sequence[JobState], now: datetime) -> datetime | None:
    """Return when somebody must look at a job in one of these states next; None when there is none."""
    due = case((has_come(import_job.c.due_at, now), literal(now, UtcDateTime())), else_=import_job.c.due_at)
    statement = select(func.min(due, type_=UtcDateTime())).where(import_job.c.state.in_(states))
    due_at: datetime | None = connection.execute(statement).scalar_one()
    return due_at


def _client_token(target: JobTarget, input_prefix: str, rows: Sequence[Row[Any]]) -> str:
    """Return 64 characters that name this attempt to import these series, and no other.

    A row that was removed and made anew counts its attempts anew, and has another nonce.
    """
    parts = [target.datastore_id, target.bucket, input_prefix]
    parts += sorted(f"{row.delivery_id} {row.series_instance_uid} {row.attempts + 1} {row.nonce or ''}" for row in rows)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _take(
    connection: Connection, candidate: Any, states: Sequence[JobState], now: datetime, values: dict[str, Any]
) -> Job | None:
    """Change the candidate if it is still as it was seen."""
    row = connection.execute(
        update(import_job)
        .where(import_job.c.import_job_id == candidate)
        .where(import_job.c.state.in_(states), has_come(import_job.c.due_at, now))
        .values(values)
        .returning(*_JOB_COLUMNS)
    ).first()
    return None if row is None else Job(*row)
