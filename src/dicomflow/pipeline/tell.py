"""Telling who waits: edges what became of their deliveries, and the driver when it is needed next.

An edge is told once every series of a delivery is settled, and again after a retry. A delivery whose feedback cannot
be put waits by itself, longer each time, and delays no other. One that still fails after many attempts is listed with
the problems, under the key of its feedback, and is left until it changes again.
"""

import logging
from datetime import datetime, timedelta
from typing import Any, Final

from obstore.exceptions import BaseError
from sqlalchemy import Connection, Row

from dicomflow.bucket.feedback import NOT_VISIBLE, FailedObject, Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.catalog import deliveries, imports, jobs, outcomes, pace
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.states import HELD, JobState
from dicomflow.errors import DicomflowError, TransientError, pause_after
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.wakeups import wake_driver

__all__ = ["tell"]

logger = logging.getLogger(__name__)

BATCH: Final = 20
FEEDBACK_AGAIN: Final = timedelta(seconds=5)
MAX_ATTEMPTS: Final = 20
MAX_FAILURES: Final = 3
"""In one run: a store that is away fails each put after a long time."""
IDLE_PAUSE: Final = timedelta(seconds=1)


def tell(
    deps: Dependencies,
    reason: str,
    *,
    has_more: bool = False,
    is_idle: bool = False,
    events_due: datetime | None = None,
) -> datetime | None:
    """Send feedback and the driver's wake-up; return when there is something to do again, or None.

    Args:
        deps: the deployment.
        reason: what the wake-up says.
        has_more: there is something to do at once.
        is_idle: whatever kept this run from its work keeps the next one too, for a while.
        events_due: when there are events to send.
    """
    _send_feedback(deps)
    now = deps.clock()
    due_at = now if has_more else _next_due(deps, now)
    if events_due is not None:
        due_at = events_due if due_at is None else min(due_at, events_due)
    if due_at is not None:
        if is_idle:
            due_at = max(due_at, now + IDLE_PAUSE)
        wake_driver(deps, due_at, reason)
    return due_at


def _next_due(deps: Dependencies, now: datetime) -> datetime | None:
    """Return when there is something to do again; None when nothing is queued or unfinished."""
    with deps.engine.begin() as connection:
        times = [jobs.next_job_due(connection, (JobState.SUBMITTED, JobState.IN_PROGRESS), now)]
        if deps.import_enabled:
            times.append(imports.next_series_due(connection, now))
            times.append(_next_start_at(deps, connection, now))
        if (report_due := deliveries.next_report_due(connection, now)) is not None:
            times.append(max(report_due, now + FEEDBACK_AGAIN))
    return min((time for time in times if time is not None), default=None)


def _next_start_at(deps: Dependencies, connection: Connection, now: datetime) -> datetime | None:
    """Return when the next job can be started; None when nothing is ready or every slot is taken."""
    call_at = pace.next_call_at(connection, deps.datastore_id, deps.start_rate, now)
    has_slot = pace.count_unfinished_jobs(connection, deps.datastore_id) < deps.concurrent_imports
    if has_slot and imports.count_ready_series(connection, now, 1) > 0:
        return call_at
    put_off = jobs.next_job_due(connection, (JobState.CLAIMED,), now)
    return None if put_off is None else max(put_off, call_at)


def _send_feedback(deps: Dependencies) -> None:
    """Put the feedback on every delivery that has been settled since the last time.

    A crash after the put repeats it. A series settled meanwhile leaves its delivery to be told of again.
    """
    failures = 0
    now = deps.clock()
    while True:
        with deps.engine.begin() as connection:
            found = deliveries.deliveries_to_report(connection, BATCH, now)
        for delivery in found:
            try:
                _send(deps, delivery)
            except Exception as error:  # noqa: BLE001  # it belongs to this delivery
                _put_off(deps, delivery, error)
                failures += 1
                if failures == MAX_FAILURES:
                    return
        if len(found) < BATCH:
            return


def _send(deps: Dependencies, delivery: Row[Any]) -> None:
    """Put the feedback on one delivery unless a series of it is still open; its end will bring it up again."""
    with deps.engine.begin() as connection:
        is_settled = deliveries.count_open_series(connection, delivery.delivery_id) == 0
        objects = outcomes.outcomes_of_delivery(connection, delivery.delivery_id) if is_settled else []
    key = feedback_key(delivery.edge, delivery.delivery_id)
    if is_settled:
        feedback = Feedback(
            edge=delivery.edge,
            delivery=delivery.delivery_id,
            settled_at=deps.clock(),
            imported=tuple(row.object_key for row in objects if _is_in(row)),
            failed=tuple(FailedObject(row.object_key, _reason(row)) for row in objects if not _is_in(row)),
        )
        try:
            deps.store.put(key, feedback.to_json())
        except (BaseError, OSError) as error:
            raise TransientError(f"the store did not take feedback: {type(error).__name__}") from error
        logger.info(
            "feedback_sent",
            extra={
                "delivery": delivery.delivery_id,
                "imported": len(feedback.imported),
                "failed": len(feedback.failed),
            },
        )
    with deps.engine.begin() as connection:
        deliveries.record_report(connection, delivery.delivery_id, delivery.series_changes)
        deliveries.clear_problem(connection, key)


def _put_off(deps: Dependencies, delivery: Row[Any], error: Exception) -> None:
    if not isinstance(error, DicomflowError):
        logger.error("feedback_failed", extra={"delivery": delivery.delivery_id}, exc_info=error)
    message = str(error) if isinstance(error, DicomflowError) else f"feedback cannot be put: {type(error).__name__}"
    attempts = delivery.report_attempts + 1
    logger.warning(
        "feedback_not_sent", extra={"delivery": delivery.delivery_id, "attempts": attempts, "error": message}
    )
    wait = pause_after(attempts, FEEDBACK_AGAIN, LONGEST_PUT_OFF)
    with deps.engine.begin() as connection:
        if attempts < MAX_ATTEMPTS:
            deliveries.put_off_report(connection, delivery.delivery_id, deps.clock() + wait)
            return
        deliveries.record_report(connection, delivery.delivery_id, delivery.series_changes)
        deliveries.record_problem(connection, feedback_key(delivery.edge, delivery.delivery_id), message)


def _is_in(row: Row[Any]) -> bool:
    """Tell what is imported and can be seen: a viewer does not find the rest."""
    return row.outcome in HELD and row.is_primary is not False


def _reason(row: Row[Any]) -> str:
    if row.outcome in HELD:
        return f"{NOT_VISIBLE}: image set {row.image_set_id} is not primary"
    return row.reason or row.message or "the job had no result for it"
