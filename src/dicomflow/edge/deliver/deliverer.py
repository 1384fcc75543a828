"""The deliverer: from `received/` to the object store, and the manifest last.

It keeps its state in the spool's folders: a file moves from `received/` into its delivery's folder, the manifest is
written there when the delivery closes, and the folder goes when everything is stored. So a start after a crash
finds the same deliveries, and puts them under the same keys.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomflow.bucket.keys import manifest_key
from dicomflow.edge.deliver.bandwidth import Bandwidth, InFlight, limit_at
from dicomflow.edge.deliver.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.deliver.feedback import FeedbackReader
from dicomflow.edge.deliver.heartbeat import Heartbeats
from dicomflow.edge.deliver.instances import (
    MANIFEST_FILE,
    entry_of,
    quarantine_unreadable,
    rank_of,
    read_instances,
    read_manifest,
)
from dicomflow.edge.deliver.leftovers import Leftovers
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
_BATCH: Final = 500
# One MiB at most.
_BATCH_IF_TIGHT: Final = 16
_UNPACK_SECONDS: Final = 1.0
# Then limits, settings and progress have their turn, whatever a receiver acknowledges meanwhile.
_GATHER_SECONDS: Final = 2.0
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
        self._reload = reload
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
        self._leftovers = Leftovers(settings.name, spool, self._fail)
        self._deliveries = Deliveries(settings.delivery, new_id=lambda: str(uuid.uuid4()), is_whole=is_whole)
        self._queue = PutQueue(time.monotonic, backoff_seconds)
        self._bandwidth = Bandwidth(lambda: self._settings, lambda: datetime.now().astimezone())
        # When every put is under way and one more waits.
        busy_files = settings.delivery.concurrency + 1
        self._progress = Progress(settings.spool.dir / PROGRESS_FILE, time.monotonic, busy_files)
        self._in_flight = InFlight(lambda: self._progress.line_bytes_per_second)
        self._feedback = FeedbackReader(settings.name, uploader.fetch, self.ledger)
        self._heartbeats = Heartbeats(settings, spool, uploader.put_note)
        self._began_at = time.monotonic()
        self._feedback_seconds = _FEEDBACK_SECONDS[settings.commitment.level == "imported"]
        self._forgot_at = self._forgot_notes_at = self._unpack_at = float("-inf")
        # What was acknowledged until then, in seconds since the epoch, is unpacked, and is in the ledger.
        self._unpacked_until = self._gathered_until = 0.0

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._spool.discard_stored()
                self._spool.spares.trim()
                self._leftovers.look()
                self._progress.forget()
                self._take_up()
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

    def _take_up(self) -> None:
        """Go on with what an earlier run has left: deliveries with a manifest are closed, the others still open."""
        now = time.monotonic()
        for left in self._leftovers.take():
            if left.is_closed:
                delivery = Delivery(left.delivery_id, left.instances[0].study_instance_uid, now, now, is_closed=True)
                for instance in left.instances:
                    delivery.add(instance, now)
            else:
                delivery = self._deliveries.reopen(left.delivery_id, left.instances, now)
            delivery.opened_at = now - (time.time() - delivery.oldest_at)
            self.ledger.note_received(entry_of(instance, delivery, self._edge) for instance in left.instances)
            self.ledger.write()
            # What the ledger says is stored is looked up, not believed.
            self._resent.take_up(delivery)
            for instance in left.instances:
                self._enqueue(delivery, instance)

    async def _gather_and_close(self) -> None:
        """Take all that has been received, then close what is complete."""
        began_at = time.monotonic()
        is_forgetting = began_at - self._forgot_notes_at >= _FORGET_NOTES_EVERY_SECONDS
        # There may be a note for each image of the last minute: they are read only for somebody who asks.
        states = self._spool.associations.read_states() if is_forgetting or self._deliveries.is_any_open else None
        has_all = await self._gather_all()
        if states is None:
            return  # what was gathered just now is looked at in the next round
        is_open = {association_id for association_id, state in states.items() if state == "open"}
        # What was touched since the states were read may be of an association that they do not have.
        if self._deliveries.is_any_due(began_at, is_open):
            # What waits in segments may belong to a delivery that is about to close.
            self._unpack_at = float("-inf")
            has_all = await self._gather_all()
        # Where some are left, of any study, only limits close a delivery.
        carrying = is_open if has_all else self._deliveries.associations()
        for delivery in self._deliveries.take_due(began_at, carrying):
            self._try_to_close(delivery, states)
        if is_forgetting:
            self._forgot_notes_at = time.monotonic()
            # What ended since `states` was read may have left instances that are not gathered yet.
            needed = self._deliveries.associations() | is_open
            self._spool.associations.forget(needed, time.time() - _FORGET_AFTER_SECONDS)

    async def _gather_all(self) -> bool:
        """Gather what has been received, and return True; False where more arrives than can be gathered in a while."""
        until = time.monotonic() + _GATHER_SECONDS
        while await self._gather():
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0)  # the puts get their turn between batches
        if self.ledger.is_written and not self._spool.aside.reasons():
            self._gathered_until = self._unpacked_until
        return True

    async def _gather(self) -> bool:
        """Move received files into their deliveries, durably before any of them is stored; True if some are left."""
        now = time.monotonic()
        moved: list[tuple[Delivery, ReceivedInstance]] = []
        has_more = self._unpack(now)
        # In a thread: a head that takes long to read holds up no put.
        received = await asyncio.to_thread(self._read_received)
        has_more = has_more or len(received) == _BATCH
        for instance in received:
            try:
                assigned = self._space.found(functools.partial(self._assign, instance, now))
            except FileNotFoundError:
                continue  # as in `read_all`
            except Exception as error:  # noqa: BLE001  # a boundary around one of many
                self._fail(instance.file.path, error)
                if is_full(error):
                    has_more = False
                    break  # the next one would find no room either
                continue
            self._spool.aside.settle(instance.file.path)
            if assigned is not None:
                moved.append(assigned)
        synced = {delivery.delivery_id for delivery, _ in moved if self._sync(delivery)}
        for delivery, instance in moved:
            if delivery.delivery_id in synced:
                self._enqueue(delivery, instance)
                self._progress.arrived(instance.bytes)
                self._heartbeats.saw(instance)
        self.ledger.write()
        return has_more

    def _read_received(self) -> list[ReceivedInstance]:
        files = read_instances(self._spool.scan_received(), self._spool.quarantine, self._spool.aside)
        return list(itertools.islice(files, _BATCH))

    def _assign(self, instance: ReceivedInstance, now: float) -> tuple[Delivery, ReceivedInstance] | None:
        """Move a received file into its delivery; None when it is delivered already, and gone."""
        try:
            copies = self._resent.copies_of(instance) if self._settings.skip_resent else []
        except FileNotFoundError:
            raise
        except OSError as error:
            quarantine_unreadable(instance.file, error, self._spool.quarantine)
            return None
        delivery = None if any(map(self._resent.has_whole, copies)) else self._deliveries.find(instance, now)
        if delivery is None:
            self._resent.skip(instance.file)
            return None
        assigned = replace(instance, file=self._spool.assign(instance.file, delivery.delivery_id))
        delivery.add(assigned, now)
        self._resent.add(delivery, assigned, copies)
        self.ledger.note_received([entry_of(assigned, delivery, self._edge)])
        return delivery, assigned

    def _sync(self, delivery: Delivery) -> bool:
        """Make what was moved into a delivery durable; one whose folder cannot be synced is taken up anew later."""
        folder = self._spool.delivering / delivery.delivery_id
        try:
            self._spool.sync_deliveries([delivery.delivery_id])
        except OSError as error:
            self._deliveries.drop(delivery.delivery_id)
            self._leftovers.add(folder)
            self._fail(folder, error)
            return False
        return True

    def _unpack(self, now: float) -> bool:
        """Make files of small instances; True if more may be there.

        Not at each round: they are durable where they are, and the disk is for senders that wait for their answers.
        """
        if now < self._unpack_at:
            return False
        began_at = time.time()
        is_tight = self._space.is_tight
        if is_tight:
            if self._deliveries.is_any_open or self._progress.waiting_files:
                return False  # what is stored first makes room, and its notes need what there is
            self._space.make()
        try:
            has_more = self._spool.unpack(_BATCH_IF_TIGHT if is_tight else _BATCH)
        except OSError as error:
            self._fail(self._spool.unpacked, error)
            has_more = False
        else:
            if not has_more and not self._spool.is_stuck:
                self._unpacked_until = began_at
        if not has_more:
            self._unpack_at = now + min(_UNPACK_SECONDS, self._settings.quiet_seconds / 4)
        return has_more

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
            sizes = self._sizes_of(delivery)
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
        sizes = self._sizes_of(delivery)
        await self._in_flight.enter(len(content))
        try:
            await self._uploader.put_manifest(key, content, sizes, self._in_flight.limit_seconds(tries))
        finally:
            self._in_flight.leave(len(content))
        await self._tell(StoredObject(key, len(content)))
        self._resent.finish(delivery)
        self.ledger.write()
        _logger.info("delivery_stored delivery=%s instances=%d", delivery.delivery_id, len(sizes))

    def _sizes_of(self, delivery: Delivery) -> dict[str, int]:
        return {delivery.key_of(each, self._edge): each.bytes for each in delivery.instances.values()}

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
        announce = self._announce
        if announce is not None:
            await asyncio.to_thread(announce, stored)

    def _read_settings(self) -> None:
        """Put changed limits and priorities in force, for what is queued too."""
        if self._reload is None:
            return
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
        self._take_up()
        self._remove_again()
        if self._in_flight.is_stalled:
            self._progress.failed("the store takes nothing of what is being sent")
        self._progress.write(
            is_store_failing=self._is_store_failing(),
            pause_seconds=self._queue.pause_seconds,
            resent_skipped=self._resent.skipped,
            resent_stored_again=self._resent.stored_again,
            limit=limit_at(self._settings, datetime.now().astimezone()),
            gathered_until=self._gathered_until,
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
