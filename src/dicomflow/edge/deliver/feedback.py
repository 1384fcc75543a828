"""Reads what the pipeline tells the edge of its deliveries, into the ledger; it must not know how they are imported."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from dicomflow.bucket.feedback import Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.edge.ledger import Ledger
from dicomflow.errors import PermanentError

__all__ = ["FeedbackReader"]

# Each is a request: so many a round, and a delivery that nothing was told of for so long is left alone.
_DELIVERIES_A_ROUND: Final = 100
_WAIT_DAYS: Final = 7

_logger = logging.getLogger(__name__)


class FeedbackReader:
    """Asks for the feedback on deliveries that are stored and not known to be imported. Event loop: one owner.

    `fetch` returns an object's content, or None when there is none.
    """

    def __init__(self, edge: str, fetch: Callable[[str], Awaitable[bytes | None]], ledger: Ledger) -> None:
        self._edge = edge
        self._fetch = fetch
        self._ledger = ledger
        self._last = ""

    async def follow(self, every_seconds: float) -> None:
        """Read again and again until cancelled; a store that does not answer is asked again."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.read(datetime.now(UTC))
            except Exception as error:  # noqa: BLE001  # news only: nothing is lost by waiting
                _logger.warning("feedback_not_read error=%s", type(error).__name__)

    async def read(self, now: datetime) -> int:
        """Read one round of feedback; return of how many objects it says that they are imported."""
        waiting = self._ledger.unimported_deliveries(now - timedelta(days=_WAIT_DAYS))
        # Where the last round ended, so that what never comes does not hold up the others.
        following = [each for each in waiting if each > self._last] + [each for each in waiting if each <= self._last]
        imported = 0
        for delivery in following[:_DELIVERIES_A_ROUND]:
            self._last = delivery
            content = await self._fetch(feedback_key(self._edge, delivery))
            if content is None:
                continue
            try:
                imported += self._take(delivery, content)
            except Exception:  # of one delivery: those after it are read
                _logger.exception("feedback_not_taken delivery=%s", delivery)
        return imported

    def _take(self, delivery: str, content: bytes) -> int:
        try:
            feedback = Feedback.from_json(content)
        except PermanentError as error:
            _logger.warning("feedback_unreadable delivery=%s reason=%s", delivery, error)
            return 0
        prefix = f"{self._edge}/{delivery}/"
        keys = [key for key in feedback.imported if key.startswith(prefix)]
        self._ledger.record_imported(keys, feedback.settled_at)
        if feedback.failed:
            self._ledger.record_not_imported(
                (each.key, each.reason) for each in feedback.failed if each.key.startswith(prefix)
            )
            _logger.debug("delivery_not_imported delivery=%s failed=%d", delivery, len(feedback.failed))
        return len(keys)
