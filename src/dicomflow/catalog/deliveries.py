"""Statements of deliveries: manifest, objects' digests, the series to be imported, and what the edge is told of them.

Transactions are the caller's. This module must not know how manifests are found.
"""

from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Row, delete, func, or_, select, update

from dicomflow.bucket.manifest import Manifest, Series
from dicomflow.catalog.imports import has_come, series_state
from dicomflow.catalog.index import lock_instances, recount_versions
from dicomflow.catalog.states import UNSETTLED, SeriesState
from dicomflow.catalog.tables import delivery, delivery_association, series_import, stored_object
from dicomflow.catalog.upsert import dialect_insert
from dicomflow.errors import PermanentError

__all__ = [
    "clear_problem",
    "count_open_series",
    "deliveries_to_report",
    "next_report_due",
    "put_off_report",
    "record_delivery",
    "record_problem",
    "record_report",
]

_TO_REPORT: Final[ColumnElement[bool]] = delivery.c.series_changes > delivery.c.reported_changes


def record_delivery(
    connection: Connection, manifest: Manifest, manifest_key: str, state: SeriesState, now: datetime, priority: int = 0
) -> int:
    """Record a manifest: the delivery, its associations, its objects' digests, and one row per series in `state`.

    A repeat changes nothing. The greatest `priority` is imported first.

    Returns:
        How many series were new.

    Raises:
        PermanentError: another edge has a delivery of this id.
    """
    instances = list(manifest.instances())
    values = {
        "delivery_id": manifest.delivery,
        "edge": manifest.edge,
        "manifest_key": manifest_key,
        "opened_at": manifest.opened_at,
        "closed_at": manifest.closed_at,
        "instance_count": len(instances),
        "bytes": sum(instance.bytes for instance in instances),
        "planned_at": now,
    }
    connection.execute(dialect_insert(connection, delivery).values(values).on_conflict_do_nothing())
    known = select(delivery.c.edge).where(delivery.c.delivery_id == manifest.delivery)
    if connection.scalar(known) != manifest.edge:
        raise PermanentError("another edge has a delivery of this id")
    _record_associations(connection, manifest)
    _record_objects(connection, manifest)
    return _record_series(connection, manifest, state, now, priority)


def deliveries_to_report(connection: Connection, limit: int, now: datetime) -> list[Row[Any]]:
    """Return deliveries of which a series was settled since the edge was told: id, edge, changes and attempts.

    Those that failed wait for their time, and come after the others.
    """
    statement = (
        select(delivery.c.delivery_id, delivery.c.edge, delivery.c.series_changes, delivery.c.report_attempts)
        .where(_TO_REPORT)
        .where(or_(delivery.c.report_not_before.is_(None), has_come(delivery.c.report_not_before, now)))
        .order_by(delivery.c.report_attempts, delivery.c.delivery_id)
        .limit(limit)
    )
    return list(connection.execute(statement))


def next_report_due(connection: Connection, now: datetime) -> datetime | None:
    """Return when an edge is to be told of a delivery; None when there is none."""
    if deliveries_to_report(connection, 1, now):
        return now
    statement = select(func.min(delivery.c.report_not_before)).where(_TO_REPORT)
    due_at: datetime | None = connection.execute(statement).scalar_one()
    return due_at


def count_open_series(connection: Connection, delivery_id: str) -> int:
    """Count the series of a delivery that are still to be imported."""
    statement = select(func.count()).where(
        series_import.c.delivery_id == delivery_id, series_import.c.state.in_(UNSETTLED)
    )
    return connection.execute(statement).scalar_one()


def record_report(connection: Connection, delivery_id: str, changes: int) -> None:
    """Remember up to which of its changes the edge was told of a delivery; later ones stay to be told."""
    connection.execute(
        update(delivery)
        .where(delivery.c.delivery_id == delivery_id, delivery.c.reported_changes < changes)
        .values(reported_changes=changes, report_attempts=0, report_not_before=None)
    )


