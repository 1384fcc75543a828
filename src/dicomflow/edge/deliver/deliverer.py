"""The deliverer: from the deliveries that are gathered to the object store, and the manifest last.

It keeps its state in the spool's folders: a file moves from `received/` into its delivery's folder, the manifest is
written there when the delivery closes, and the folder goes when everything is stored. So a start after a crash
finds the same deliveries, and puts them under the same keys.
"""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomflow.bucket.keys import manifest_key
from dicomflow.edge.deliver.bandwidth import Bandwidth, InFlight, limit_at
from dicomflow.edge.deliver.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.deliver.feedback import FeedbackReader
from dicomflow.edge.deliver.gather import Gathering
from dicomflow.edge.deliver.heartbeat import Heartbeats
from dicomflow.edge.deliver.instances import (
    MANIFEST_FILE,
    entry_of,
    rank_of,
    read_manifest,
)
from dicomflow.edge.deliver.queue import Put, PutQueue
from dicomflow.edge.deliver.resent import Resent, is_whole
from dicomflow.edge.deliver.uploader import Uploader, backoff_seconds, describe
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.progress import PROGRESS_FILE, Progress
from dicomflow.edge.settings import DeliverySettings, EdgeSettings
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.space import Space
from dicomflow.edge.stores import identify_store
from dicomflow.errors import PermanentError, TransientError

__all__ = ["Announce", "Deliverer", "StoredObject"]

