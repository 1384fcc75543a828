"""Statements that record what a job brought: outcomes of objects, image sets, and the series they hold.

Transactions are the caller's. This module must not know where results come from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from dicomflow.catalog.imports import Job
from dicomflow.catalog.tables import image_set, import_outcome, series_image_set
from dicomflow.catalog.upsert import dialect_insert

__all__ = ["Outcome", "StoredImageSet", "count_imported", "record_image_sets", "record_outcomes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object in one job: imported, warned or failed."""

    object_key: str
    series_import_id: int | None
    sop_instance_uid: str | None
    outcome: str
    image_set_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class StoredImageSet:
    """An image set that holds a series."""

    series_instance_uid: str
    image_set_id: str
    version: int | None
    is_primary: bool | None


def record_outcomes(connection: Connection, job: Job, outcomes: Iterable[Outcome]) -> None:
    """Record what became of each object of a job; a repeat changes nothing."""
    rows = [
        {
            "object_key": outcome.object_key,
            "import_job_id": job.import_job_id,
            "series_import_id": outcome.series_import_id,
            "sop_instance_uid": outcome.sop_instance_uid,
            "outcome": outcome.outcome,
            "image_set_id": outcome.image_set_id,
            "reason": outcome.reason,
        }
        for outcome in outcomes
    ]
    if rows:
        connection.execute(dialect_insert(connection, import_outcome).on_conflict_do_nothing(), rows)


def record_image_sets(
    connection: Connection, datastore_id: str, image_sets: Iterable[StoredImageSet], now: datetime
) -> None:
    """Record image sets and the series they hold; an older version never replaces a newer one."""
    found = sorted(set(image_sets), key=lambda item: (item.image_set_id, item.series_instance_uid))
    if not found:
        return
    statement = dialect_insert(connection, image_set)
    newer = statement.on_conflict_do_update(
        index_elements=["datastore_id", "image_set_id"],
        set_={
            "version": statement.excluded.version,
            "is_primary": func.coalesce(statement.excluded.is_primary, image_set.c.is_primary),
            "updated_at": statement.excluded.updated_at,
        },
        where=func.coalesce(statement.excluded.version, 0) >= func.coalesce(image_set.c.version, 0),
    )
    connection.execute(
        newer,
        [
            {
                "datastore_id": datastore_id,
                "image_set_id": item.image_set_id,
                "version": item.version,
                "is_primary": item.is_primary,
                "updated_at": now,
            }
            for item in found
        ],
    )
    connection.execute(
        dialect_insert(connection, series_image_set).on_conflict_do_nothing(),
        [
            {
                "series_instance_uid": item.series_instance_uid,
                "datastore_id": datastore_id,
                "image_set_id": item.image_set_id,
            }
            for item in found
        ],
    )


def count_imported(connection: Connection, job: Job, series_import_id: int) -> int:
    """Count the objects of a series that a job brought in, with or without a warning."""
    statement = select(func.count()).where(
        import_outcome.c.import_job_id == job.import_job_id,
        import_outcome.c.series_import_id == series_import_id,
        import_outcome.c.outcome.in_(("imported", "warned")),
    )
    return connection.execute(statement).scalar_one()
