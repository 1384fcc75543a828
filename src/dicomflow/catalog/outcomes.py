"""Statements that record what a job brought: outcomes of objects, image sets, and the series they hold.

An object is in a data store when a job of that data store gave it an outcome `imported` or `warned`; it is `gone` when
the image set that held it is not there any more. Transactions are the caller's. This module must not know where
results come from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Result, Row, and_, delete, exists, func, literal, or_, select, update

from dicomflow.catalog.states import HELD, InstanceState
from dicomflow.catalog.tables import (
    image_set,
    import_job,
    import_outcome,
    series_image_set,
    series_import,
    stored_object,
)
from dicomflow.catalog.upsert import dialect_insert

__all__ = [
    "Outcome",
    "StoredImageSet",
    "adopt_outcomes",
    "count_in",
    "forget_image_set",
    "image_sets_relied_on",
    "objects_left",
    "outcomes_of_delivery",
    "outcomes_of_series",
    "record_image_sets",
    "record_outcomes",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object in one job."""

    object_key: str
    series_import_id: int | None
    sop_instance_uid: str | None
    outcome: InstanceState
    image_set_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class StoredImageSet:
    """An image set that holds a series; `differs_in` lists the elements that keep it from being primary."""

    study_instance_uid: str
    series_instance_uid: str
    image_set_id: str
    version: int | None
    is_primary: bool | None
    differs_in: tuple[str, ...] | None = None


