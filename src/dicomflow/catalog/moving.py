"""The statement with which series follow a change of data store: what the one before has is queued for the one now.

Transactions are the caller's. This module must not know HealthImaging.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, exists, or_

from dicomflow.catalog.imports import move_series
from dicomflow.catalog.retention import expired_until
from dicomflow.catalog.states import HELD, MOVED, SeriesState
from dicomflow.catalog.tables import import_job, import_outcome, series_import

__all__ = ["retry_elsewhere"]


def retry_elsewhere(
    connection: Connection,
    now: datetime,
    states: Collection[SeriesState],
    datastore_id: str,
    series_import_ids: Collection[int] | None = None,
) -> list[int]:
    """Queue what is in, but not in this data store: completed | hidden → queued; return the series that were.

    A series whose objects were deleted by the retention stays as it is: there is nothing to import it from.

    Args:
        connection: the caller's transaction.
        now: the time.
        states: only series in these of `MOVED`.
        datastore_id: the data store that imports go to now.
        series_import_ids: only these; None takes all.
    """
    held = exists().where(
        import_outcome.c.series_import_id == series_import.c.series_import_id,
        import_outcome.c.outcome.in_(HELD),
        import_job.c.import_job_id == import_outcome.c.import_job_id,
        import_job.c.datastore_id == datastore_id,
    )
    statement = move_series(set(MOVED).intersection(states), SeriesState.QUEUED, now).where(~held)
    expired = expired_until(connection)
    if expired is not None:
        is_there = or_(series_import.c.state != SeriesState.COMPLETED, series_import.c.updated_at > expired)
        statement = statement.where(is_there)
    if series_import_ids is not None:
        statement = statement.where(series_import.c.series_import_id.in_(series_import_ids))
    moved = statement.values(not_before=None).returning(series_import.c.series_import_id)
    return sorted(connection.scalars(moved))
