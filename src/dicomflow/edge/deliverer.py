"""The deliverer: from `received/` to the object store, and the manifest last.

It keeps its state in the spool's folders: a file moves from `received/` into its delivery's folder, the manifest is
written there when the delivery closes, and the folder goes when everything is stored. So a start after a crash
finds the same deliveries, and puts them under the same keys.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicomflow.edge.bandwidth import Bandwidth, InFlight, limit_at
from dicomflow.edge.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.feedback_reader import FeedbackReader
from dicomflow.edge.gather import (
    MANIFEST_FILE,
    entry_of,
    has_manifest,
    quarantine_unreadable,
    rank_of,
    read_instances,
)
from dicomflow.edge.heartbeat import Heartbeats
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.progress import PROGRESS_FILE, Progress
from dicomflow.edge.putqueue import PutQueue
from dicomflow.edge.resent import Resent, is_whole
from dicomflow.edge.settings import DeliverySettings, EdgeSettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.stores import identify_store
from dicomflow.edge.uploader import Uploader, backoff_seconds, describe
from dicomflow.errors import PermanentError
from dicomflow.manifest import Manifest, manifest_key

__all__ = ["Announce", "Deliverer", "StoredObject"]

_POLL_SECONDS: Final = 0.2
_BATCH: Final = 500
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
        self._slow_below_bytes = settings.spool.slow_below_bytes
        self._spool = spool
        self._uploader = uploader
        self._announce = announce
        store = identify_store(settings.delivery)
        self._ledger = Ledger(settings.spool.dir / LEDGER_FILE, store=store, busy_seconds=_LEDGER_BUSY_SECONDS)
        self._resent = Resent(settings.name, spool, self._ledger, store, uploader.is_stored)
        self._deliveries = Deliveries(settings.delivery, new_id=lambda: str(uuid.uuid4()), is_whole=is_whole)
        self._queue = PutQueue(time.monotonic, backoff_seconds)
        self._bandwidth = Bandwidth(lambda: self._settings, lambda: datetime.now().astimezone())
        # When every put is under way and one more waits.
        busy_files = settings.delivery.concurrency + 1
        self._progress = Progress(settings.spool.dir / PROGRESS_FILE, time.monotonic, busy_files)
        self._in_flight = InFlight(lambda: self._progress.line_bytes_per_second)
        self._feedback = FeedbackReader(settings.name, uploader.fetch, self._ledger)
        self._heartbeats = Heartbeats(settings, spool, uploader.put_note)
        self._feedback_seconds = _FEEDBACK_SECONDS[settings.commitment.level == "imported"]
        self._forgot_at = self._forgot_notes_at = self._unpack_at = float("-inf")

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._take_up()
                for _ in range(self._settings.concurrency):
                    group.create_task(self._put_queued())
                group.create_task(self._feedback.follow(self._feedback_seconds))
                group.create_task(self._heartbeats.follow())
                while True:
                    self._read_settings()
                    await self._gather_and_close()
                    self._note_progress()
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._ledger.write()
            self._ledger.close()

    def _take_up(self) -> None:
        """Go on with the deliveries of an earlier run: those with a manifest are closed, the others still open."""
        now = time.monotonic()
        self._spool.discard_stored()
        self._spool.spares.trim()
        for folder in sorted(path for path in self._spool.delivering.iterdir() if path.is_dir()):
            # The earlier run may have ended between moving files here and syncing that.
            self._spool.sync_deliveries([folder.name])
            instances = list(read_instances(self._spool.scan_delivery(folder.name), self._spool.quarantine))
            if not instances:
                if all(path.name.startswith(MANIFEST_FILE) for path in folder.iterdir()):
                    self._spool.remove_delivery(folder.name)
                continue
            is_closed = has_manifest(folder)
            if is_closed:
                delivery = Delivery(folder.name, instances[0].study_instance_uid, now, now, is_closed=True)
                for instance in instances:
                    delivery.add(instance, now)
            else:
                delivery = self._deliveries.reopen(folder.name, instances, now)
            delivery.opened_at = now - (time.time() - delivery.oldest_at)
            self._take_up_instances(delivery, instances)

    def _take_up_instances(self, delivery: Delivery, instances: Sequence[ReceivedInstance]) -> None:
        """Queue what is not stored yet; what the ledger says is stored is looked up, not believed."""
        self._ledger.note_received(entry_of(instance, delivery, self._edge) for instance in instances)
        self._ledger.write()
        self._resent.take_up(delivery)
        for instance in instances:
            self._enqueue(delivery, instance)
        self._enqueue_manifest_if_complete(delivery)

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
            self._close(delivery, states)
        if is_forgetting:
            self._forgot_notes_at = time.monotonic()
            # What ended since `states` was read may have left instances that are not gathered yet.
            needed = self._deliveries.associations() | is_open
            self._spool.associations.forget(needed, time.time() - _FORGET_AFTER_SECONDS)

    async def _gather_all(self) -> bool:
        """Gather what has been received, and return True; False where more arrives than can be gathered in a while."""
        until = time.monotonic() + _GATHER_SECONDS
        while self._gather():
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0)  # the puts get their turn between batches
        return True

    def _gather(self) -> bool:
        """Move received files into their deliveries, durably before any of them is stored; True if some are left."""
        now = time.monotonic()
        moved: list[tuple[Delivery, ReceivedInstance]] = []
        has_more = self._unpack(now)
        for instance in read_instances(self._spool.scan_received(), self._spool.quarantine):
            if len(moved) >= _BATCH:
                has_more = True
                break
            try:
                copies = self._resent.copies_of(instance) if self._settings.skip_resent else []
            except FileNotFoundError:
                continue  # as in `read_instances`
            except OSError as error:
                quarantine_unreadable(instance.file, error, self._spool.quarantine)
                continue
            try:
                is_here = any(map(self._resent.has_whole, copies))
                delivery = None if is_here else self._deliveries.find(instance, now)
                if delivery is None:
                    self._resent.skip(instance.file)
                    continue
                file = self._spool.assign(instance.file, delivery.delivery_id)
            except FileNotFoundError:
                continue  # as in `read_instances`
            assigned = replace(instance, file=file)
            delivery.add(assigned, now)
            moved.append((delivery, assigned))
            self._resent.add(delivery, assigned, copies)
            self._ledger.note_received([entry_of(assigned, delivery, self._edge)])
        self._spool.sync_deliveries({delivery.delivery_id for delivery, _ in moved})
        self._ledger.write()
        for delivery, assigned in moved:
            self._enqueue(delivery, assigned)
            self._progress.arrived(assigned.bytes)
            self._heartbeats.saw(assigned)
        return has_more

    def _unpack(self, now: float) -> bool:
        """Make files of small instances; True if more may be there.

        Not at each round: they are durable where they are, and the disk is for senders that wait for their answers.
        """
        if now < self._unpack_at:
            return False
        has_more = self._spool.unpack(_BATCH)
        if not has_more:
            self._unpack_at = now + min(_UNPACK_SECONDS, self._settings.quiet_seconds / 4)
        return has_more

    def _enqueue(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        rank = rank_of(instance, self._settings)
        # Until its first instance a delivery has no rank, and a rule's may be below none.
        delivery.rank = max(delivery.rank, rank) if delivery.is_ranked else rank
        delivery.is_ranked = True
        delivery.unstored += 1
        self._progress.queued(instance.bytes)
        self._queue.add(delivery, instance, delivery.rank)

    def _enqueue_manifest_if_complete(self, delivery: Delivery) -> None:
        if delivery.is_closed and not delivery.unstored:
            if delivery.instances:
                self._queue.add(delivery, None, delivery.rank)
            else:
                self._spool.remove_delivery(delivery.delivery_id)
                self._resent.remove(delivery)

    async def _put_queued(self) -> None:
        while True:
            put = await self._queue.take()
            delivery, instance, tries = put.delivery, put.instance, put.attempts + put.probes
            was_put = False
            try:
                if instance is None:
                    await self._put_manifest(delivery, tries)
                else:
                    was_put = await self._put_instance(delivery, instance, tries)
            except PermanentError as error:
                self._queue.dropped()
                self._give_up(delivery, instance, str(error))
            except Exception as error:  # noqa: BLE001  # whatever it was, the file is still here: try again
                pause = self._queue.failed(put)
                self._progress.failed(describe(error))
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
        known = await self._resent.find_stored(key)
        if known is not None:
            if known.object_key != key:
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
        self._ledger.note_stored(key, datetime.now(UTC))
        self._resent.was_put(key)
        return True

    def _give_up(self, delivery: Delivery, instance: ReceivedInstance | None, reason: str) -> None:
        """Quarantine an instance that will never be stored as it is; the others of its delivery go on."""
        if instance is None:
            # A manifest that cannot be read is written again from what is there.
            self._spool.write_note(
                self._manifest_path(delivery),
                delivery.manifest(self._edge, datetime.now(UTC), lambda _: "lost").to_json(),
            )
            self._queue.add(delivery, None, delivery.rank)
            return
        _logger.warning("instance_quarantined file=%s reason=%s", instance.file.path.name, reason)
        self._spool.quarantine(instance.file, reason)
        self._ledger.note_problem(entry_of(instance, delivery, self._edge), reason)
        self._progress.given_up(instance.bytes)
        del delivery.instances[instance.sop_instance_uid]
        delivery.unstored -= 1
        self._enqueue_manifest_if_complete(delivery)

    def _close(self, delivery: Delivery, states: dict[str, str]) -> None:
        """Fix a delivery's content by writing its manifest into its folder."""
        delivery.is_closed = True
        if not delivery.instances:  # all were quarantined
            self._enqueue_manifest_if_complete(delivery)
            return
        manifest = delivery.manifest(self._edge, datetime.now(UTC), lambda each: states.get(each, "lost"))
        self._spool.write_note(self._manifest_path(delivery), manifest.to_json())
        self._enqueue_manifest_if_complete(delivery)
        _logger.info(
            "delivery_closed delivery=%s instances=%d bytes=%d associations=%s",
            delivery.delivery_id,
            len(delivery.instances),
            delivery.bytes,
            ",".join(each.association_id for each in manifest.associations[:_LOGGED_ASSOCIATIONS]),
        )

    async def _put_manifest(self, delivery: Delivery, tries: int) -> None:
        """Store the manifest of a delivery whose instances are stored, and remove its folder."""
        manifest = Manifest.from_json(self._manifest_path(delivery).read_bytes())
        content = manifest.only(delivery.instances).to_json()
        key = manifest_key(self._edge, delivery.delivery_id)
        sizes = {delivery.key_of(each, self._edge): each.bytes for each in delivery.instances.values()}
        await self._in_flight.enter(len(content))
        try:
            await self._uploader.put_manifest(key, content, sizes, self._in_flight.limit_seconds(tries))
        finally:
            self._in_flight.leave(len(content))
        await self._tell(StoredObject(key, len(content)))
        self._resent.finish(delivery)
        self._ledger.write()
        try:
            await asyncio.to_thread(self._spool.remove_delivery, delivery.delivery_id)
        except OSError as error:
            # Everything is stored; what is left here goes at the next start.
            _logger.warning("delivery_not_removed delivery=%s errno=%s", delivery.delivery_id, error.errno)
        self._resent.remove(delivery)
        _logger.info("delivery_stored delivery=%s instances=%d", delivery.delivery_id, len(sizes))

    async def _tell(self, stored: StoredObject) -> None:
        announce = self._announce
        if announce is not None:
            await asyncio.to_thread(announce, [stored])

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
        """Once a second: write the ledger and the progress, forget old entries, give up spares where space is short."""
        if not self._progress.is_due():
            return
        self._ledger.write()
        if self._ledger.take_begun_anew():
            self._resent.fill_ledger()
        self._resent.tell()
        if self._spool.free_bytes() < self._slow_below_bytes:
            self._spool.spares.trim(0)
        if self._in_flight.is_stalled:
            self._progress.failed("the store takes nothing of what is being sent")
        self._progress.write(
            is_store_failing=self._queue.is_store_failing or self._in_flight.is_stalled,
            pause_seconds=self._queue.pause_seconds,
            resent_skipped=self._resent.skipped,
            resent_stored_again=self._resent.stored_again,
            limit=limit_at(self._settings, datetime.now().astimezone()),
        )
        if time.monotonic() - self._forgot_at >= _FORGET_EVERY_SECONDS:
            self._forgot_at = time.monotonic()
            with contextlib.suppress(sqlite3.DatabaseError):  # locked: in an hour
                self._ledger.forget_before(datetime.now(UTC), self._settings.ledger_days)

    def _manifest_path(self, delivery: Delivery) -> Path:
        return self._spool.delivering / delivery.delivery_id / MANIFEST_FILE