def put_off_report(connection: Connection, delivery_id: str, not_before: datetime) -> None:
    """Tell the edge later of a delivery, and count the attempt."""
    connection.execute(
        update(delivery)
        .where(delivery.c.delivery_id == delivery_id)
        .values(report_attempts=delivery.c.report_attempts + 1, report_not_before=not_before)
    )


def record_problem(connection: Connection, object_key: str, problem: str) -> None:
    """Record why an object cannot be used, where an operator sees it."""
    statement = dialect_insert(connection, stored_object).values(object_key=object_key, problem=problem)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["object_key"], set_={"problem": statement.excluded.problem})
    )


def clear_problem(connection: Connection, object_key: str) -> None:
    """Forget the problem of what names no received object: it was solved."""
    connection.execute(
        delete(stored_object).where(stored_object.c.object_key == object_key, stored_object.c.indexed_at.is_(None))
    )


def clear_problems(connection: Connection, prefix: str) -> None:
    """Forget the problems of what names no object, by what stands before their names."""
    is_one = stored_object.c.object_key.startswith(prefix, autoescape=True)
    connection.execute(delete(stored_object).where(is_one, stored_object.c.indexed_at.is_(None)))


def _record_associations(connection: Connection, manifest: Manifest) -> None:
    rows = [
        {
            "delivery_id": manifest.delivery,
            "association_id": association.association_id,
            "calling_ae_title": association.calling_ae_title,
            "called_ae_title": association.called_ae_title,
            "peer": association.peer,
            "ended": association.ended,
            "move_originators": "\\".join(association.move_originators) or None,
        }
        for association in manifest.associations
    ]
    if rows:
        connection.execute(dialect_insert(connection, delivery_association).on_conflict_do_nothing(), rows)


def _record_objects(connection: Connection, manifest: Manifest) -> None:
    """Record the digest of each object, whether or not its event has come.

    The first word on a key stays: who puts other bytes and a manifest for them is told as damage, not believed.
    """
    rows = [
        {
            "object_key": instance.key,
            "study_instance_uid": study.study_instance_uid,
            "series_instance_uid": series.series_instance_uid,
            "sop_instance_uid": instance.sop_instance_uid,
            "bytes": instance.bytes,
            "sha256": instance.sha256 or None,  # of what was adopted it may be unknown
            "edge": manifest.edge,
            "delivery_id": manifest.delivery,
        }
        for study in manifest.studies
        for series in study.series
        for instance in series.instances
    ]
    if not rows:
        return
    rows.sort(key=lambda row: str(row["object_key"]))
    sop_instance_uids = {str(row["sop_instance_uid"]) for row in rows}
    lock_instances(connection, sop_instance_uids)
    statement = dialect_insert(connection, stored_object)
    told = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "bytes", "sha256", "edge", "delivery_id")
    kept = {name: func.coalesce(stored_object.c[name], statement.excluded[name]) for name in told}
    connection.execute(statement.on_conflict_do_update(index_elements=["object_key"], set_=kept), rows)
    recount_versions(connection, sop_instance_uids)


def _record_series(connection: Connection, manifest: Manifest, state: SeriesState, now: datetime, priority: int) -> int:
    new = 0
    for study in manifest.studies:
        for series in study.series:
            if not series.instances:
                continue
            statement = dialect_insert(connection, series_import).values(
                delivery_id=manifest.delivery,
                study_instance_uid=study.study_instance_uid,
                series_instance_uid=series.series_instance_uid,
                input_prefix=_prefix_of(series),
                object_count=len({instance.key for instance in series.instances}),
                bytes=sum(instance.bytes for instance in series.instances),
                created_at=now,
                priority=priority,
                nonce=uuid4().hex,
                **series_state(state, now),
            )
            inserted = connection.execute(
                statement.on_conflict_do_nothing().returning(series_import.c.series_import_id)
            ).first()
            new += inserted is not None
    return new


def _prefix_of(series: Series) -> str:
    """Return the key prefix of a series, which ends in a slash."""
    return series.instances[0].key.rpartition("/")[0] + "/"