_POLL_SECONDS: Final = 0.2
# A modality may open an association an image; the manifest has them all.
_LOGGED_ASSOCIATIONS: Final = 20
_FORGET_EVERY_SECONDS: Final = 3600.0
_FORGET_AFTER_SECONDS: Final = 60.0
_FORGET_NOTES_EVERY_SECONDS: Final = 2.0
# All puts wait as long.
_LEDGER_BUSY_SECONDS: Final = 0.1
# A store that is not open by then is told as failing: one that is away, and one that hangs.
_OPEN_SECONDS: Final = 3.0
# By whether storage commitment waits for it.
_FEEDBACK_SECONDS: Final = {False: 60.0, True: 10.0}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is in the store."""

    key: str
    bytes: int


# Told of every stored object, at least once: the place of S3's notifications where the store is a folder.
Announce = Callable[[Sequence[StoredObject]], None]


class Deliverer:
    """Gathers received files to deliveries and stores them. Event loop: one owner of all state."""

    def __init__(
        self,
        settings: EdgeSettings,
        spool: Spool,
        uploader: Uploader,
        announce: Announce | None,
        reload: Callable[[], DeliverySettings] | None = None,
    ) -> None:
        self._edge = settings.name
        self._settings = settings.delivery
        self._reload = reload or (lambda: settings.delivery)
        self._spool = spool
        self._space = Space(spool, settings.spool)
        self._uploader = uploader
        self._announce = announce
        store = identify_store(settings.delivery)
        self.ledger = Ledger(settings.spool.dir / LEDGER_FILE, store=store, busy_seconds=_LEDGER_BUSY_SECONDS)
        self._resent = Resent(
            *(settings.name, spool, self.ledger, store, uploader.is_stored, uploader.fetch),
            can_tell=announce is not None,
        )
        self._unremoved: dict[Path, Collection[str]] = {}  # stored deliveries, with the names of their files
        self._deliveries = Deliveries(settings.delivery, new_id=lambda: str(uuid.uuid4()), is_whole=is_whole)
        self._queue = PutQueue(time.monotonic, backoff_seconds)
        self._bandwidth = Bandwidth(lambda: self._settings, lambda: datetime.now().astimezone())
        # Busy when every put is under way and one more waits.
        self._progress = Progress(settings.spool.dir / PROGRESS_FILE, time.monotonic, settings.delivery.concurrency + 1)
        self._in_flight = InFlight(lambda: self._progress.line_bytes_per_second)
        self._feedback = FeedbackReader(settings.name, uploader.fetch, self.ledger)
        self._heartbeats = Heartbeats(settings, spool, uploader.put_note)
        self._gathering = Gathering(
            *(settings.name, lambda: self._settings, spool, self._space),
            *(self.ledger, self._resent, self._deliveries, self._progress),
            heartbeats=self._heartbeats,
            enqueue=self._enqueue,
            fail=self._fail,
        )
        self._began_at = time.monotonic()
        self._feedback_seconds = _FEEDBACK_SECONDS[settings.commitment.level == "imported"]
        self._forgot_at = self._forgot_notes_at = float("-inf")

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._unremoved |= {self._spool.delivering / each: () for each in self._spool.discard_stored()}
                self._spool.spares.trim()
                self._gathering.look()
                self._progress.forget()
                self._gathering.take_up()
                group.create_task(self._open_and_put(group))
                while True:
                    try:
                        self._read_settings()
                        await self._gather_and_close()
                        self._note_progress()
                    except Exception as error:  # noqa: BLE001  # it may pass, and the puts go on; it is logged there
                        self._fail(self._spool.root, error)
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.ledger.write()
            self.ledger.close()

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
            group.create_task(self._put_queued())
        group.create_task(self._feedback.follow(self._feedback_seconds))
        group.create_task(self._heartbeats.follow())

    async def _gather_and_close(self) -> None:
        """Take all that has been received, then close what is complete."""
        began_at = time.monotonic()
        is_forgetting = began_at - self._forgot_notes_at >= _FORGET_NOTES_EVERY_SECONDS
        # There may be a note for each image of the last minute: they are read only for somebody who asks.
        states = self._spool.associations.read_states() if is_forgetting or self._deliveries.is_any_open else None
        has_all = await self._gathering.gather_all()
        if states is None:
            return  # what was gathered just now is looked at in the next round
        is_open = {association_id for association_id, state in states.items() if state == "open"}
        # What was touched since the states were read may be of an association that they do not have.
        if self._deliveries.is_any_due(began_at, is_open):
            # What waits in segments may belong to a delivery that is about to close.
            self._gathering.unpack_soon()
            has_all = await self._gathering.gather_all()
        # Where some are left, of any study, only limits close a delivery.
        carrying = is_open if has_all else self._deliveries.associations()
        for delivery in self._deliveries.take_due(began_at, carrying):
            self._try_to_close(delivery, states)
        if is_forgetting:
            self._forgot_notes_at = time.monotonic()
            # What ended since `states` was read may have left instances that are not gathered yet.
            needed = self._deliveries.associations() | is_open
            self._spool.associations.forget(needed, time.time() - _FORGET_AFTER_SECONDS)

    def _enqueue(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        rank = rank_of(instance, self._settings)
        # Until its first instance a delivery has no rank, and a rule's may be below none.
        delivery.rank = max(delivery.rank, rank) if delivery.is_ranked else rank
        delivery.is_ranked = True
        self._progress.queued(instance.bytes)
        self._queue.add(delivery, instance, delivery.rank)

    def _enqueue_manifest_if_complete(self, delivery: Delivery) -> None:
        if delivery.is_closed and not delivery.unstored:
            if delivery.instances or delivery.elsewhere:
                self._queue.add(delivery, None, delivery.rank)
            else:
                self._remove(delivery.delivery_id, ())
                self._resent.remove(delivery)

    async def _put_queued(self) -> None:
        while True:
            put = await self._queue.take()
            delivery, instance, tries = put.delivery, put.instance, put.attempts + put.probes
            was_put = False
            try:
                if instance is None:
                    await self._finish(delivery, tries)
                else:
                    was_put = await self._put_instance(delivery, instance, tries)
            except PermanentError as error:
                self._give_up(put, str(error))
            except Exception as error:  # noqa: BLE001  # whatever it was, the file is still here: try again
                pause = self._queue.failed(put)
                self._progress.failed(describe(error))
                if is_full(error):
                    self._space.make()
                _logger.warning(
                    "put_failed delivery=%s attempt=%d pause_seconds=%.1f error=%s",
                    delivery.delivery_id,
                    put.attempts,
                    pause,
                    describe(error),
                )
            else:
                self._queue.succeeded()
                if instance is not None:
                    (self._progress.stored if was_put else self._progress.given_up)(instance.bytes)
                    delivery.unstored -= 1
                    self._enqueue_manifest_if_complete(delivery)

    async def _put_instance(self, delivery: Delivery, instance: ReceivedInstance, tries: int) -> bool:
        """Store an instance unless the store has it; tell whether it was put."""
        key = delivery.key_of(instance, self._edge)
        known = await self._resent.find_stored(delivery, key)
        if known is not None:
            if known.object_key == key:
                await self._tell(StoredObject(key, instance.bytes))
            else:
                self._resent.drop(delivery, instance)
            return False
        await self._bandwidth.admit(instance.bytes)
        sent_at_once = self._uploader.sent_at_once(instance.bytes)
        await self._in_flight.enter(sent_at_once)
        try:
            limit_seconds = self._in_flight.limit_seconds(tries)
            await self._uploader.put_instance(instance, key, limit_seconds, self._in_flight.moved)
        finally:
            self._in_flight.leave(sent_at_once)
        await self._tell(StoredObject(key, instance.bytes))
        self.ledger.note_stored(key, datetime.now(UTC))
        self._resent.was_put(key)
        return True

    def _give_up(self, put: Put, reason: str) -> None:
        """Quarantine an instance that will never be stored as it is; the others of its delivery go on."""
        delivery, instance = put.delivery, put.instance
        assert instance is not None, "a manifest is made of what is there"
        try:
            self._spool.quarantine(instance.file, reason)
        except OSError as error:  # it comes again
            self._queue.failed(put)
            self._fail(instance.file.path, error)
            return
        self._queue.dropped()
        self.ledger.note_problem(entry_of(instance, delivery, self._edge), reason)
        self._progress.given_up(instance.bytes)
        del delivery.instances[instance.sop_instance_uid]
        delivery.unstored -= 1
        self._enqueue_manifest_if_complete(delivery)

    def _try_to_close(self, delivery: Delivery, states: dict[str, str]) -> None:
        """Close a delivery, or leave it due: one that finds no room for its note holds up no other."""
        folder = self._spool.delivering / delivery.delivery_id
        if self._spool.aside.holds(folder):
            self._deliveries.put_back(delivery)
            return
        try:
            self._space.found(lambda: self._close(delivery, states))
        except Exception as error:  # noqa: BLE001  # a boundary around one of many
            self._deliveries.put_back(delivery)
            self._fail(folder, error)
        else:
            self._spool.aside.settle(folder)

    def _close(self, delivery: Delivery, states: dict[str, str]) -> None:
        """Fix a delivery's content by writing its manifest into its folder. Raises `OSError`, and then it is open."""
        if delivery.instances:  # else all were quarantined
            manifest = delivery.manifest(self._edge, datetime.now(UTC), lambda each: states.get(each, "lost"))
            self._spool.write_note(self._spool.delivering / delivery.delivery_id / MANIFEST_FILE, manifest.to_json())
            _logger.info(
                "delivery_closed delivery=%s instances=%d bytes=%d associations=%s",
                delivery.delivery_id,
                len(delivery.instances),
                delivery.bytes,
                ",".join(each.association_id for each in manifest.associations[:_LOGGED_ASSOCIATIONS]),
            )
        delivery.is_closed = True
        self._enqueue_manifest_if_complete(delivery)

    async def _finish(self, delivery: Delivery, tries: int) -> None:
        """Store the manifest of a delivery whose instances are stored, tell what was sent again, remove its folder."""
        if delivery.instances:
            await self._put_manifest(delivery, tries)
        for key, sizes in delivery.elsewhere.items():
            await self._tell(*itertools.starmap(StoredObject, sizes.items()), StoredObject(key, 0))
        while delivery.is_resent:
            delivery.is_resent = False
            sizes = delivery.sizes(self._edge)
            key = manifest_key(self._edge, delivery.delivery_id)
            await self._tell(*itertools.starmap(StoredObject, sizes.items()), StoredObject(key, 0))
        # What is sent again from here on finds no copy in the spool, and the store is asked.
        self._resent.remove(delivery)
        names = {each.file.path.name for each in delivery.instances.values()}
        await asyncio.to_thread(self._remove, delivery.delivery_id, names | delivery.skipped)

    async def _put_manifest(self, delivery: Delivery, tries: int) -> None:
        note = read_manifest(self._spool.delivering / delivery.delivery_id, self._edge)
        ends = {each.association_id: each.ended for each in note.associations} if note else {}
        closed_at = note.closed_at if note else datetime.now(UTC)
        content = delivery.manifest(self._edge, closed_at, lambda each: ends.get(each, "lost")).to_json()
        key = manifest_key(self._edge, delivery.delivery_id)
        sizes = delivery.sizes(self._edge)
        await self._in_flight.enter(len(content))
        try:
            await self._uploader.put_manifest(key, content, sizes, self._in_flight.limit_seconds(tries))
        finally:
            self._in_flight.leave(len(content))
        await self._tell(StoredObject(key, len(content)))
        self._resent.finish(delivery)
        self.ledger.write()
        _logger.info("delivery_stored delivery=%s instances=%d", delivery.delivery_id, len(sizes))

    def _remove(self, delivery_id: str, stored: Collection[str]) -> None:
        """Remove a delivery of which all is stored; where that fails, on a full volume for one, again later."""
        folder = self._spool.delivering / delivery_id
        try:
            self._spool.remove_delivery(delivery_id, stored)
        except OSError as error:
            self._spool.aside.note(folder, error)
            self._unremoved[folder] = stored
        else:
            self._spool.aside.settle(folder)

    def _remove_again(self) -> None:
        for folder in [folder for folder in self._unremoved if not self._spool.aside.holds(folder)]:
            self._remove(folder.name, self._unremoved.pop(folder))

    async def _tell(self, *stored: StoredObject) -> None:
        if self._announce is not None:
            await asyncio.to_thread(self._announce, stored)

    def _read_settings(self) -> None:
        """Put changed limits and priorities in force, for what is queued too."""
        before, self._settings = self._settings, self._reload()
        if before.priorities != self._settings.priorities:
            self._queue.rank_again(self._rank_again)

    def _rank_again(self, delivery: Delivery) -> int:
        ranks = (rank_of(instance, self._settings) for instance in delivery.instances.values())
        delivery.rank = max(ranks, default=0)
        return delivery.rank

    def _note_progress(self) -> None:
        """Once a second: write the ledger and the progress, forget old entries, look again at what was left."""
        if not self._progress.is_due():
            return
        self.ledger.write()
        if self.ledger.take_begun_anew():
            self._resent.fill_ledger()
        self._resent.tell()
        self._space.look()
        self._gathering.take_up()
        self._remove_again()
        if self._in_flight.is_stalled:
            self._progress.failed("the store takes nothing of what is being sent")
        self._progress.write(
            is_store_failing=self._is_store_failing(),
            pause_seconds=self._queue.pause_seconds,
            resent_skipped=self._resent.skipped,
            resent_stored_again=self._resent.stored_again,
            limit=limit_at(self._settings, datetime.now().astimezone()),
            gathered_until=self._gathering.gathered_until,
            is_full=self._space.is_full,
            set_aside=self._spool.aside.reasons(),
        )
        if time.monotonic() - self._forgot_at >= _FORGET_EVERY_SECONDS:
            self._forgot_at = time.monotonic()
            with contextlib.suppress(sqlite3.DatabaseError):  # locked: in an hour
                self.ledger.forget_before(datetime.now(UTC), self._settings.ledger_days)

    def _is_store_failing(self) -> bool:
        if not self._uploader.is_open:
            return time.monotonic() - self._began_at >= _OPEN_SECONDS
        return self._queue.is_store_failing or self._in_flight.is_stalled

    def _fail(self, path: Path, error: Exception) -> None:
        """Set something aside that could not be worked on; where it is the volume that is full, make room."""
        self._spool.aside.note(path, error)
        if is_full(error):
            self._space.make()
