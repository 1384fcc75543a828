"""The deliverer process: from `received/` to the object store, and the manifest last.

It keeps its state in the spool's folders: a file moves from `received/` into its delivery's folder, the manifest is
written there when the delivery closes, and the folder goes when everything is stored. So a start after a crash
finds the same deliveries, and puts them under the same keys.
"""

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from dicomflow import logs
from dicomflow.dicom.part10 import decode_file_meta
from dicomflow.dicom.scan import Identity, read_identity, scan
from dicomflow.dicom.uids import is_usable, strip_padding
from dicomflow.edge.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.server import LogSettings
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool import ReceivedFile, Spool
from dicomflow.edge.stores import build_store, local_root
from dicomflow.edge.uploader import DamagedFileError, Uploader, retry
from dicomflow.errors import PeerError, PermanentError
from dicomflow.manifest import Manifest, manifest_key

__all__ = ["Announce", "Deliverer", "DelivererStart", "StoredObject", "run_deliverer"]

# Receiving goes first: a sender waits for its answer, a delivery does not.
_NICENESS: Final = 10
_POLL_SECONDS: Final = 0.2
_HEAD_BYTES: Final = 16 << 10
_BATCH: Final = 500
_FORGET_AFTER_SECONDS: Final = 60.0
_MANIFEST_FILE: Final = "manifest.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is in the store."""

    key: str
    bytes: int


# Told of every stored object, at least once: the place of S3's notifications where the store is a folder.
Announce = Callable[[Sequence[StoredObject]], None]


@dataclass(frozen=True, slots=True)
class DelivererStart:
    """What the deliverer is started with."""

    settings: EdgeSettings
    logs: LogSettings
    announce: Announce | None


