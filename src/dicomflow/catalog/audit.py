"""The audit trail: who or what did what to which UID, and when. Rows are added and never changed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from dicomflow.catalog.tables import audit_event

__all__ = ["list_audit_events", "page_of_audit_events", "record_audit_event"]


def record_audit_event(
    connection: Connection, now: datetime, *, actor: str, action: str, uid: str | None, details: Mapping[str, Any]
) -> None:
    """Add an event; `details` holds counts and UIDs, no patient data."""
    values = {"at": now, "actor": actor, "action": action, "uid": uid, "details": dict(details)}
    connection.execute(insert(audit_event).values(values))


def list_audit_events(connection: Connection, *, uid: str | None = None, limit: int = 100) -> list[Row[Any]]:
    """Return the latest events, of one UID or of all: at, actor, action, uid, details."""
    statement = select(
        audit_event.c.at, audit_event.c.actor, audit_event.c.action, audit_event.c.uid, audit_event.c.details
    )
    if uid is not None:
        statement = statement.where(audit_event.c.uid == uid)
    return list(connection.execute(statement.order_by(audit_event.c.audit_event_id.desc()).limit(limit)))


def page_of_audit_events(
    connection: Connection, *, uid: str | None, actor: str | None, before: int | None, limit: int
) -> tuple[list[Row[Any]], int | None]:
    """Return one page of events, the latest first, and where the page after begins; None when this is the last.

    Args:
        connection: the caller's transaction.
        uid: only what was done to this UID.
        actor: only what this one did.
        before: what an earlier call returned.
        limit: at most so many.
    """
    statement = select(audit_event).order_by(audit_event.c.audit_event_id.desc()).limit(limit + 1)
    for column, wanted in ((audit_event.c.uid, uid), (audit_event.c.actor, actor)):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if before is not None:
        statement = statement.where(audit_event.c.audit_event_id < before)
    rows = connection.execute(statement).all()
    return list(rows[:limit]), None if len(rows) <= limit else rows[limit - 1].audit_event_id
