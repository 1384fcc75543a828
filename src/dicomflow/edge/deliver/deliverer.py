"""The deliverer: received files are gathered to deliveries, closed, put, and finished with their manifest.

It keeps its state in the spool's folders: a file moves from `received/` into its delivery's folder, the manifest is
written there when the delivery closes, and the folder goes when everything is stored. So a start after a crash
finds the same deliveries, and puts them under the same keys.

Each step has a file and owns its own state; here they are joined: `gather` → `closing` → `putting` → `finishing`.
"""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from dicomflow.edge.deliver.bandwidth import InFlight, limit_at
from dicomflow.edge.deliver.closing import Closing
from dicomflow.edge.deliver.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.deliver.feedback import FeedbackReader
from dicomflow.edge.deliver.finishing import Finishing
from dicomflow.edge.deliver.gather import Gathering
from dicomflow.edge.deliver.heartbeat import Heartbeats
from dicomflow.edge.deliver.putting import Putting
from dicomflow.edge.deliver.resent import Resent, is_whole
from dicomflow.edge.deliver.returning import Returning
from dicomflow.edge.deliver.routing import Routing
from dicomflow.edge.deliver.shared import Announce, Shared, StoredObject
from dicomflow.edge.deliver.uploader import Uploader, backoff_seconds, describe
from dicomflow.edge.destinations import Route
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.progress import PROGRESS_FILE, Progress
from dicomflow.edge.settings import DeliverySettings, EdgeSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.room import Room
from dicomflow.edge.spool.space import Space
from dicomflow.edge.stores import identify_store
from dicomflow.errors import TransientError

__all__ = ["Announce", "Deliverer", "StoredObject"]

_POLL_SECONDS: Final = 0.2
_FORGET_EVERY_SECONDS: Final = 3600.0
# All puts wait as long.
_LEDGER_BUSY_SECONDS: Final = 0.1
# A store that is not open by then is told as failing: one that is away, and one that hangs.
_OPEN_SECONDS: Final = 3.0
# By whether storage commitment waits for it.
_FEEDBACK_SECONDS: Final = {False: 60.0, True: 10.0}

_logger = logging.getLogger(__name__)


