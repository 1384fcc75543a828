"""Telling edges what became of their deliveries, once every series of one is settled, and again after a retry."""

import logging
from typing import Any, Final

from obstore.exceptions import BaseError
from sqlalchemy import Row

from dicomflow.catalog import deliveries, outcomes
from dicomflow.errors import TransientError
from dicomflow.feedback import FailedObject, Feedback, feedback_key
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["send_feedback"]

logger = logging.getLogger(__name__)

BATCH: Final = 20


def send_feedback(deps: Dependencies) -> int:
    """Put the feedback on every delivery that has been settled since the last time; return how many.

    A crash after the put repeats it. A series settled meanwhile leaves its delivery to be told of again.

    Raises:
        TransientError: the store did not answer.
    """
    sent = 0
    while True:
        with deps.engine.begin() as connection:
            found = deliveries.deliveries_to_report(connection, BATCH)
        for delivery in found:
            sent += _send(deps, delivery)
        if len(found) < BATCH:
            return sent


def _send(deps: Dependencies, delivery: Row[Any]) -> bool:
    """Put the feedback on one delivery unless a series of it is still open; its end will bring it up again."""
    with deps.engine.begin() as connection:
        is_settled = deliveries.count_open_series(connection, delivery.delivery_id) == 0
        objects = outcomes.outcomes_of_delivery(connection, delivery.delivery_id) if is_settled else []
    if is_settled:
        feedback = Feedback(
            edge=delivery.edge,
            delivery=delivery.delivery_id,
            settled_at=deps.clock(),
            imported=tuple(row.object_key for row in objects if _is_in(row)),
            failed=tuple(FailedObject(row.object_key, _reason(row)) for row in objects if not _is_in(row)),
        )
        try:
            deps.store.put(feedback_key(delivery.edge, delivery.delivery_id), feedback.to_json())
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
    return is_settled


def _is_in(row: Row[Any]) -> bool:
    return row.outcome in {"imported", "warned"}


def _reason(row: Row[Any]) -> str:
    return row.reason or row.message or "the job had no result for it"
