"""Where the box meets the edge: what is imported by name, and what stands for clock, threads, ids and jitter.

The clock is put wherever a module of the edge has `time` or `datetime`, so modules may be moved and made.
"""

import asyncio
import inspect
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dicomflow.edge.deliver.deliverer
import dicomflow.edge.deliver.uploader
import dicomflow.edge.spool.lane
import dicomflow.edge.spool.unpacker
from dicomflow.bucket.manifest import Manifest
from dicomflow.dicom.references import Reference
from dicomflow.edge.commitment.requests import CommitmentRequest, make_report
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.deliver.deliverer import Deliverer
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.ledger import Ledger
from dicomflow.edge.progress import read_gathered_until
from dicomflow.edge.settings import CommitmentSettings, DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane, discard_incoming
from dicomflow.errors import DicomflowError
from tests.simulation.box import Box, Died

__all__ = [
    "CommitmentRequest", "Deliverer", "DeliverySettings", "EdgeSettings", "Lane", "Manifest", "Reference", "Spool",
    "SpoolSettings", "Uploader", "discard_incoming", "edge_seams", "log", "report_on", "syncing",
]  # fmt: skip

_EDGE = "dicomflow.edge"
_CLOCKS = {time.monotonic: "monotonic", time.time: "time"}


def report_on(request: CommitmentRequest, root: Path, settings: EdgeSettings, store: object, now: float) -> Any:
    """Return the report on a commitment request, None while there is none to be made."""
    witness = StoreWitness(settings.delivery, root)
    witness._store = store
    ledger = Ledger(root / "ledger.db", store=witness._identity)
    try:
        return make_report(request, ledger, CommitmentSettings(), now, witness, read_gathered_until(root))
    except DicomflowError:
        return None
    finally:
        ledger.close()


@contextmanager
def edge_seams(box: Box, new_id: Callable[[], Any], poll_seconds: float, is_dead: Callable[[], bool]) -> Iterator[None]:
    """Put the box's clock, ids, jitter and store into the edge, and have nothing written by who is dead."""
    clock = SimpleNamespace(
        monotonic=lambda: box.seconds,
        time=lambda: box.wall,
        time_ns=lambda: int(box.wall * 1e9),
        sleep=lambda _seconds: None,
    )

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(box.wall, tz or UTC)

    async def to_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return call(*args, **options)

    deliverer, uploader = dicomflow.edge.deliver.deliverer, dicomflow.edge.deliver.uploader
    replaced = [
        (asyncio, "to_thread", to_thread),
        (uploader, "random", SimpleNamespace(uniform=lambda a, b: a + (b - a) * box.draw("jitter"))),
        (deliverer, "uuid", SimpleNamespace(uuid4=new_id)),
        (deliverer, "_POLL_SECONDS", poll_seconds),
    ]
    for name, module in list(sys.modules.items()):
        if name.startswith(_EDGE):
            replaced += [(module, "time", clock)] if getattr(module, "time", None) is time else []
            replaced += [(module, "datetime", Datetime)] if getattr(module, "datetime", None) is datetime else []
            replaced += list(_default_clocks(module, clock))
    replaced.append((Ledger, "_run", _guarded(Ledger._run, is_dead)))  # its files are written in C
    random.seed(box.seed)
    with ExitStack() as stack:
        for where, name, what in replaced:
            stack.enter_context(patch.object(where, name, what))
        yield


@contextmanager
def syncing(all_synced: Callable[[int], None], settings: dict[str, object]) -> Iterator[None]:
    """Have the spool's file system be one that the seed draws."""
    replaced = (
        (dicomflow.edge.spool.lane, "is_named_by_fsync", lambda _root: settings["is_named_by_fsync"]),
        (dicomflow.edge.spool.unpacker, "can_sync_file_system", lambda _: settings["has_syncfs"]),
        (dicomflow.edge.spool.unpacker, "sync_file_system", all_synced),
    )
    with ExitStack() as stack:
        for where, name, what in replaced:
            stack.enter_context(patch.object(where, name, what))
        yield


def _default_clocks(module: Any, clock: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield the arguments of a module's classes whose default is the machine's clock."""
    for each in vars(module).values():
        if inspect.isclass(each) and each.__module__ == module.__name__ and "__init__" in vars(each):
            defaults = each.__init__.__defaults__ or ()
            if any(callable(default) and default in _CLOCKS for default in defaults):
                made = tuple(
                    getattr(clock, _CLOCKS[one]) if callable(one) and one in _CLOCKS else one for one in defaults
                )
                yield each.__init__, "__defaults__", made


def _guarded(call: Callable[..., Any], is_dead: Callable[[], bool]) -> Callable[..., Any]:
    def guarded(*args: Any, **options: Any) -> Any:
        if is_dead():
            raise Died
        return call(*args, **options)

    return guarded
