"""Who sends: deliveries with their associations, and what each sender brought in a while.

Transactions are the caller's; this module only reads, and shows no patient data.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, cast, extract, func, literal, select, tuple_

from dicomflow.catalog.tables import delivery, delivery_association, series_import
from dicomflow.catalog.types import UtcDateTime

__all__ = ["Delivery", "DeliveryKey", "DeliveryPage", "Sender", "list_deliveries", "list_senders"]

DeliveryKey = tuple[datetime, str]
"""Where a page ends: `closed_at` and `delivery_id` of its last delivery."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What one peer brought under one pair of AE titles.

    `seconds` is how long its deliveries were open; `ended` counts its associations by how they ended.
    """

    calling_ae_title: str
    called_ae_title: str
    peer: str
    edge: str
    deliveries: int
    instances: int
    bytes: int
    seconds: float
    last_at: datetime
    associations: int
    ended: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery and who sent it; `imports` counts its series by state."""

    delivery_id: str
    edge: str
    opened_at: datetime
    closed_at: datetime
    instance_count: int
    bytes: int
    calling_ae_titles: tuple[str, ...]
    peers: tuple[str, ...]
    associations: int
    ended: Mapping[str, int]
    study_instance_uids: tuple[str, ...]
    imports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries, the latest first, and the key of the page after; None when this is the last."""

    deliveries: tuple[Delivery, ...]
    next_key: DeliveryKey | None


def list_senders(connection: Connection, since: datetime) -> list[Sender]:
    """Return who sent since then, the one that brought most first."""
    who = (
        delivery_association.c.calling_ae_title,
        delivery_association.c.called_ae_title,
        delivery_association.c.peer,
    )
    # A delivery counts once for a sender, however many associations the sender needed for it.
    each = (
        select(delivery.c.delivery_id, *who, func.count().label("associations"))
        .join_from(delivery, delivery_association, delivery_association.c.delivery_id == delivery.c.delivery_id)
        .where(delivery.c.closed_at >= since)
        .group_by(delivery.c.delivery_id, *who)
        .subquery("each")
    )
    names = (each.c.calling_ae_title, each.c.called_ae_title, each.c.peer, delivery.c.edge)
    statement = (
        select(
            *names,
            func.count().label("deliveries"),
            func.sum(delivery.c.instance_count).label("instances"),
            func.sum(delivery.c.bytes).label("bytes"),
            func.sum(_seconds_open(connection)).label("seconds"),
            func.max(delivery.c.closed_at).label("last_at"),
            func.sum(each.c.associations).label("associations"),
        )
        .join_from(each, delivery, delivery.c.delivery_id == each.c.delivery_id)
        .group_by(*names)
        .order_by(func.sum(delivery.c.instance_count).desc(), *names)
    )
    ended = _ended_by_sender(connection, since)
    return [
        Sender(
            calling_ae_title=row.calling_ae_title,
            called_ae_title=row.called_ae_title,
            peer=row.peer,
            edge=row.edge,
            deliveries=row.deliveries,
            instances=int(row.instances),
            bytes=int(row.bytes),
            seconds=float(row.seconds),
            last_at=row.last_at,
            associations=int(row.associations),
            ended=ended.get(tuple(row[:4]), {}),
        )
        for row in connection.execute(statement)
    ]


def list_deliveries(connection: Connection, *, after: DeliveryKey | None = None, limit: int = 50) -> DeliveryPage:
    """Return one page of deliveries, the latest first."""
    key = tuple_(delivery.c.closed_at, delivery.c.delivery_id)
    statement = select(delivery).order_by(delivery.c.closed_at.desc(), delivery.c.delivery_id.desc()).limit(limit + 1)
    if after is not None:
        statement = statement.where(key < tuple_(literal(after[0], UtcDateTime()), literal(after[1])))
    rows = connection.execute(statement).all()
    shown = rows[:limit]
    ids = [row.delivery_id for row in shown]
    associations, series = _associations_of(connection, ids), _series_of(connection, ids)
    deliveries = tuple(_delivery(row, associations[row.delivery_id], series[row.delivery_id]) for row in shown)
    is_last = len(rows) <= limit
    return DeliveryPage(deliveries, None if is_last else (shown[-1].closed_at, shown[-1].delivery_id))


def _delivery(row: Any, associations: Sequence[Any], series: Sequence[Any]) -> Delivery:
    ended: dict[str, int] = {}
    for each in associations:
        ended[each.ended] = ended.get(each.ended, 0) + each.associations
    imports: dict[str, int] = {}
    for each in series:
        imports[each.state] = imports.get(each.state, 0) + each.series
    return Delivery(
        delivery_id=row.delivery_id,
        edge=row.edge,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        instance_count=row.instance_count,
        bytes=row.bytes,
        calling_ae_titles=tuple(sorted({each.calling_ae_title for each in associations})),
        peers=tuple(sorted({each.peer for each in associations})),
        associations=sum(ended.values()),
        ended=ended,
        study_instance_uids=tuple(sorted({each.study_instance_uid for each in series})),
        imports=imports,
    )


def _associations_of(connection: Connection, delivery_ids: Sequence[str]) -> Mapping[str, list[Any]]:
    columns = (
        delivery_association.c.delivery_id,
        delivery_association.c.calling_ae_title,
        delivery_association.c.peer,
        delivery_association.c.ended,
    )
    statement = (
        select(*columns, func.count().label("associations"))
        .where(delivery_association.c.delivery_id.in_(delivery_ids))
        .group_by(*columns)
    )
    return _grouped(connection, statement)


def _series_of(connection: Connection, delivery_ids: Sequence[str]) -> Mapping[str, list[Any]]:
    columns = (series_import.c.delivery_id, series_import.c.study_instance_uid, series_import.c.state)
    statement = (
        select(*columns, func.count().label("series"))
        .where(series_import.c.delivery_id.in_(delivery_ids))
        .group_by(*columns)
    )
    return _grouped(connection, statement)


def _grouped(connection: Connection, statement: Any) -> Mapping[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(statement):
        found[row.delivery_id].append(row)
    return found


def _ended_by_sender(connection: Connection, since: datetime) -> dict[tuple[Any, ...], dict[str, int]]:
    columns = (
        delivery_association.c.calling_ae_title,
        delivery_association.c.called_ae_title,
        delivery_association.c.peer,
        delivery.c.edge,
        delivery_association.c.ended,
    )
    statement = (
        select(*columns, func.count())
        .join_from(delivery, delivery_association, delivery_association.c.delivery_id == delivery.c.delivery_id)
        .where(delivery.c.closed_at >= since)
        .group_by(*columns)
    )
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in connection.execute(statement):
        found.setdefault(tuple(row[:4]), {})[row[4]] = row[5]
    return found


def _seconds_open(connection: Connection) -> ColumnElement[float]:
    if connection.dialect.name == "sqlite":
        days = func.julianday(delivery.c.closed_at) - func.julianday(delivery.c.opened_at)
        return days * 86400.0
    return cast(extract("epoch", delivery.c.closed_at - delivery.c.opened_at), Float)
