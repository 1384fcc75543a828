"""Instances to the store, each until it is there or can never be; the last of a delivery leads to its manifest."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from dicomflow.edge.deliver.bandwidth import Bandwidth, InFlight
from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance
from dicomflow.edge.deliver.finishing import Finishing
from dicomflow.edge.deliver.instances import entry_of, fault_of, rank_of, unreadable
from dicomflow.edge.deliver.queue import Put, PutQueue
from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.shared import Shared, StoredObject
from dicomflow.edge.deliver.uploader import UnreadableFileError, Uploader, backoff_seconds, describe
from dicomflow.edge.spool.durable import is_full
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.errors import PermanentError

__all__ = ["Putting"]

_logger = logging.getLogger(__name__)


class Putting:
    """Puts what is submitted. Event loop: one owner."""

    def __init__(
        self, shared: Shared, uploader: Uploader, resent: Resent, in_flight: InFlight, finishing: Finishing
    ) -> None:
        self._shared = shared
        self._uploader = uploader
        self._resent = resent
        self._in_flight = in_flight
        self._finishing = finishing
        self._progress = shared.progress
        self._bandwidth = Bandwidth(shared.settings, lambda: datetime.now().astimezone())
        self.queue = PutQueue(time.monotonic, backoff_seconds)

    def submit(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        """Take an instance of a delivery, durably gathered."""
        rank = rank_of(instance, self._shared.settings())
        # Until its first instance a delivery has no rank, and a rule's may be below none.
        delivery.rank = max(delivery.rank, rank) if delivery.is_ranked else rank
        delivery.is_ranked = True
        self._progress.queued(instance.bytes)
        self.queue.add(delivery, instance, delivery.rank)

    def submit_if_complete(self, delivery: Delivery) -> None:
        """Take the manifest of a delivery that is closed, once its instances are stored."""
        if delivery.is_closed and not delivery.unstored:
            if delivery.instances or delivery.elsewhere:
                self.queue.add(delivery, None, delivery.rank)
            else:
                self._finishing.drop(delivery)

    def rank_again(self) -> None:
        """Put changed priorities in force for what waits."""

        def _rank(delivery: Delivery) -> int:
            ranks = (rank_of(instance, self._shared.settings()) for instance in delivery.instances.values())
            delivery.rank = max(ranks, default=0)
            return delivery.rank

        self.queue.rank_again(_rank)

    async def run(self) -> None:
        """Put one after the other until cancelled; as many of these run as puts are to be under way."""
        while True:
            put = await self.queue.take()
            tries = put.attempts + put.probes
            try:
                if put.instance is None:
                    await self._finishing.finish(put.delivery, tries)
                    was_put = True
                else:
                    was_put = await self._put(put.delivery, put.instance, tries)
            except PermanentError as error:
                self._give_up(put, str(error))
            except UnreadableFileError as error:
                self._leave_out(put, error.error)
            except Exception as error:  # noqa: BLE001  # whatever it was, the file is still here: try again
                self._try_again(put, error)
            else:
                self.queue.succeeded()
                self._count(put, was_put=was_put)

    def _try_again(self, put: Put, error: Exception) -> None:
        pause = self.queue.failed(put)
        self._progress.failed(describe(error))
        if is_full(error):
            self._shared.space.make()
        _logger.warning(
            "put_failed delivery=%s attempt=%d pause_seconds=%.1f error=%s",
            put.delivery.delivery_id,
            put.attempts,
            pause,
            describe(error),
        )

    def _count(self, put: Put, *, was_put: bool) -> None:
        """Note that an instance waits no more."""
        if put.instance is not None:
            self._shared.spool.aside.settle(put.instance.file.path)
            (self._progress.stored if was_put else self._progress.given_up)(put.instance.bytes)
            put.delivery.unstored -= 1
            self.submit_if_complete(put.delivery)

    async def _put(self, delivery: Delivery, instance: ReceivedInstance, tries: int) -> bool:
        """Store an instance unless the store has it; tell whether it was put."""
        key = delivery.key_of(instance, self._shared.edge)
        known = await self._resent.find_stored(delivery, key)
        if known is not None:
            if known.object_key == key:
                await self._shared.tell(StoredObject(key, instance.bytes))
            else:
                self._resent.drop(delivery, instance, known)
            return False
        await self._bandwidth.admit(instance.bytes)
        async with self._in_flight.sending(self._uploader.sent_at_once(instance.bytes)):
            limit_seconds = self._in_flight.limit_seconds(tries)
            await self._uploader.put_instance(instance, key, limit_seconds, self._in_flight.moved)
        await self._shared.tell(StoredObject(key, instance.bytes))
        self._shared.ledger.note_stored(key, datetime.now(UTC))
        self._resent.was_put(key)
        return True

    def _leave_out(self, put: Put, error: OSError) -> None:
        """Have a file that cannot be read follow in a delivery of its own, or quarantine it where it never can be."""
        spool, fault = self._shared.spool, fault_of(error)
        if fault is not None:
            self._give_up(put, fault)
            return

        def _receive_again(file: ReceivedFile, _reason: str) -> None:
            spool.receive_again(file)
            spool.aside.settle(file.path)
            spool.aside.note(spool.unpacked / file.path.name, error)

        self._give_up(put, unreadable(error), _receive_again)

    def _give_up(self, put: Put, reason: str, take_away: Callable[[ReceivedFile, str], None] | None = None) -> None:
        """Quarantine an instance that will not be stored as it is; the others of its delivery go on."""
        delivery, instance = put.delivery, put.instance
        assert instance is not None, "a manifest is made of what is there"
        try:
            (take_away or self._shared.spool.quarantine)(instance.file, reason)
        except OSError as error:  # it comes again
            self.queue.failed(put)
            self._shared.fail(instance.file.path, error)
            return
        self.queue.dropped()
        self._shared.ledger.note_problem(entry_of(instance, delivery, self._shared.edge), reason)
        del delivery.instances[instance.sop_instance_uid]
        self._count(put, was_put=False)