def record_outcomes(connection: Connection, import_job_id: int, outcomes: Iterable[Outcome]) -> None:
    """Record what became of each object of a job; a repeat changes nothing."""
    rows = [
        {
            "object_key": outcome.object_key,
            "import_job_id": import_job_id,
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


def adopt_outcomes(connection: Connection, row: Row[Any], datastore_id: str) -> None:
    """Give each object of a series the outcome of the same bytes, if these are what the data store holds of it.

    The same: equal SHA-256, of the file or of the data set alone, and equal SOP Instance UID, and nothing else of that
    instance was imported since.
    """
    twin = stored_object.alias("twin")
    later = import_outcome.alias("later")
    later_job = import_job.alias("later_job")
    is_later = or_(
        later_job.c.ended_at > import_job.c.ended_at,
        and_(later_job.c.ended_at == import_job.c.ended_at, later_job.c.import_job_id > import_job.c.import_job_id),
    )
    same_bytes = or_(twin.c.sha256 == stored_object.c.sha256, twin.c.data_set_sha256 == stored_object.c.data_set_sha256)
    source = (
        select(
            stored_object.c.object_key,
            import_outcome.c.import_job_id,
            literal(row.series_import_id).label("series_import_id"),
            import_outcome.c.sop_instance_uid,
            import_outcome.c.outcome,
            import_outcome.c.image_set_id,
            import_outcome.c.reason,
        )
        .select_from(stored_object)
        .join(
            import_outcome,
            and_(
                import_outcome.c.sop_instance_uid == stored_object.c.sop_instance_uid,
                import_outcome.c.outcome.in_(HELD),
            ),
        )
        .join(import_job, and_(_is_job_of(import_outcome), import_job.c.datastore_id == datastore_id))
        .join(twin, and_(twin.c.object_key == import_outcome.c.object_key, same_bytes))
        .where(*_of_series(row), ~_is_in(datastore_id), import_outcome.c.image_set_id.is_not(None))
        .where(
            ~exists()
            .where(
                later.c.sop_instance_uid == stored_object.c.sop_instance_uid,
                later.c.outcome.in_(HELD),
                later_job.c.import_job_id == later.c.import_job_id,
                later_job.c.datastore_id == datastore_id,
                is_later,
            )
            .correlate(stored_object, import_job)
        )
    )
    columns = [
        "object_key",
        "import_job_id",
        "series_import_id",
        "sop_instance_uid",
        "outcome",
        "image_set_id",
        "reason",
    ]
    statement = dialect_insert(connection, import_outcome).from_select(columns, source)
    connection.execute(statement.on_conflict_do_nothing())


def objects_left(connection: Connection, row: Row[Any], datastore_id: str) -> list[Row[Any]]:
    """Return key, SOP Instance UID and bytes (None: unknown) of the objects of a series that are not in yet."""
    statement = (
        select(stored_object.c.object_key, stored_object.c.sop_instance_uid, stored_object.c.bytes)
        .where(*_of_series(row), ~_is_in(datastore_id))
        .order_by(stored_object.c.object_key)
    )
    return list(connection.execute(statement))


def count_in(connection: Connection, row: Row[Any], datastore_id: str) -> int:
    """Count the objects of a series that are in, as its jobs and those of the same bytes told.

    What a job tells of a file that is no object of the series counts for none.
    """
    statement = (
        select(func.count(import_outcome.c.object_key.distinct()))
        .join(import_job, and_(_is_job_of(import_outcome), import_job.c.datastore_id == datastore_id))
        .join(stored_object, stored_object.c.object_key == import_outcome.c.object_key)
        .where(*_of_series(row))
        .where(import_outcome.c.series_import_id == row.series_import_id, import_outcome.c.outcome.in_(HELD))
    )
    return connection.execute(statement).scalar_one()


def image_sets_relied_on(connection: Connection, row: Row[Any], datastore_id: str) -> list[str]:
    """Return the image sets that are to hold those objects of a series that are in."""
    statement = (
        select(import_outcome.c.image_set_id)
        .distinct()
        .join(import_job, and_(_is_job_of(import_outcome), import_job.c.datastore_id == datastore_id))
        .where(import_outcome.c.series_import_id == row.series_import_id, import_outcome.c.outcome.in_(HELD))
        .where(import_outcome.c.image_set_id.is_not(None))
        .order_by(import_outcome.c.image_set_id)
    )
    return list(connection.scalars(statement))


def forget_image_set(connection: Connection, row: Row[Any], datastore_id: str, image_set_id: str) -> int:
    """Record that an image set is not in its data store any more; return how many outcomes of a series' instances fell.

    Those of other series that it held fall when somebody relies on them.
    """
    of_store = select(import_job.c.import_job_id).where(import_job.c.datastore_id == datastore_id)
    uids = select(stored_object.c.sop_instance_uid).where(*_of_series(row))
    own = import_outcome.c.series_import_id == row.series_import_id
    changed = connection.execute(
        update(import_outcome)
        .where(import_outcome.c.image_set_id == image_set_id, import_outcome.c.outcome.in_(HELD))
        .where(import_outcome.c.import_job_id.in_(of_store), or_(own, import_outcome.c.sop_instance_uid.in_(uids)))
        .values(outcome=InstanceState.GONE, reason="the image set is not in the data store any more")
    )
    for table in (series_image_set, image_set):
        connection.execute(
            delete(table).where(table.c.datastore_id == datastore_id, table.c.image_set_id == image_set_id)
        )
    return changed.rowcount


def outcomes_of_series(connection: Connection, row: Row[Any]) -> list[Row[Any]]:
    """Return each object of a series with its last outcome: key, sop_instance_uid, outcome, image set and reason.

    `is_primary` is that of the image set, None where that is not known.
    """
    return _last_outcomes(connection, *_of_series(row))


def outcomes_of_delivery(connection: Connection, delivery_id: str) -> list[Row[Any]]:
    """Return each object of a delivery's series with its last outcome, as `outcomes_of_series`."""
    return _last_outcomes(connection, stored_object.c.delivery_id == delivery_id)


def record_image_sets(
    connection: Connection, datastore_id: str, image_sets: Iterable[StoredImageSet], now: datetime
) -> None:
    """Record image sets and the series they hold; an older version never replaces a newer one."""
    found = sorted(
        set(image_sets), key=lambda item: (item.image_set_id, item.study_instance_uid, item.series_instance_uid)
    )
    if not found:
        return
    statement = dialect_insert(connection, image_set)
    newer = statement.on_conflict_do_update(
        index_elements=["datastore_id", "image_set_id"],
        set_={
            "version": statement.excluded.version,
            "is_primary": func.coalesce(statement.excluded.is_primary, image_set.c.is_primary),
            "updated_at": statement.excluded.updated_at,
            "differs_in": statement.excluded.differs_in,
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
                "differs_in": None if item.differs_in is None else list(item.differs_in),
            }
            for item in found
        ],
    )
    connection.execute(
        dialect_insert(connection, series_image_set).on_conflict_do_nothing(),
        [
            {
                "study_instance_uid": item.study_instance_uid,
                "series_instance_uid": item.series_instance_uid,
                "datastore_id": datastore_id,
                "image_set_id": item.image_set_id,
            }
            for item in found
        ],
    )


def _last_outcomes(connection: Connection, *of_objects: Any) -> list[Row[Any]]:
    """Return each object once, with what its last job said; what is in stays in, and what is seen stays seen."""
    statement = (
        select(
            stored_object.c.object_key,
            stored_object.c.sop_instance_uid,
            stored_object.c.series_instance_uid,
            import_outcome.c.outcome,
            import_outcome.c.image_set_id,
            import_outcome.c.reason,
            image_set.c.is_primary,
            series_import.c.message,
        )
        .select_from(stored_object)
        .join(
            series_import,
            and_(
                series_import.c.delivery_id == stored_object.c.delivery_id,
                series_import.c.study_instance_uid == stored_object.c.study_instance_uid,
                series_import.c.series_instance_uid == stored_object.c.series_instance_uid,
            ),
        )
        .outerjoin(import_outcome, import_outcome.c.object_key == stored_object.c.object_key)
        .outerjoin(import_job, _is_job_of(import_outcome))
        .outerjoin(
            image_set,
            and_(
                image_set.c.datastore_id == import_job.c.datastore_id,
                image_set.c.image_set_id == import_outcome.c.image_set_id,
            ),
        )
        .where(*of_objects)
        .order_by(stored_object.c.object_key, import_outcome.c.import_job_id)
    )
    last: dict[str, Row[Any]] = {}
    rows: Result[Any] = connection.execute(statement)
    for row in rows:
        known = last.get(row.object_key)
        if known is None or _rank(row) > _rank(known) or _rank(row) == _rank(known) == 0:
            last[row.object_key] = row
    return list(last.values())


def _rank(row: Row[Any]) -> int:
    """Order what jobs said of an object: not in, in an image set that is hidden, in one that can be seen."""
    if row.outcome not in HELD:
        return 0
    return 1 if row.is_primary is False else 2


def _of_series(row: Row[Any]) -> tuple[Any, ...]:
    return (
        stored_object.c.delivery_id == row.delivery_id,
        stored_object.c.study_instance_uid == row.study_instance_uid,
        stored_object.c.series_instance_uid == row.series_instance_uid,
    )


def _is_in(datastore_id: str) -> Any:
    own, own_job = import_outcome.alias("own"), import_job.alias("own_job")
    return exists().where(
        own.c.object_key == stored_object.c.object_key,
        own.c.outcome.in_(HELD),
        own_job.c.import_job_id == own.c.import_job_id,
        own_job.c.datastore_id == datastore_id,
    )


def _is_job_of(outcome: Any) -> Any:
    return import_job.c.import_job_id == outcome.c.import_job_id
