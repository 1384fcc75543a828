"""The process that the deliverer runs in: its start, its priority, its lock on the spool and its end.

What it does there is the deliverer's; this module must not know of it.
"""

import asyncio
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import Timeout

from dicomflow import logs
from dicomflow.edge.children import beat, beat_until
from dicomflow.edge.commitment.reporter import report_commitments
from dicomflow.edge.deliver.deliverer import Announce, Deliverer
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import EdgeSettings, SettingsFile
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.locks import lock_of
from dicomflow.edge.spool.room import Room
from dicomflow.edge.stores import build_store, local_root
from dicomflow.logs import LogSettings

__all__ = ["DelivererStart", "run_deliverer"]

# Receiving goes first: a sender waits for its answer, a delivery does not.
_NICENESS: Final = 10
_LOOK_SECONDS: Final = 0.2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DelivererStart:
    """What the deliverer is started with."""

    settings: EdgeSettings
    logs: LogSettings
    announce: Announce | None
    # The file the settings came from; limits and priorities are read again when it changes.
    config: Path | None = None
    # Where it counts its beats, in a place for the process and one for its loop; None for nobody who looks.
    beats: MutableSequence[int] | None = None
    slots: Sequence[int] = ()
    # Its end is the stop.
    stop: multiprocessing.connection.Connection | None = None
    room: Room | None = None


def run_deliverer(start: DelivererStart) -> None:
    """Run the deliverer until it is told to stop. Process: the main function of the deliverer."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if start.beats is not None:
        beat_until(threading.Event(), start.beats, start.slots[0])
    settings = start.settings
    spool = Spool(settings.spool.dir, fsync=settings.spool.fsync, spare_bytes=settings.spool.spare_bytes)
    lock = lock_of(settings.spool.dir, "deliverer")
    while True:
        try:
            # A deliverer of an earlier run may still be ending.
            lock.acquire(timeout=1)
        except Timeout:
            _logger.warning("deliverer_waits reason=another deliverer has the spool")
        else:
            break
    root = local_root(settings.delivery.store_url)
    file = SettingsFile(start.config, settings) if start.config is not None else None
    deliverer = Deliverer(
        settings,
        spool,
        Uploader(partial(build_store, settings.delivery), root, StoreMount(root, settings.spool.dir)),
        start.announce,
        file.read if file is not None else None,
        start.room,
        (lambda: file.routes) if file is not None else None,
    )
    # What is made so far stays, so the collector need not walk it again and again.
    gc.freeze()
    if settings.commitment.peers:
        report_commitments(settings, deliverer.ledger.distrust)
    asyncio.run(_run(deliverer, start))
    logging.shutdown()
    # Puts in flight are repeated under the same keys at the next start.
    os._exit(0)


async def _run(deliverer: Deliverer, start: DelivererStart) -> None:
    """Deliver until a signal comes, or the supervisor stops it or ends; an error of ours ends the process.

    It is started again then.
    """
    loop = asyncio.get_running_loop()
    delivering = asyncio.create_task(deliverer.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(delivering.cancel))
    parent = multiprocessing.parent_process()
    ends: list[Any] = [] if parent is None else [parent.sentinel]  # Any: what `wait` takes has no name
    if start.stop is not None:
        ends.append(start.stop)
    while not delivering.done():
        if start.beats is not None:
            beat(start.beats, start.slots[1])
        if ends and multiprocessing.connection.wait(ends, timeout=0):
            delivering.cancel()
            ends.clear()
        await asyncio.wait([delivering], timeout=_LOOK_SECONDS)
    if not delivering.cancelled():
        delivering.result()