class Deliverer:
    """Gathers received files to deliveries and stores them. Event loop: one owner of all state."""

    def __init__(
        self,
        settings: EdgeSettings,
        spool: Spool,
        uploader: Uploader,
        announce: Announce | None,
        reload: Callable[[], DeliverySettings] | None = None,
        room: Room | None = None,
        routes: Callable[[], tuple[Route, ...]] | None = None,
    ) -> None:
        self._settings = settings.delivery
        self._reload = reload or (lambda: settings.delivery)
        self._spool = spool
        self._uploader = uploader
        root, store = settings.spool.dir, identify_store(settings.delivery)
        self.ledger = Ledger(root / LEDGER_FILE, store=store, busy_seconds=_LEDGER_BUSY_SECONDS)
        # Busy when every put is under way and one more waits.
        self._progress = Progress(root / PROGRESS_FILE, time.monotonic, settings.delivery.concurrency + 1)
        self._space = Space(spool, spool.spares, settings.spool, room or Room(settings.spool))
        self._shared = Shared(
            *(settings.name, lambda: self._settings, spool, self._space, self.ledger, self._progress, announce)
        )
        self._resent = Resent(
            *(settings.name, spool, self.ledger, store, uploader.is_stored, uploader.fetch),
            can_tell=announce is not None,
        )
        deliveries = Deliveries(settings.delivery, new_id=lambda: str(uuid.uuid4()), is_whole=is_whole)
        self._in_flight = InFlight(lambda: self._progress.line_bytes_per_second)
        self._heartbeats = Heartbeats(
            settings, spool.aside, uploader.put_note, uploader.fetch, lambda: self._space.is_full
        )
        self._feedback = FeedbackReader(settings.name, uploader.fetch, self.ledger)
        self._feedback_seconds = _FEEDBACK_SECONDS[settings.commitment.level == "imported"]
        # The steps, the last one first.
        self._routing = Routing(
            self._shared, settings.destinations, routes or (lambda: settings.routes), is_on=bool(settings.routes)
        )
        self._returning = Returning(self._shared, self._routing.handed)
        self._finishing = Finishing(self._shared, uploader, self._resent, self._in_flight)
        self._putting = Putting(self._shared, uploader, self._resent, self._in_flight, self._finishing)
        self._gathering = Gathering(
            *(self._shared, self._resent, deliveries, self._heartbeats, self._submit, self._routing),
            self._putting.submit_if_complete,
        )
        self._closing = Closing(self._shared, deliveries, self._gathering, self._putting, self._routing)
        self._began_at = time.monotonic()
        self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._take_over()
                group.create_task(self._open_and_put(group))
                while True:
                    try:
                        self._read_settings()
                        await self._closing.poll()
                        if self._progress.is_due():
                            await self._returning.poll()
                        self._look_around()
                    except Exception as error:  # noqa: BLE001  # it may pass, and the puts go on; it is logged there
                        self._shared.fail(self._spool.root, error)
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.ledger.write()
            self.ledger.close()

    def _take_over(self) -> None:
        """Go on where an earlier run has ended. Raises `OSError`."""
        self._finishing.look()
        self._spool.spares.trim()
        self._gathering.look()
        self._progress.forget()
        self._gathering.take_up()

    async def _open_and_put(self, group: asyncio.TaskGroup) -> None:
        """Open the store, however long it is away, and then put; what is received is gathered meanwhile."""
        for attempt in itertools.count(1):
            try:
                await asyncio.to_thread(self._uploader.open)
            except TransientError as error:
                self._progress.failed(describe(error))
                if attempt == 1:
                    _logger.warning("store_not_opened error=%s", describe(error))
                await asyncio.sleep(backoff_seconds(attempt))
            else:
                break
        if attempt > 1:
            _logger.info("store_opened attempt=%d", attempt)
        for _ in range(self._settings.concurrency):
            group.create_task(self._putting.run())
        group.create_task(self._feedback.follow(self._feedback_seconds))
        group.create_task(self._heartbeats.follow())

    def _submit(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        """Have an instance put that was gathered; with routes that is decided when its delivery closes."""
        if delivery.is_closed or not self._routing.is_on:
            self._putting.submit(delivery, instance)

    def _read_settings(self) -> None:
        """Put changed limits and priorities in force, for what is queued too."""
        before, self._settings = self._settings, self._reload()
        if before.priorities != self._settings.priorities:
            self._putting.rank_again()

    def _look_around(self) -> None:
        """Once a second: write the ledger and the progress, forget old entries, look again at what was left."""
        if not self._progress.is_due():
            return
        self.ledger.write()
        if self.ledger.take_begun_anew():
            self._resent.fill_ledger()
            self._returning.fill_ledger()
        self._resent.tell()
        self._space.look()
        self._gathering.take_up()
        self._finishing.poll()
        if self._in_flight.is_stalled:
            self._progress.failed("the store takes nothing of what is being sent")
        self._progress.write(
            is_store_failing=self._is_store_failing(),
            pause_seconds=self._putting.queue.pause_seconds,
            resent_skipped=self._resent.skipped,
            resent_stored_again=self._resent.stored_again,
            limit=limit_at(self._settings, datetime.now().astimezone()),
            gathered_until=self._gathering.gathered_until,
            is_full=self._space.is_full,
            is_name_shared=self._heartbeats.is_shared,
            set_aside=self._spool.aside.reasons(),
        )
        if time.monotonic() - self._forgot_at >= _FORGET_EVERY_SECONDS:
            self._forgot_at = time.monotonic()
            with contextlib.suppress(sqlite3.DatabaseError):  # locked: in an hour
                self.ledger.forget_before(datetime.now(UTC), self._settings.ledger_days)

    def _is_store_failing(self) -> bool:
        if not self._uploader.is_open:
            return time.monotonic() - self._began_at >= _OPEN_SECONDS
        return self._putting.queue.is_store_failing or self._in_flight.is_stalled
