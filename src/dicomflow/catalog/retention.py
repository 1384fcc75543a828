"""Statements of the retention: which objects may go, counted from the import of their series.

An object may go when the service has it: its series is completed, and it, or the same bytes of the same instance, was
imported. How far everything has gone is remembered as a time, so that nothing is looked at twice. Transactions are the
caller's. This module must not know the store.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, exists, or_, select

from dicomflow.catalog.pace import schedule_wake_up, scheduled_wake_up
from dicomflow.catalog.states import HELD, SeriesState
from dicomflow.catalog.tables import import_outcome, series_import, stored_object

__all__ = ["expired_until", "objects_to_expire", "set_expired_until"]

_MARK: Final = "retention"


def expired_until(connection: Connection) -> datetime | None:
    """Return up to which import everything has gone; None where nothing has yet."""
    return scheduled_wake_up(connection, _MARK)


def set_expired_until(connection: Connection, at: datetime) -> None:
    """Remember that everything that was imported until then has gone."""
    schedule_wake_up(connection, _MARK, at)


def objects_to_expire(
    connection: Connection, since: datetime | None, before: datetime, max_series: int
) -> tuple[list[str], datetime | None]:
    """Return the keys of what was imported in a while, oldest first, and until when that while is; None at its end.

    Args:
        connection: the caller's transaction.
        since: everything until then has gone.
        before: what was imported later stays.
        max_series: about how many series are taken at once; those of one moment are taken together.
    """
    completed = and_(series_import.c.state == SeriesState.COMPLETED, series_import.c.updated_at < before)
    if since is not None:
        completed = and_(completed, series_import.c.updated_at > since)
    times = select(series_import.c.updated_at).where(completed)
    until = connection.scalars(times.order_by(series_import.c.updated_at).offset(max_series - 1).limit(1)).first()
    if until is None:  # fewer are left
        until = connection.scalars(times.order_by(series_import.c.updated_at.desc()).limit(1)).first()
    if until is None:
        return [], None
    twin, outcome = stored_object.alias("twin"), import_outcome
    same_bytes = or_(
        twin.c.object_key == stored_object.c.object_key,
        and_(
            twin.c.sop_instance_uid == stored_object.c.sop_instance_uid,
            twin.c.sha256 == stored_object.c.sha256,
            twin.c.series_instance_uid == stored_object.c.series_instance_uid,
        ),
    )
    statement = (
        select(stored_object.c.object_key)
        .join(
            series_import,
            and_(
                series_import.c.delivery_id == stored_object.c.delivery_id,
                series_import.c.study_instance_uid == stored_object.c.study_instance_uid,
                series_import.c.series_instance_uid == stored_object.c.series_instance_uid,
            ),
        )
        .where(completed, series_import.c.updated_at <= until)
        .where(
            exists().where(
                twin.c.sop_instance_uid == stored_object.c.sop_instance_uid,
                same_bytes,
                outcome.c.object_key == twin.c.object_key,
                outcome.c.outcome.in_(HELD),
            )
        )
        .order_by(stored_object.c.object_key)
    )
    return list(connection.scalars(statement)), until
