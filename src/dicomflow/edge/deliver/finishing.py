"""The end of a delivery: its manifest is stored last, what was sent again is told again, and its folder goes."""

import asyncio
import itertools
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from dicomflow.bucket.keys import manifest_key
from dicomflow.edge.deliver.bandwidth import InFlight
from dicomflow.edge.deliver.delivery import Delivery
from dicomflow.edge.deliver.instances import read_manifest
from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.shared import Shared, StoredObject
from dicomflow.edge.deliver.uploader import Uploader

__all__ = ["Finishing"]

_logger = logging.getLogger(__name__)


class Finishing:
    """Finishes deliveries whose instances are stored. Event loop: one owner."""

    def __init__(self, shared: Shared, uploader: Uploader, resent: Resent, in_flight: InFlight) -> None:
        self._shared = shared
        self._spool = shared.spool
        self._uploader = uploader
        self._resent = resent
        self._in_flight = in_flight
        self._unremoved: dict[str, Collection[str]] = {}  # stored deliveries, with the names of their files

    def look(self) -> None:
        """Find what an earlier run has stored and not removed. Raises `OSError`."""
        self._unremoved |= dict.fromkeys(self._spool.discard_stored(), ())

    def poll(self) -> None:
        """Try again to remove what could not be."""
        for each in [each for each in self._unremoved if not self._spool.aside.holds(self._shared.folder_of(each))]:
            self._remove(each, self._unremoved.pop(each))

    async def finish(self, delivery: Delivery, tries: int) -> None:
        """Store a delivery's manifest, tell what was sent again, and remove its folder. Raises as the store does."""
        if delivery.instances and (delivery.has_folder or not await self._has_manifest(delivery)):
            await self._put_manifest(delivery, tries)
        for key, sizes in delivery.elsewhere.items():
            await self._tell_all(key, sizes)
        while delivery.is_resent:
            delivery.is_resent = False
            edge = self._shared.edge
            await self._tell_all(manifest_key(edge, delivery.delivery_id), delivery.sizes(edge))
        self._shared.ledger.write()
        # What is sent again from here on finds no copy in the spool, and the store is asked.
        self._resent.remove(delivery)
        files = [each.file for each in delivery.instances.values()]
        names = {each.path.name for each in itertools.chain(files, *delivery.skipped.values())}
        await asyncio.to_thread(self._remove, delivery.delivery_id, names)

    def drop(self, delivery: Delivery) -> None:
        """Remove a delivery of which nothing is left to be stored."""
        self._remove(delivery.delivery_id, ())
        self._resent.remove(delivery)

    async def _put_manifest(self, delivery: Delivery, tries: int) -> None:
        edge = self._shared.edge
        note = read_manifest(self._shared.folder_of(delivery.delivery_id), edge)
        noted = {each.association_id: each for each in note.associations} if note else {}
        closed_at = note.closed_at if note else datetime.now(UTC)
        content = delivery.manifest(
            edge,
            closed_at,
            lambda each: noted[each].ended if each in noted else "lost",
            lambda each: noted[each].move_originators if each in noted else (),
        ).to_json()
        key, sizes = manifest_key(edge, delivery.delivery_id), delivery.sizes(edge)
        async with self._in_flight.sending(len(content)):
            await self._uploader.put_manifest(key, content, sizes, self._in_flight.limit_seconds(tries))
        await self._shared.tell(StoredObject(key, len(content)))
        self._resent.finish(delivery)
        _logger.info("delivery_stored delivery=%s instances=%d", delivery.delivery_id, len(sizes))

    async def _has_manifest(self, delivery: Delivery) -> bool:
        """Tell whether a manifest was put, which names all that was stored of its delivery. Raises as the store does.

        What the ledger has of one may be less by now, and must not take its place.
        """
        return await self._uploader.fetch(manifest_key(self._shared.edge, delivery.delivery_id)) is not None

    async def _tell_all(self, manifest: str, sizes: Mapping[str, int]) -> None:
        await self._shared.tell(*itertools.starmap(StoredObject, sizes.items()), StoredObject(manifest, 0))

    def _remove(self, delivery_id: str, stored: Collection[str]) -> None:
        """Remove a delivery of which all is stored; where that fails, on a full volume for one, again later."""
        folder = self._shared.folder_of(delivery_id)
        try:
            self._shared.ledger.sync()  # what is removed does not come again to be noted anew
            self._spool.remove_delivery(delivery_id, stored)
        except OSError as error:
            self._spool.aside.note(folder, error)
            self._unremoved[delivery_id] = stored
        else:
            self._spool.aside.settle(folder)
