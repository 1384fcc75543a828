"""Which deliveries are complete, once all that was received is gathered, and what they hold from then on."""

import logging
import time
from datetime import UTC, datetime
from typing import Final

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver.delivery import Deliveries, Delivery
from dicomflow.edge.deliver.gather import Gathering
from dicomflow.edge.deliver.putting import Putting
from dicomflow.edge.deliver.routing import Routing
from dicomflow.edge.deliver.shared import Shared
from dicomflow.edge.spool.names import MANIFEST_FILE

__all__ = ["Closing"]

# A modality may open an association an image; the manifest has them all.
_LOGGED_ASSOCIATIONS: Final = 20
_FORGET_AFTER_SECONDS: Final = 60.0
_FORGET_EVERY_SECONDS: Final = 2.0

_logger = logging.getLogger(__name__)


class Closing:
    """Closes the open deliveries and submits their manifests. Event loop: one owner."""

    def __init__(
        self, shared: Shared, deliveries: Deliveries, gathering: Gathering, putting: Putting, routing: Routing
    ) -> None:
        self._shared = shared
        self._spool = shared.spool
        self._deliveries = deliveries
        self._gathering = gathering
        self._putting = putting
        self._routing = routing
        self._forgot_at = float("-inf")

    async def poll(self) -> None:
        """Gather all that has been received, then close what is complete."""
        began_at = time.monotonic()
        # Before all else: what was sent on an association that has ended by now is gathered below.
        states = self._read_states(began_at)
        has_all = await self._gathering.poll()
        if states is None:
            return  # what was gathered just now is looked at in the next round
        carrying = {association_id for association_id, how in states.items() if how == "open"}
        if self._deliveries.is_any_due(began_at, carrying):
            # What waits in segments may belong to a delivery that is about to close.
            has_all = await self._gathering.poll(with_segments=True)
        if not has_all:  # some are left, of any study: only limits close a delivery
            carrying = self._deliveries.associations()
        for delivery in self._deliveries.take_due(began_at, carrying):
            await self._try_to_close(delivery, states)
        if self._is_forgetting(began_at):
            self._forgot_at = time.monotonic()
            # What ended since the states were read may have left instances that are not gathered yet.
            open_ = {association_id for association_id, how in states.items() if how == "open"}
            needed = self._deliveries.associations() | open_
            self._spool.associations.forget(needed, time.time() - _FORGET_AFTER_SECONDS)

    def _read_states(self, now: float) -> dict[str, str] | None:
        """Return how associations stand; None when nobody asks: there may be a note for each image of a minute."""
        if self._deliveries.is_any_open or self._is_forgetting(now):
            return self._spool.associations.read_states()
        return None

    def _is_forgetting(self, now: float) -> bool:
        return now - self._forgot_at >= _FORGET_EVERY_SECONDS

    async def _try_to_close(self, delivery: Delivery, states: dict[str, str]) -> None:
        """Close a delivery, or leave it due: one that finds no room for its note holds up no other."""
        folder = self._shared.folder_of(delivery.delivery_id)
        if self._spool.aside.holds(folder):
            self._deliveries.put_back(delivery)
            return
        try:
            if self._routing.is_on and delivery.instances:
                await self._routing.close(delivery, self._manifest(delivery, states))
            self._shared.space.found(lambda: self._close(delivery, states))
        except Exception as error:  # noqa: BLE001  # a boundary around one of many
            self._deliveries.put_back(delivery)
            self._shared.fail(folder, error)
        else:
            self._spool.aside.settle(folder)

    def _close(self, delivery: Delivery, states: dict[str, str]) -> None:
        """Fix a delivery's content by writing its manifest into its folder. Raises `OSError`, and then it is open."""
        if delivery.instances:  # else all were quarantined
            manifest = self._manifest(delivery, states)
            folder = self._shared.folder_of(delivery.delivery_id)
            self._spool.write_note(folder / MANIFEST_FILE, manifest.to_json())
            _logger.info(
                "delivery_closed delivery=%s instances=%d bytes=%d associations=%s",
                delivery.delivery_id,
                len(delivery.instances),
                delivery.bytes,
                ",".join(each.association_id for each in manifest.associations[:_LOGGED_ASSOCIATIONS]),
            )
        delivery.is_closed = True
        if self._routing.is_on:  # until here nobody knew where they go
            for instance in delivery.instances.values():
                self._putting.submit(delivery, instance)
        self._putting.submit_if_complete(delivery)

    def _manifest(self, delivery: Delivery, states: dict[str, str]) -> Manifest:
        return delivery.manifest(
            self._shared.edge,
            datetime.now(UTC),
            lambda each: states.get(each, "lost"),
            self._spool.associations.originators,
        )
