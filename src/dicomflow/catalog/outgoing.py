"""Statements of the outbox: events for others, written in the transaction of what they tell, and sent after it.

An event's id is made of what happened, so that whoever tells it twice tells the same event. It holds UIDs, names of
edges and image sets, numbers and the service's codes, and nothing of a patient. Transactions are the caller's. This
module must not know where events go.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from dicomflow.bucket.manifest import Manifest
from dicomflow.catalog.states import HELD, InstanceState
from dicomflow.catalog.tables import delivery, image_set, import_job, import_outcome, outgoing_event, series_import
from dicomflow.catalog.upsert import Upsert

__all__ = [
    "DETAIL_VERSION",
    "EventType",
    "OutgoingEvent",
    "claim_events",
    "dismiss_events",
    "forget_sent",
    "next_event_due",
    "put_off_event",
    "record_sent",
    "revive_events",
    "tell_delivery_stored",
    "tell_series_settled",
    "tell_studies_receiving",
]

DETAIL_VERSION: Final = 1
MOST_LISTED: Final = 200
"""Series, image sets and reasons that one event lists: EventBridge takes 256 KiB."""
MOST_ATTEMPTS: Final = 300
"""About a day. What is not taken then waits until something else is: see `revive_events`."""
LONGEST_WAIT: Final = timedelta(seconds=300)
_CLOCK_TOLERANCE: Final = timedelta(seconds=60)
_NAMESPACE: Final = UUID("6f0e1bb5-4a3c-4c53-9d0c-6b7f6d0c9a41")
# What the service calls a failure by, before its own words, which may hold a value.
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{2,63}(?=:)")
_NO_CODE: Final = "unknown"


class EventType(StrEnum):
    """What happened; the values are EventBridge's `detail-type`."""

    STUDY_RECEIVING = "Study Receiving"
    DELIVERY_STORED = "Delivery Stored"
    SERIES_IMPORTED = "Series Imported"


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event that waits; `attempts` counts the one for which it is held now."""

    event_id: str
    event_type: EventType
    happened_at: datetime
    detail: dict[str, Any]
    attempts: int


_EVENT: Final = Upsert(outgoing_event, ("event_id", "event_type", "happened_at", "detail", "attempts"), ("event_id",))
_UNSENT: Final[ColumnElement[bool]] = outgoing_event.c.sent_at.is_(None)
_GIVEN_UP: Final[ColumnElement[bool]] = outgoing_event.c.attempts >= MOST_ATTEMPTS


def tell_studies_receiving(connection: Connection, studies: Iterable[tuple[str, str, str]], now: datetime) -> None:
    """Tell, once a delivery, that images of a study arrive: by edge, delivery and Study Instance UID."""
    told = [
        ((delivery_id, study), {"edge": edge, "delivery": delivery_id, "study_instance_uid": study})
        for edge, delivery_id, study in set(studies)
    ]
    _tell(connection, EventType.STUDY_RECEIVING, told, now)


def tell_delivery_stored(connection: Connection, manifest: Manifest, now: datetime) -> None:
    """Tell, once, that everything of a delivery is in the bucket."""
    series = [
        {
            "study_instance_uid": study.study_instance_uid,
            "series_instance_uid": each.series_instance_uid,
            "instances": len(each.instances),
        }
        for study in manifest.studies
        for each in study.series
    ]
    detail = {
        "edge": manifest.edge,
        "delivery": manifest.delivery,
        "opened_at": manifest.opened_at.isoformat(),
        "closed_at": manifest.closed_at.isoformat(),
        "instances": sum(1 for _ in manifest.instances()),
        "series_count": len(series),
        "series": series[:MOST_LISTED],
    }
    _tell(connection, EventType.DELIVERY_STORED, [((manifest.delivery,), detail)], now)


def tell_series_settled(connection: Connection, series_import_id: int, change: int, now: datetime) -> None:
    """Tell what became of a series of a delivery; `change` numbers the ends of the delivery's series."""
    statement = (
        select(series_import, delivery.c.edge)
        .join(delivery, delivery.c.delivery_id == series_import.c.delivery_id)
        .where(series_import.c.series_import_id == series_import_id)
    )
    row = connection.execute(statement).one()
    imported, reasons = _outcomes(connection, series_import_id)
    image_sets = _image_sets(connection, series_import_id)
    if not reasons and imported < row.object_count:
        reasons = {_code(row.message)}
    detail = {
        "edge": row.edge,
        "delivery": row.delivery_id,
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": row.series_instance_uid,
        "state": row.state,
        "instances": row.object_count,
        "imported": imported,
        "image_set_count": len(image_sets),
        "image_sets": image_sets[:MOST_LISTED],
        "reasons": sorted(reasons)[:MOST_LISTED],
    }
    key = (row.delivery_id, row.study_instance_uid, row.series_instance_uid, str(change))
    _tell(connection, EventType.SERIES_IMPORTED, [(key, detail)], now)


