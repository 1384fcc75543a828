"""Statements that bring back what import jobs did, from what they left in the bucket, into a catalog that is rebuilt.

Only series that were never queued here are touched. Transactions are the caller's. This module must not know how
results are read.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, or_, select

from dicomflow.bucket.keys import MANIFEST_PREFIX
from dicomflow.catalog import outcomes
from dicomflow.catalog.hidden import why_hidden
from dicomflow.catalog.imports import UNCHANGED, move_series
from dicomflow.catalog.states import RETRYABLE, JobState, SeriesState
from dicomflow.catalog.tables import delivery, import_job, import_outcome, series_import, stored_object
from dicomflow.catalog.upsert import dialect_insert

__all__ = [
    "PastJob",
    "adopt_before",
    "adopt_unsettled",
    "known_job",
    "known_manifests",
    "known_objects",
    "newest_objects",
    "record_past_job",
    "recorded_manifests",
    "series_never_queued",
    "series_of_objects",
    "settle_restored",
]

_NEVER_QUEUED: Final = series_import.c.state == SeriesState.DISABLED
_OF_SERIES: Final = (
    stored_object.c.delivery_id == series_import.c.delivery_id,
    stored_object.c.study_instance_uid == series_import.c.study_instance_uid,
    stored_object.c.series_instance_uid == series_import.c.series_instance_uid,
)


@dataclass(frozen=True, slots=True)
class PastJob:
    """A job that has ended, as its output tells of it; counters are as `import_job` has them."""

    datastore_id: str
    job_id: str
    input_s3_uri: str
    output_s3_uri: str
    ended_at: datetime
    counters: tuple[int | None, int | None, int | None, int | None]
    is_staged: bool


def known_objects(connection: Connection, keys: Collection[str]) -> set[str]:
    """Return those of the keys whose objects are in the catalog already, indexed or with their problem."""
    seen = or_(stored_object.c.indexed_at.is_not(None), stored_object.c.problem.is_not(None))
    return set(connection.scalars(select(stored_object.c.object_key).where(stored_object.c.object_key.in_(keys), seen)))


def known_manifests(connection: Connection, keys: Collection[str]) -> set[str]:
    """Return those of the keys whose manifests are in the catalog already, with a series left of them."""
    has_series = exists().where(series_import.c.delivery_id == delivery.c.delivery_id)
    statement = select(delivery.c.manifest_key).where(delivery.c.manifest_key.in_(keys), has_series)
    return set(connection.scalars(statement))


def recorded_manifests(connection: Connection) -> set[str]:
    """Return the keys of all manifests that the catalog knows: of deliveries, whatever is left of them, or refused."""
    refused = select(stored_object.c.object_key).where(
        stored_object.c.object_key.startswith(MANIFEST_PREFIX), stored_object.c.problem.is_not(None)
    )
    return set(connection.scalars(select(delivery.c.manifest_key).union(refused)))


def series_never_queued(connection: Connection, manifest_keys: Collection[str]) -> list[int]:
    """Return the series of some deliveries that were not queued."""
    of_these = select(delivery.c.delivery_id, delivery.c.manifest_key).subquery()
    statement = select(series_import.c.series_import_id, of_these.c.manifest_key).where(
        _NEVER_QUEUED, series_import.c.delivery_id == of_these.c.delivery_id
    )
    return sorted(row.series_import_id for row in connection.execute(statement) if row.manifest_key in manifest_keys)


def record_past_job(connection: Connection, job: PastJob, now: datetime) -> int | None:
    """Record a job that has ended; None when the catalog has it already."""
    known = select(import_job.c.import_job_id).where(import_job.c.job_id == job.job_id)
    if connection.execute(known.where(import_job.c.datastore_id == job.datastore_id)).first() is not None:
        return None
    names = ("scanned", "imported", "customer_errors", "server_errors")
    return connection.execute(
        dialect_insert(connection, import_job)
        .values(
            client_token=f"restored-{job.datastore_id}-{job.job_id}",
            job_name=f"restored-{job.job_id}",
            datastore_id=job.datastore_id,
            input_s3_uri=job.input_s3_uri,
            output_s3_uri=job.output_s3_uri,
            job_id=job.job_id,
            state=JobState.COMPLETED,
            created_at=now,
            updated_at=now,
            ended_at=job.ended_at,
            is_staged=job.is_staged,
            **dict(zip(names, job.counters, strict=True)),
        )
        .on_conflict_do_nothing()
        .returning(import_job.c.import_job_id)
    ).scalar_one_or_none()


def known_job(connection: Connection, job: PastJob) -> int | None:
    """Return the number of a job that the catalog has as ended."""
    statement = select(import_job.c.import_job_id).where(
        import_job.c.job_id == job.job_id, import_job.c.datastore_id == job.datastore_id
    )
    return connection.execute(statement.where(import_job.c.state == JobState.COMPLETED)).scalars().first()


def newest_objects(connection: Connection, sop_instance_uids: Collection[str], before: datetime) -> dict[str, str]:
    """Return, by SOP Instance UID, the last object that was stored before a time: what a job staged then."""
    statement = (
        select(stored_object.c.sop_instance_uid, stored_object.c.object_key)
        .where(stored_object.c.sop_instance_uid.in_(sop_instance_uids), stored_object.c.stored_at <= before)
        .order_by(stored_object.c.stored_at, stored_object.c.object_key)
    )
    return {row.sop_instance_uid: row.object_key for row in connection.execute(statement)}


def series_of_objects(connection: Connection, keys: Collection[str]) -> dict[str, Row[Any]]:
    """Return the series of a delivery that each of these objects is in, by object key."""
    statement = select(stored_object.c.object_key.label("key"), series_import).where(
        *_OF_SERIES, stored_object.c.object_key.in_(keys)
    )
    return {row.key: row for row in connection.execute(statement)}


def settle_restored(
    connection: Connection, rows: Iterable[Row[Any]], import_job_id: int, datastore_id: str, now: datetime
) -> None:
    """Settle series of a past job by what is in: disabled | partial | failed → any end."""
    for row in rows:
        outcomes.adopt_outcomes(connection, row, datastore_id)
        imported = outcomes.count_in(connection, row, datastore_id)
        if imported >= row.object_count:
            message = why_hidden(connection, row, datastore_id)
            state = SeriesState.COMPLETED if message is None else SeriesState.HIDDEN
        else:
            state = SeriesState.PARTIAL if imported else SeriesState.FAILED
            message = f"{imported} of {row.object_count} instances imported"
        connection.execute(
            move_series(RETRYABLE, state, now)
            .where(series_import.c.series_import_id == row.series_import_id)
            .values(import_job_id=import_job_id, message=message)
        )


def adopt_before(
    connection: Connection, keys: Collection[str], uids: Collection[str], datastore_id: str, now: datetime
) -> None:
    """Complete series that had no job since their bytes were in, before a job brings other bytes of their instances.

    These are the series with some of the job's instances that were stored before the job's own objects were.
    """
    stored_at = select(func.min(stored_object.c.stored_at)).where(stored_object.c.object_key.in_(keys))
    before = connection.execute(stored_at).scalar_one()
    if before is None:
        return
    late = stored_object.alias("late")
    is_late = exists().where(
        late.c.delivery_id == series_import.c.delivery_id,
        late.c.study_instance_uid == series_import.c.study_instance_uid,
        late.c.series_instance_uid == series_import.c.series_instance_uid,
        late.c.stored_at >= before,
    )
    with_instances = (
        select(stored_object.c.object_key)
        .where(*_OF_SERIES, stored_object.c.sop_instance_uid.in_(uids))
        .correlate(series_import)
        .exists()
    )
    candidates = select(series_import).where(_NEVER_QUEUED, with_instances, ~is_late)
    for row in connection.execute(candidates.order_by(series_import.c.series_import_id)).all():
        _adopt(connection, row, datastore_id, now)


def adopt_unsettled(connection: Connection, datastore_ids: Collection[str], now: datetime) -> int:
    """Complete series that had no job of their own since their bytes were in; return how many are left unsettled."""
    twin = import_outcome.alias("twin")
    candidates = (
        select(series_import)
        .where(_NEVER_QUEUED)
        .where(
            select(twin.c.object_key)
            .join(stored_object, stored_object.c.sop_instance_uid == twin.c.sop_instance_uid)
            .where(*_OF_SERIES)
            .correlate(series_import)
            .exists()
        )
        .order_by(series_import.c.series_import_id)
    )
    for row in connection.execute(candidates).all():
        for datastore_id in sorted(datastore_ids):
            _adopt(connection, row, datastore_id, now)
    return connection.execute(select(func.count()).select_from(series_import).where(_NEVER_QUEUED)).scalar_one()


def _adopt(connection: Connection, row: Row[Any], datastore_id: str, now: datetime) -> None:
    outcomes.adopt_outcomes(connection, row, datastore_id)
    if outcomes.count_in(connection, row, datastore_id) >= row.object_count:
        why = why_hidden(connection, row, datastore_id)
        connection.execute(
            move_series([SeriesState.DISABLED], SeriesState.COMPLETED if why is None else SeriesState.HIDDEN, now)
            .where(series_import.c.series_import_id == row.series_import_id)
            .values(message=why or UNCHANGED)
        )