def run_deliverer(start: DelivererStart) -> None:
    """Run the deliverer until it is told to stop. Process: the main function of the deliverer."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    settings = start.settings
    spool = Spool(settings.spool.dir, fsync=settings.spool.fsync)
    lock = FileLock(settings.spool.dir / "deliverer.lock")
    while True:
        try:
            # A deliverer of an earlier run may still be ending.
            lock.acquire(timeout=1)
        except Timeout:
            _logger.warning("deliverer_waits reason=another deliverer has the spool")
        else:
            break
    deliverer = Deliverer(
        settings,
        spool,
        Uploader(build_store(settings.delivery), local_root(settings.delivery.store_url)),
        start.announce,
    )
    asyncio.run(_run(deliverer))
    logging.shutdown()
    # Puts in flight are repeated under the same keys at the next start.
    os._exit(0)


async def _run(deliverer: "Deliverer") -> None:
    """Deliver until a signal comes or the supervisor ends; an error of ours ends the process, which is restarted."""
    loop = asyncio.get_running_loop()
    delivering = asyncio.create_task(deliverer.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(delivering.cancel))
    parent = multiprocessing.parent_process()
    while not delivering.done():
        if parent is not None and multiprocessing.connection.wait([parent.sentinel], timeout=0):
            delivering.cancel()
        await asyncio.wait([delivering], timeout=_POLL_SECONDS)
    if not delivering.cancelled():
        delivering.result()


class Deliverer:
    """Gathers received files to deliveries and stores them. Event loop: one owner of all state."""

    def __init__(self, settings: EdgeSettings, spool: Spool, uploader: Uploader, announce: Announce | None) -> None:
        self._edge = settings.name
        self._spool = spool
        self._uploader = uploader
        self._announce = announce
        self._concurrency = settings.delivery.concurrency
        self._deliveries = Deliveries(settings.delivery, new_id=lambda: str(uuid.uuid4()))
        # What is to be put, in order of arrival; None stands for a delivery's manifest.
        self._queue: asyncio.Queue[tuple[Delivery, ReceivedInstance | None]] = asyncio.Queue()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._put_queued())
            self._take_up()
            while True:
                await self._gather_and_close()
                await asyncio.sleep(_POLL_SECONDS)

    def _take_up(self) -> None:
        """Go on with the deliveries of an earlier run: those with a manifest are closed, the others still open."""
        now = time.monotonic()
        self._spool.discard_stored()
        for folder in sorted(path for path in self._spool.delivering.iterdir() if path.is_dir()):
            # The earlier run may have ended between moving files here and syncing that.
            self._spool.sync_deliveries([folder.name])
            instances = list(self._read(self._spool.scan_delivery(folder.name)))
            if instances and _has_manifest(folder):
                delivery = Delivery(folder.name, "", now, now, is_closed=True)
                for instance in instances:
                    delivery.add(instance, now)
                    self._enqueue(delivery, instance)
                self._enqueue_manifest_if_complete(delivery)
            elif instances:
                delivery = self._deliveries.reopen(folder.name, instances, now)
                for instance in instances:
                    self._enqueue(delivery, instance)
            elif all(path.name.startswith(_MANIFEST_FILE) for path in folder.iterdir()):
                self._spool.remove_delivery(folder.name)

    async def _gather_and_close(self) -> None:
        """Take all that has been received, then close what is complete."""
        states = self._spool.association_states()
        while self._gather():  # noqa: ASYNC110  # it does not wait: the puts get their turn between batches
            await asyncio.sleep(0)
        is_open = {association_id for association_id, state in states.items() if state == "open"}
        for delivery in self._deliveries.take_due(time.monotonic(), is_open):
            self._close(delivery, states)
        # What ended since `states` was read may have left instances that are not gathered yet.
        needed = self._deliveries.associations() | is_open
        self._spool.forget_ended(needed, time.time() - _FORGET_AFTER_SECONDS)

    def _gather(self) -> bool:
        """Move received files into their deliveries, durably before any of them is stored; True if some are left."""
        now = time.monotonic()
        moved: list[tuple[Delivery, ReceivedInstance]] = []
        has_more = False
        for instance in self._read(self._spool.scan_received()):
            if len(moved) >= _BATCH:
                has_more = True
                break
            delivery = self._deliveries.find(instance, now)
            if delivery is None:
                self._spool.remove(instance.file)
                continue
            file = self._spool.assign(instance.file, delivery.delivery_id)
            assigned = replace(instance, file=file)
            delivery.add(assigned, now)
            moved.append((delivery, assigned))
        self._spool.sync_deliveries({delivery.delivery_id for delivery, _ in moved})
        for delivery, assigned in moved:
            self._enqueue(delivery, assigned)
        return has_more

    def _read(self, files: Iterable[ReceivedFile]) -> Iterator[ReceivedInstance]:
        """Read the heads of files; one that cannot be read is quarantined with its reason."""
        for file in files:
            try:
                yield _read_instance(file)
            except PeerError as error:
                _logger.warning("instance_quarantined file=%s reason=%s", file.path.name, error)
                self._spool.quarantine(file, str(error))

    def _enqueue(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        delivery.unstored += 1
        self._queue.put_nowait((delivery, instance))

    def _enqueue_manifest_if_complete(self, delivery: Delivery) -> None:
        if delivery.is_closed and not delivery.unstored:
            if delivery.instances:
                self._queue.put_nowait((delivery, None))
            else:
                self._spool.remove_delivery(delivery.delivery_id)

    async def _put_queued(self) -> None:
        while True:
            delivery, instance = await self._queue.get()
            if instance is None:
                await self._put_manifest(delivery)
                continue
            try:
                await self._put_instance(delivery, instance)
            except DamagedFileError as error:
                _logger.warning("instance_quarantined file=%s reason=%s", instance.file.path.name, error)
                self._spool.quarantine(instance.file, str(error))
                del delivery.instances[instance.sop_instance_uid]
            delivery.unstored -= 1
            self._enqueue_manifest_if_complete(delivery)

    async def _put_instance(self, delivery: Delivery, instance: ReceivedInstance) -> None:
        key = delivery.key_of(instance, self._edge)
        await retry("put", lambda: self._uploader.put_instance(instance, key))
        await self._tell(StoredObject(key, instance.bytes))

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
            "delivery_closed delivery=%s instances=%d bytes=%d",
            delivery.delivery_id,
            len(delivery.instances),
            delivery.bytes,
        )

    async def _put_manifest(self, delivery: Delivery) -> None:
        """Store the manifest of a delivery whose instances are stored, and remove its folder."""
        manifest = Manifest.from_json(self._manifest_path(delivery).read_bytes())
        content = manifest.only(delivery.instances).to_json()
        key = manifest_key(self._edge, delivery.delivery_id)
        keys = [delivery.key_of(instance, self._edge) for instance in delivery.instances.values()]
        await retry("put", lambda: self._uploader.put_manifest(key, content, keys))
        await self._tell(StoredObject(key, len(content)))
        await asyncio.to_thread(self._spool.remove_delivery, delivery.delivery_id)
        _logger.info("delivery_stored delivery=%s instances=%d", delivery.delivery_id, len(keys))

    async def _tell(self, stored: StoredObject) -> None:
        announce = self._announce
        if announce is not None:
            await retry("announce", lambda: asyncio.to_thread(announce, [stored]))

    def _manifest_path(self, delivery: Delivery) -> Path:
        return self._spool.delivering / delivery.delivery_id / _MANIFEST_FILE


def _has_manifest(folder: Path) -> bool:
    """Tell whether a delivery is closed; one whose manifest cannot be read is closed again."""
    try:
        Manifest.from_json((folder / _MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return False
    except PermanentError as error:
        _logger.warning("manifest_discarded delivery=%s reason=%s", folder.name, error)
        return False
    return True


def _read_instance(file: ReceivedFile) -> ReceivedInstance:
    """Read a received file's meta information and identity; raises `PeerError` when it is no such file."""
    with file.path.open("rb", buffering=0) as opened:
        head = opened.read(_HEAD_BYTES)
        meta = decode_file_meta(head)
        found = scan(memoryview(head)[meta.data_set_offset :], meta.transfer_syntax_uid, complete=False)
        if not isinstance(found, Identity):
            opened.seek(meta.data_set_offset)
            found = read_identity(opened, meta.transfer_syntax_uid)
        stat = os.fstat(opened.fileno())
    uids = (meta.sop_instance_uid, _uid(found.study_instance_uid), _uid(found.series_instance_uid))
    if not all(map(is_usable, uids)):
        raise PeerError("SOP, Study or Series Instance UID is missing or illegal")
    return ReceivedInstance(
        file=file,
        sop_instance_uid=uids[0],
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        study_instance_uid=uids[1],
        series_instance_uid=uids[2],
        bytes=stat.st_size,
        received_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        calling_ae_title=meta.calling_ae_title,
        called_ae_title=meta.called_ae_title,
    )


def _uid(value: bytes | None) -> str:
    return strip_padding(value or b"")