def claim_events(connection: Connection, limit: int, now: datetime, until: datetime) -> list[OutgoingEvent]:
    """Take events that are due, the oldest first; who has not recorded by `until` what came of them loses them."""
    chosen = (
        select(outgoing_event.c.event_id)
        .where(_UNSENT, ~_GIVEN_UP, _is_due(now))
        .order_by(outgoing_event.c.happened_at, outgoing_event.c.event_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(
        update(outgoing_event)
        .where(outgoing_event.c.event_id.in_(chosen), _UNSENT, _is_due(now))
        .values(attempts=outgoing_event.c.attempts + 1, not_before=until)
        .returning(
            *(outgoing_event.c[name] for name in ("event_id", "event_type", "happened_at", "detail", "attempts"))
        )
    ).all()
    events = [OutgoingEvent(row[0], EventType(row[1]), *row[2:]) for row in found]
    return sorted(events, key=lambda each: (each.happened_at, each.event_id))


def record_sent(connection: Connection, event_ids: Sequence[str], now: datetime) -> None:
    """Record that events were taken."""
    connection.execute(
        update(outgoing_event)
        .where(outgoing_event.c.event_id.in_(event_ids), _UNSENT)
        .values(sent_at=now, not_before=None)
    )


def put_off_event(connection: Connection, event_id: str, until: datetime) -> None:
    """Send an event later that was not taken."""
    connection.execute(
        update(outgoing_event).where(outgoing_event.c.event_id == event_id, _UNSENT).values(not_before=until)
    )


def revive_events(connection: Connection) -> list[str]:
    """Let those that were given up be tried once more, now that something was taken; return their ids."""
    changed = connection.execute(
        update(outgoing_event)
        .where(_UNSENT, _GIVEN_UP)
        .values(attempts=MOST_ATTEMPTS - 1, not_before=None)
        .returning(outgoing_event.c.event_id)
    )
    return list(changed.scalars())


def next_event_due(connection: Connection) -> datetime | None:
    """Return when the next event that was not given up is to be sent; None when none waits."""
    at = func.coalesce(outgoing_event.c.not_before, outgoing_event.c.happened_at)
    statement = select(at).where(_UNSENT, ~_GIVEN_UP).order_by(at).limit(1)
    due_at: datetime | None = connection.execute(statement).scalar_one_or_none()
    return due_at


def dismiss_events(connection: Connection, now: datetime) -> None:
    """Let nobody be told what waits: nobody asked for it."""
    connection.execute(update(outgoing_event).where(_UNSENT).values(sent_at=now, not_before=None))


def forget_sent(connection: Connection, before: datetime) -> None:
    """Forget what was sent long ago; until then it tells a repeat from something new."""
    connection.execute(delete(outgoing_event).where(outgoing_event.c.sent_at < before))


def _tell(
    connection: Connection,
    event_type: EventType,
    told: Iterable[tuple[tuple[str, ...], dict[str, Any]]],
    now: datetime,
) -> None:
    """Write events by what makes each the one it is; one that was told stays as it was."""
    rows = []
    for key, detail in told:
        event_id = str(uuid5(_NAMESPACE, "\n".join((event_type, *key))))
        whole = {"id": event_id, "version": DETAIL_VERSION, "at": now.isoformat(), **detail}
        rows.append(
            {"event_id": event_id, "event_type": event_type, "happened_at": now, "detail": whole, "attempts": 0}
        )
    _EVENT.execute(connection, sorted(rows, key=lambda row: str(row["event_id"])))


def _outcomes(connection: Connection, series_import_id: int) -> tuple[int, set[str]]:
    """Return how many objects of a series are in, and the codes of why the others are not."""
    of_series = import_outcome.c.series_import_id == series_import_id
    is_in = import_outcome.c.outcome.in_(HELD)
    count = select(func.count(import_outcome.c.object_key.distinct())).where(of_series, is_in)
    reasons = (
        select(import_outcome.c.reason).distinct().where(of_series, import_outcome.c.outcome == InstanceState.FAILED)
    )
    return connection.execute(count).scalar_one(), {_code(reason) for reason in connection.scalars(reasons)}


def _image_sets(connection: Connection, series_import_id: int) -> list[dict[str, Any]]:
    statement = (
        select(import_job.c.datastore_id, import_outcome.c.image_set_id, image_set.c.version, image_set.c.is_primary)
        .distinct()
        .join(import_job, import_job.c.import_job_id == import_outcome.c.import_job_id)
        .outerjoin(
            image_set,
            and_(
                image_set.c.datastore_id == import_job.c.datastore_id,
                image_set.c.image_set_id == import_outcome.c.image_set_id,
            ),
        )
        .where(import_outcome.c.series_import_id == series_import_id, import_outcome.c.outcome.in_(HELD))
        .where(import_outcome.c.image_set_id.is_not(None))
        .order_by(import_outcome.c.image_set_id)
    )
    return [dict(row) for row in connection.execute(statement).mappings()]


def _code(reason: str | None) -> str:
    found = _CODE.match(reason or "")
    return found[0] if found else _NO_CODE


def _is_due(now: datetime) -> ColumnElement[bool]:
    """Tell what may be sent now; a time further away than any is put off to is of a clock that was wrong."""
    at = outgoing_event.c.not_before
    return or_(at.is_(None), at <= now, at > now + LONGEST_WAIT + _CLOCK_TOLERANCE)
