"""Where the box meets the code: the one list of what is imported from it by name, and of what is put in its place.

Folders change; whoever moves a module mends this file. Each seam stands for something that one thread of control
cannot have: the machine's clock, threads, randomness, and functions that take nothing but a native store.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import dicomflow.bucket.listing
import dicomflow.catalog.deliveries
import dicomflow.healthimaging.simulator.runner
import dicomflow.pipeline.index
import dicomflow.pipeline.staging
import dicomflow.pipeline.versions
from dicomflow.bucket.keys import instance_key, is_manifest, is_received, manifest_key
from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.catalog import engine as catalog_engine
from dicomflow.catalog import imports, tables
from dicomflow.catalog.engine import begin_read, create_engine_for, migrate
from dicomflow.errors import DicomflowError, PermanentError
from dicomflow.healthimaging.client import build_client
from dicomflow.healthimaging.simulator import app, state
from dicomflow.healthimaging.simulator.faults import Faults
from dicomflow.healthimaging.simulator.model import load_model
from dicomflow.healthimaging.simulator.runner import Runner
from dicomflow.healthimaging.simulator.settings import SERVICE_RATES, SimulatorSettings
from dicomflow.healthimaging.simulator.state import open_state
from dicomflow.healthimaging.simulator.world import World
from dicomflow.pipeline.deletion import Deletion, find_study
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.events import StoredObjectEvent, encode_object_event
from dicomflow.pipeline.handlers import handlers_of
from dicomflow.pipeline.rebuild import rebuild_catalog

__all__ = [
    "BEGIN_SQLITE", "READ_ONLY", "SERVICE_RATES", "Association", "Deletion", "Dependencies", "DicomflowError",
    "HealthImaging", "Instance", "Manifest", "PermanentError", "Series", "StoredObjectEvent", "Study", "begin_read",
    "build_client", "cloud_seams", "create_engine_for", "encode_object_event", "find_study", "handlers_of", "imports",
    "instance_key", "is_manifest", "is_received", "manifest_key", "migrate", "open_state", "rebuild_catalog", "state",
    "tables",
]  # fmt: skip

BEGIN_SQLITE = catalog_engine._begin_sqlite
READ_ONLY = catalog_engine._READ_ONLY


class HealthImaging:
    """The simulator's service and timetable, without its server."""

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        stores: Callable[[str], Any],
        clock: Callable[[], Any],
        deliver: Callable[[dict[str, Any]], None],
    ) -> None:
        self.faults = Faults()
        self._world = World(
            SimulatorSettings(state_path=path, **settings), open_state(path), stores, clock, self.faults
        )
        self._runner = Runner(self._world, deliver)
        self.engine, self.now = self._world.engine, self._world.now
        self.answer = app._Service(self._world, self._runner)._answer
        self.run_due, self.seconds_to_next = self._runner.run_due, self._runner._seconds_to_next
        model = load_model()
        self.operations = [model.operation_model(name) for name in app.OPERATIONS]


class Inline:
    """An executor's methods that are used, in the caller's thread."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)

    @staticmethod
    def submit(call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except Exception as error:  # noqa: BLE001  # the caller's
            future.set_exception(error)
        return future


async def inline(call: Callable[..., Any], *args: Any) -> Any:
    """Stand for `asyncio.to_thread`."""
    return call(*args)


@contextmanager
def cloud_seams(store_functions: object, new_id: Callable[[], uuid.UUID]) -> Iterator[None]:
    """Put the box's store, threads and ids where the cloud half has the machine's."""
    inline_asyncio = SimpleNamespace(run=asyncio.run, TaskGroup=asyncio.TaskGroup, to_thread=inline)
    pipeline = dicomflow.pipeline
    replaced = (
        (pipeline.index, "obstore", store_functions),
        (dicomflow.bucket.listing, "obstore", store_functions),
        (pipeline.index, "asyncio", inline_asyncio),
        (pipeline.versions, "ThreadPoolExecutor", Inline),
        (pipeline.staging, "ThreadPoolExecutor", Inline),
        (pipeline.staging, "wait", lambda pending, _seconds: (pending, set())),
        (dicomflow.healthimaging.simulator.runner, "ThreadPoolExecutor", Inline),
        (dicomflow.catalog.deliveries, "uuid4", new_id),
        (Runner, "wake", lambda _runner: None),
    )
    with ExitStack() as stack:
        for where, name, what in replaced:
            stack.enter_context(patch.object(where, name, what))
        logging.getLogger("botocore").setLevel(logging.CRITICAL)
        yield
