"""Wake-ups of the driver: delayed messages, sent only while there is something to come back for.

One is under way at a time, whatever the number of drivers and events, so that an idle database can pause.
"""

import json
import math
from datetime import datetime, timedelta
from typing import Final

from dicomflow.catalog.pace import schedule_wake_up, scheduled_wake_up
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["DRIVE_QUEUE", "acknowledge", "wake_driver"]

DRIVE_QUEUE: Final = "drive"
MAX_DELAY_SECONDS: Final = 900  # SQS's longest
TOLERANCE: Final = timedelta(seconds=1)
LOST_AFTER: Final = timedelta(seconds=30)
_SENDING: Final = "drive, being sent"
"""Since when somebody is sending: who dies meanwhile leaves it, and then nobody relies on that message."""


def wake_driver(deps: Dependencies, due_at: datetime, reason: str) -> bool:
    """Send the driver a message for `due_at`, unless one is under way that comes in time; return whether it was sent.

    It is remembered before the message is sent: a quick driver may otherwise acknowledge it first, and what is then
    remembered keeps others from waking the driver. A crash between the two is made good by whatever comes again, as
    the caller's own message does: what is not known to be sent is relied on for no longer than `LOST_AFTER`, and
    neither is what should have come.
    """
    now = deps.clock()
    due_at = min(max(due_at, now), now + timedelta(seconds=MAX_DELAY_SECONDS))
    with deps.engine.begin() as connection:
        scheduled = scheduled_wake_up(connection, DRIVE_QUEUE)
        sending = scheduled_wake_up(connection, _SENDING)
        is_sent = sending is None or abs(now - sending) < LOST_AFTER
        if scheduled is not None and is_sent and now - LOST_AFTER < scheduled <= due_at + TOLERANCE:
            return False
        schedule_wake_up(connection, DRIVE_QUEUE, due_at)
        schedule_wake_up(connection, _SENDING, now)
    body = json.dumps({"reason": reason, "due_at": due_at.isoformat()})
    try:
        deps.enqueue(DRIVE_QUEUE, body, math.ceil((due_at - now).total_seconds()))
    except BaseException:
        acknowledge(deps, body)  # nothing is under way after all
        raise
    with deps.engine.begin() as connection:
        if scheduled_wake_up(connection, _SENDING) == now:  # else another one is sending, too
            schedule_wake_up(connection, _SENDING, None)
    return True


def acknowledge(deps: Dependencies, body: str) -> None:
    """Forget the wake-up that has arrived with this body, so that the next one is sent."""
    due_at = _due_at(body)
    with deps.engine.begin() as connection:
        scheduled = scheduled_wake_up(connection, DRIVE_QUEUE)
        if scheduled is not None and (scheduled == due_at or scheduled <= deps.clock()):
            schedule_wake_up(connection, DRIVE_QUEUE, None)


def _due_at(body: str) -> datetime | None:
    try:
        return datetime.fromisoformat(json.loads(body)["due_at"])
    except (ValueError, KeyError, TypeError):
        return None  # a wake-up by hand
