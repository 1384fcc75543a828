"""What happens in the simulator as time passes: data stores and jobs move on, events are delivered."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Connection, Row, delete, func, select

from dicomflow.healthimaging.client import JobStatus
from dicomflow.healthimaging.simulator.datastores import advance_datastores
from dicomflow.healthimaging.simulator.delays import DeliverEvent, delay_event, delay_object, deliver_delayed
from dicomflow.healthimaging.simulator.documents import Warnings
from dicomflow.healthimaging.simulator.grouping import group_headers, store_group
from dicomflow.healthimaging.simulator.imagesets import advance_image_sets
from dicomflow.healthimaging.simulator.jobs import change_status, output_folder
from dicomflow.healthimaging.simulator.objects import Failure, Header, InputFile, list_input, read_header
from dicomflow.healthimaging.simulator.output import MANIFEST_NAME, Imported, JobOutput, write_output
from dicomflow.healthimaging.simulator.state import (
    datastore,
    delayed_event,
    delayed_object,
    has_come,
    image_set,
    job,
    outbox,
)
from dicomflow.healthimaging.simulator.world import World, split_s3_uri

__all__ = ["DeliverEvent", "Runner"]

logger = logging.getLogger(__name__)
IDLE_SECONDS: Final = 60.0
MIN_WAIT_SECONDS: Final = 0.005
READERS: Final = 4
NOT_READABLE: Final = "The input or output bucket is not accessible with the data access role"


class Runner:
    """Moves everything that is due. Thread: `run_due` from any, one at a time; `start` adds one of its own."""

    def __init__(self, world: World, deliver_event: DeliverEvent) -> None:
        self._world = world
        self._deliver_event = deliver_event
        self._running = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the clock in a thread of its own."""
        self._thread = threading.Thread(target=self._follow, name="simulator", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is not done is done after the next start."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look at the clock again: something new may be due."""
        self._wake.set()

    def run_due(self) -> None:
        """Do everything that is due by the simulator's clock, and deliver the events of it."""
        with self._running:
            with self._world.lock, self._world.engine.begin() as connection:
                advance_datastores(self._world, connection)
                advance_image_sets(self._world, connection)
            while not self._stopped.is_set():
                row = self._due_job()
                if row is None:
                    break
                self._advance_job(row)
                self._deliver()
            self._deliver()
            deliver_delayed(self._world, self._deliver_event)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self.run_due()
            except Exception:
                logger.exception("simulator_failed")  # the thread's boundary; what is due stays due
                self._stopped.wait(1)
            self._wake.wait(self._seconds_to_next())

    def _seconds_to_next(self) -> float:
        with self._world.engine.connect() as connection:
            times = [
                connection.execute(select(func.min(table.c.due_at))).scalar()
                for table in (datastore, job, image_set, delayed_event, delayed_object)
            ]
        due = [time for time in times if time is not None]
        return min(max(min(due) - self._world.now(), MIN_WAIT_SECONDS), IDLE_SECONDS) if due else IDLE_SECONDS

    def _due_job(self) -> Row[Any] | None:
        with self._world.engine.connect() as connection:
            return connection.execute(
                select(job)
                .where(has_come(job.c.due_at, self._world.now()))
                .order_by(job.c.due_at, job.c.number)
                .limit(1)
            ).first()

    def _advance_job(self, row: Row[Any]) -> None:
        if row.status == JobStatus.SUBMITTED:
            self._begin(row)
            return
        message = self._world.faults.take_failed_job()
        try:
            if message is not None:
                self._fail(row, message, [])
            else:
                self._complete(row)
        except (BaseError, OSError) as error:
            self._fail(row, f"{NOT_READABLE} ({type(error).__name__})", [])

    def _begin(self, row: Row[Any]) -> None:
        settings = self._world.settings
        seconds = settings.run_seconds
        if settings.run_seconds_per_file:
            seconds += settings.run_seconds_per_file * len(self._list(row))
        due_at = None if self._world.faults.take_stuck_job() else self._world.now() + seconds
        with self._world.lock, self._world.engine.begin() as connection:
            change_status(self._world, connection, row, JobStatus.IN_PROGRESS, None, due_at)

    def _list(self, row: Row[Any]) -> list[InputFile]:
        bucket, prefix = split_s3_uri(row.request["inputS3Uri"])
        store = self._world.stores(bucket)
        return [] if store is None else list_input(store, prefix, self._world.settings)

    def _complete(self, row: Row[Any]) -> None:
        bucket, _ = split_s3_uri(row.request["inputS3Uri"])
        store = self._world.stores(bucket)
        output_store = self._world.stores(split_s3_uri(row.request["outputS3Uri"])[0])
        if store is None or output_store is None:
            self._fail(row, NOT_READABLE, [])
            return
        files = self._list(row)
        refusal = self._refusal(files)
        if refusal is not None:
            self._fail(row, refusal, files)
            return
        headers, failures = self._read(store, files)
        with self._world.lock, self._world.engine.begin() as connection:
            imported = self._import(connection, row, bucket, headers)
            self._write(connection, row, output_store, files, imported, failures)
            if not imported and self._world.settings.all_failed == JobStatus.FAILED:
                change_status(self._world, connection, row, JobStatus.FAILED, "No file was imported", None)
            else:
                change_status(self._world, connection, row, JobStatus.COMPLETED, None, None)

    def _refusal(self, files: list[InputFile]) -> str | None:
        """Return why the service would fail a job over these files as a whole."""
        settings = self._world.settings
        total = sum(file.bytes for file in files)
        if len(files) > settings.max_files:
            return f"FILE_COUNTS_LIMIT_EXCEEDED: {len(files)} files, the limit is {settings.max_files}"
        if total > settings.max_bytes:
            return f"TOTAL_SIZE_LIMIT_EXCEEDED: {total} bytes, the limit is {settings.max_bytes}"
        return None

    def _read(self, store: ObjectStore, files: list[InputFile]) -> tuple[list[tuple[Header, bool]], list[Failure]]:
        """Return the readable files, each with whether a fault makes it non-primary, and the failed ones."""
        headers: list[tuple[Header, bool]] = []
        failures: list[Failure] = []
        with ThreadPoolExecutor(READERS) as pool:
            results = list(pool.map(lambda file: self._read_one(store, file), files))
        for result in results:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                fault = self._world.faults.of_file(result.key)
                headers.append((result, fault is not None and fault.kind == "non_primary"))
        return headers, failures

    def _read_one(self, store: ObjectStore, file: InputFile) -> Header | Failure:
        fault = self._world.faults.of_file(file.key)
        if fault is not None and fault.kind in {"customer", "server"}:
            is_customer = fault.kind == "customer"
            kind = "ValidationException" if is_customer else "InternalServerException"
            return Failure(file.key, kind, fault.text, is_customer)
        if file.bytes > self._world.settings.max_file_bytes:
            limit = self._world.settings.max_file_bytes
            return Failure(file.key, "ValidationException", f"{file.bytes} bytes, the limit is {limit}")
        return read_header(store, file)

    def _import(
        self, connection: Connection, row: Row[Any], bucket: str, headers: list[tuple[Header, bool]]
    ) -> list[Imported]:
        imported = []
        for group in group_headers(self._world, connection, row.datastore_id, headers):
            image_set_id, version = store_group(self._world, connection, row.datastore_id, row.job_id, bucket, group)
            imported += [
                Imported(header.key, image_set_id, version, group.is_primary, self._warnings(header))
                for header in group.headers
            ]
        return sorted(imported, key=lambda item: item.key)

    def _warnings(self, header: Header) -> Warnings:
        found = list(header.warnings)
        fault = self._world.faults.of_file(header.key)
        if fault is not None and fault.kind == "warning":
            found.append((fault.code, "OTHER", fault.text))
        return found

    def _fail(self, row: Row[Any], message: str, files: list[InputFile]) -> None:
        store = self._world.stores(split_s3_uri(row.request["outputS3Uri"])[0])
        with self._world.lock, self._world.engine.begin() as connection:
            if self._world.settings.failed_manifest and store is not None:
                self._write(connection, row, store, files, [], [])
            change_status(self._world, connection, row, JobStatus.FAILED, message, None)

    def _write(
        self,
        connection: Connection,
        row: Row[Any],
        store: ObjectStore,
        files: list[InputFile],
        imported: list[Imported],
        failures: list[Failure],
    ) -> None:
        folder = output_folder(row)
        output = JobOutput(
            row.job_id, row.datastore_id, row.request["inputS3Uri"], folder, len(files), imported, failures
        )
        bucket, prefix = split_s3_uri(folder)
        fault = self._world.faults.take_output()
        manifest = write_output(store, prefix, output, self._world.settings, fault)
        if manifest is not None:
            delay_object(self._world, connection, bucket, prefix + MANIFEST_NAME, manifest)

    def _deliver(self) -> None:
        """Hand the outbox over by the switch `event_delivery`, then forget it."""
        with self._world.engine.connect() as connection:
            rows = connection.execute(select(outbox).order_by(outbox.c.number)).all()
        mode = self._world.settings.event_delivery
        if mode == "reorder":
            rows = rows[::-1]
        for row in rows:
            for _ in range({"drop": 0, "duplicate": 2}.get(mode, 1)):
                if self._world.settings.event_delay_seconds:
                    delay_event(self._world, row.body)
                else:
                    self._deliver_event(row.body)
            with self._world.lock, self._world.engine.begin() as connection:
                connection.execute(delete(outbox).where(outbox.c.number == row.number))
