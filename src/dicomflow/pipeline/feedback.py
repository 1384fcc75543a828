"""Telling edges what became of their deliveries, once every series of one is settled, and again after a retry.

A delivery whose feedback cannot be put waits by itself, longer each time, and delays no other. One that still fails
after many attempts is listed with the problems, under the key of its feedback, and is left until it changes again.
"""

import logging
from datetime import timedelta
from typing import Any, Final

from obstore.exceptions import BaseError
from sqlalchemy import Row

from dicomflow.bucket.feedback import FailedObject, Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.catalog import deliveries, outcomes
from dicomflow.catalog.imports import LONGEST_PUT_OFF
from dicomflow.catalog.states import HELD
from dicomflow.errors import DicomflowError, TransientError
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["FEEDBACK_AGAIN", "send_feedback"]

logger = logging.getLogger(__name__)

BATCH: Final = 20
FEEDBACK_AGAIN: Final = timedelta(seconds=5)
MAX_ATTEMPTS: Final = 20
MAX_FAILURES: Final = 3
"""In one run: a store that is away fails each put after a long time."""


def send_feedback(deps: Dependencies) -> int:
    """Put the feedback on every delivery that has been settled since the last time; return how many.

    A crash after the put repeats it. A series settled meanwhile leaves its delivery to be told of again.
    """
    sent = failures = 0
    now = deps.clock()
    while True:
        with deps.engine.begin() as connection:
            found = deliveries.deliveries_to_report(connection, BATCH, now)
        for delivery in found:
            try:
                sent += _send(deps, delivery)
            except Exception as error:  # noqa: BLE001  # it belongs to this delivery
                _put_off(deps, delivery, error)
                failures += 1
                if failures == MAX_FAILURES:
                    return sent
        if len(found) < BATCH:
            return sent


def _send(deps: Dependencies, delivery: Row[Any]) -> bool:
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
    return is_settled


def _put_off(deps: Dependencies, delivery: Row[Any], error: Exception) -> None:
    if not isinstance(error, DicomflowError):
        logger.error("feedback_failed", extra={"delivery": delivery.delivery_id}, exc_info=error)
    message = str(error) if isinstance(error, DicomflowError) else f"feedback cannot be put: {type(error).__name__}"
    attempts = delivery.report_attempts + 1
    logger.warning(
        "feedback_not_sent", extra={"delivery": delivery.delivery_id, "attempts": attempts, "error": message}
    )
    wait = min(FEEDBACK_AGAIN * 2 ** (attempts - 1), LONGEST_PUT_OFF)
    with deps.engine.begin() as connection:
        if attempts < MAX_ATTEMPTS:
            deliveries.put_off_report(connection, delivery.delivery_id, deps.clock() + wait)
            return
        deliveries.record_report(connection, delivery.delivery_id, delivery.series_changes)
        deliveries.record_problem(connection, feedback_key(delivery.edge, delivery.delivery_id), message)


def _is_in(row: Row[Any]) -> bool:
    return row.outcome in HELD


def _reason(row: Row[Any]) -> str:
    return row.reason or row.message or "the job had no result for it"
