"""The driver: a run follows the jobs that nobody has heard of, starts what may be started, and tells who waits.

claim → call → follow → settle → tell: each step of an import is the module of that name. Of one job a run takes those
that are due. Any number of drivers may run at once.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from dicomflow.pipeline.call import Started, start_jobs
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.follow import LOOK_AGAIN, MAX_LOOKS, follow_jobs
from dicomflow.pipeline.outbox import send_events
from dicomflow.pipeline.retention import expire_objects
from dicomflow.pipeline.tell import tell
from dicomflow.pipeline.wakeups import acknowledge

__all__ = ["DriveResult", "drive"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriveResult:
    """What one run did: jobs started, jobs looked at, and when the driver is needed next."""

    started: int
    looked_at: int
    due_at: datetime | None


def drive(deps: Dependencies, body: str = "{}") -> DriveResult:
    """Follow and start what is due, then send the wake-up for the rest; `body` is the message that woke the driver.

    What goes wrong with one job, series or delivery is recorded with it; only a database that fails ends the run.
    """
    acknowledge(deps, body)
    looked_at = follow_jobs(deps)
    started = start_jobs(deps) if deps.import_enabled else Started()
    has_more_to_expire = deps.retention is not None and _expire(deps)
    has_more = looked_at == MAX_LOOKS or started.is_cut_short or has_more_to_expire
    is_idle = looked_at == started.steps == 0
    due_at = tell(deps, "sweep", has_more=has_more, is_idle=is_idle, events_due=_send_events(deps))
    return DriveResult(started.jobs, looked_at, due_at)


def _expire(deps: Dependencies) -> bool:
    """Delete what has been kept for long enough; a failure is not the imports', and the next run tries again."""
    try:
        return expire_objects(deps)
    except Exception:  # the boundary between two kinds of work
        logger.exception("objects_not_expired")
        return False


def _send_events(deps: Dependencies) -> datetime | None:
    """Send what others asked for; whoever does not take it holds no import up."""
    try:
        return send_events(deps)
    except Exception:  # the boundary between two kinds of work
        logger.exception("events_not_sent")
        return deps.clock() + LOOK_AGAIN
