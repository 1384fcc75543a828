"""From `received/` into deliveries, durably before any of it is stored; and what an earlier run has left of them.

What is gathered is given on to be put; when a delivery closes, and what is put, is not known here.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dicomflow.edge.deliver.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.deliver.heartbeat import Heartbeats
from dicomflow.edge.deliver.instances import entry_of, quarantine_unreadable, read_instances
from dicomflow.edge.deliver.leftovers import Leftover, Leftovers
from dicomflow.edge.deliver.missing import Missing
from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.routing import Routing
from dicomflow.edge.deliver.shared import Shared
from dicomflow.edge.spool.durable import is_full

__all__ = ["Gathering"]

_BATCH: Final = 500
# One MiB at most.
_BATCH_IF_TIGHT: Final = 16
_UNPACK_SECONDS: Final = 1.0
# Then limits, settings and progress have their turn, whatever a receiver acknowledges meanwhile.
_GATHER_SECONDS: Final = 2.0
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Gathering:
    """Moves received files into their deliveries, and submits them to be put. Event loop: one owner."""

    def __init__(
        self,
        shared: Shared,
        resent: Resent,
        deliveries: Deliveries,
        heartbeats: Heartbeats,
        submit: Callable[[Delivery, ReceivedInstance], None],
        routing: Routing,
        finish: Callable[[Delivery], None],
    ) -> None:
        # What was acknowledged until then, in seconds since the epoch, is in the ledger; None while that is not known.
        self.gathered_until: float | None = None
        self._shared = shared
        self._spool = shared.spool
        self._space = shared.space
        self._ledger = shared.ledger
        self._resent = resent
        self._deliveries = deliveries
        self._heartbeats = heartbeats
        self._submit = submit
        self._routing = routing
        self._finish = finish
        missing = Missing(shared.edge, shared.spool, shared.ledger)
        self._leftovers = Leftovers(shared.edge, shared.spool, missing, shared.fail)
        self._unpack_at = float("-inf")
        self._unpacked_until: float | None = None

    def look(self) -> None:
        """Find what an earlier run has left. Raises `OSError`."""
        self._leftovers.look()

    def take_up(self) -> None:
        """Go on with what an earlier run has left: deliveries with a manifest are closed, the others still open."""
        # In the order in which they were received, for a ledger that was lost.
        for left in sorted(self._leftovers.take(), key=_received_at):
            try:
                self._take_up(left, time.monotonic())
            except Exception as error:  # noqa: BLE001  # a boundary around one of many
                self._deliveries.drop(left.delivery_id)
                folder = self._shared.folder_of(left.delivery_id)
                self._leftovers.add(folder)
                self._shared.fail(folder, error)

    async def poll(self, *, with_segments: bool = False) -> bool:
        """Gather what has been received, and return True; False where more arrives than can be gathered in a while.

        Segments are looked at now and then, unless they are asked for.
        """
        if with_segments:
            self._unpack_at = float("-inf")
        until = time.monotonic() + _GATHER_SECONDS
        while await self._gather():
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0)  # the puts get their turn between batches
        if self._ledger.is_written and not self._spool.aside.has_instances:
            self.gathered_until = self._unpacked_until
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
                self._shared.fail(instance.file.path, error)
                if is_full(error):
                    has_more = False
                    break  # the next one would find no room either
                continue
            self._spool.aside.settle(instance.file.path)
            if assigned is not None:
                moved.append(assigned)
        # Once for each delivery, not for each instance: the disk is for senders that wait for their answers.
        touched = {delivery.delivery_id: delivery for delivery, _ in moved}
        synced = {delivery_id for delivery_id, delivery in touched.items() if self._sync(delivery)}
        for delivery, instance in moved:
            if delivery.delivery_id in synced:
                self._submit(delivery, instance)
                self._shared.progress.arrived(instance.bytes)
                self._heartbeats.saw(instance)
        self._ledger.write()
        return has_more

    def _take_up(self, left: Leftover, now: float) -> None:
        if left.is_closed or left.plan is not None:
            study = next((each.study_instance_uid for each in left.instances), "")
            delivery = Delivery(left.delivery_id, study, now, now, is_closed=True)
            delivery.has_folder = left.has_folder
            for instance in left.instances:
                delivery.add(instance, now)
            if left.plan is not None:
                self._routing.resume(delivery, left.plan, is_closed=left.is_closed)
            if not left.instances:
                self._finish(delivery)
                return
        else:
            delivery = self._deliveries.reopen(left.delivery_id, left.instances, now)
        delivery.opened_at = now - (time.time() - delivery.oldest_at)
        self._ledger.note_received(entry_of(instance, delivery, self._shared.edge) for instance in left.instances)
        self._ledger.write()
        # What the ledger says is stored is looked up, not believed.
        self._resent.take_up(delivery)
        for instance in left.missing:
            self._resent.seek(delivery, instance)
        for instance in left.instances:
            self._submit(delivery, instance)

    def _read_received(self) -> list[ReceivedInstance]:
        files = read_instances(self._spool.scan_received(), self._spool.quarantine, self._spool.aside)
        return sorted(itertools.islice(files, _BATCH), key=lambda each: each.received_at)

    def _assign(self, instance: ReceivedInstance, now: float) -> tuple[Delivery, ReceivedInstance] | None:
        """Move a received file into its delivery; None when it is delivered already, and gone."""
        try:
            copies = self._resent.copies_of(instance) if self._shared.settings().skip_resent else []
        except FileNotFoundError:
            raise
        except OSError as error:
            quarantine_unreadable(instance.file, error, self._spool.quarantine)
            return None
        whole = next(filter(self._resent.has_whole, copies), None)
        delivery = self._deliveries.find(instance, now) if whole is None else None
        if delivery is None:
            self._resent.skip(instance.file, whole)
            return None
        assigned = replace(instance, file=self._spool.assign(instance.file, delivery.delivery_id))
        delivery.add(assigned, now)
        self._resent.add(delivery, assigned, copies)
        self._ledger.note_received([entry_of(assigned, delivery, self._shared.edge)])
        return delivery, assigned

    def _sync(self, delivery: Delivery) -> bool:
        """Make what was moved into a delivery durable; one whose folder cannot be synced is taken up anew later."""
        folder = self._shared.folder_of(delivery.delivery_id)
        try:
            self._spool.sync_deliveries([delivery.delivery_id])
        except OSError as error:
            self._deliveries.drop(delivery.delivery_id)
            self._leftovers.add(folder)
            self._shared.fail(folder, error)
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
            if self._deliveries.is_any_open or self._shared.progress.waiting_files:
                return False  # what is stored first makes room, and its notes need what there is
            self._space.make()
        try:
            has_more = self._spool.unpack(_BATCH_IF_TIGHT if is_tight else _BATCH)
        except OSError as error:
            self._shared.fail(self._spool.unpacked, error)
            has_more = False
        else:
            if not has_more and not self._spool.is_stuck:
                self._unpacked_until = began_at
        if not has_more:
            self._unpack_at = now + min(_UNPACK_SECONDS, self._shared.settings().quiet_seconds / 4)
        return has_more


def _received_at(left: Leftover) -> datetime:
    """Return when the first of it was received; all of it may be other destinations'."""
    return min((each.received_at for each in left.instances), default=_NEVER)
