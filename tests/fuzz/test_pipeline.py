"""Fuzz targets of what the pipeline reads in the bucket: manifests of edges, and outputs of import jobs.

Spoiled in every way, each ends in a recorded reason for its own delivery or job, and its neighbours go on.
DICOMFLOW_FUZZ_EXAMPLES is the number of inputs for each target, DICOMFLOW_FUZZ_SEED makes a run different.
"""

import itertools
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError
from obstore.store import MemoryStore
from spoiling import spoil_bytes, spoil_document
from sqlalchemy import Engine, delete, event, func, insert, select, update

from dicomflow.bucket.keys import instance_key, key_of_uri, manifest_key
from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.catalog import jobs, tables
from dicomflow.healthimaging.client import ImportJob
from dicomflow.healthimaging.results import MANIFEST_NAME, results_prefix
from dicomflow.pipeline import rebuild
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.events import encode_object_event
from dicomflow.pipeline.handlers import handlers_of
from dicomflow.pipeline.plan import plan_delivery
from dicomflow.pipeline.settle import MAX_RESULT_ATTEMPTS, settle_completed

EXAMPLES: Final = int(os.environ.get("DICOMFLOW_FUZZ_EXAMPLES", "100"))
SEED: Final = int(os.environ.get("DICOMFLOW_FUZZ_SEED", "1"))
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BUCKET, DATASTORE, EDGE, STUDY = "images", "store", "edge", "1.2"
FILES: Final = 3
BATCH: Final = 20
"""So many are worked on together; the last of them is whole."""
NAMES: Final = ("SUCCESS/success.ndjson", "FAILURE/failure.ndjson", "WARNING/warning.ndjson")


class _Service:
    """A service that knows no image set: what the output does not say stays unknown."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**_: Any) -> Any:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": ""}}, name)

        return call


@pytest.fixture
def deps(engine: Engine) -> Iterator[Dependencies]:
    """Give a pipeline whose bucket is in memory, and whose catalog of either kind need not survive a power cut."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    logging.disable(logging.CRITICAL)  # thousands of expected lines
    yield Dependencies(
        engine=engine,
        store=MemoryStore(),
        bucket=BUCKET,
        client=_Service(),  # type: ignore[arg-type]  # in its place
        datastore_id=DATASTORE,
        data_access_role_arn="arn",
        concurrent_imports=100,
        start_rate=1.0,
        import_enabled=True,
        enqueue=lambda *_, **__: None,
        clock=lambda: NOW,
    )
    logging.disable(logging.NOTSET)


def _manifest(number: int) -> Manifest:
    """Return the manifest of a delivery of two series."""
    delivery = f"d{number}"
    instances: dict[str, list[Instance]] = {f"1.2.{number}.1": [], f"1.2.{number}.2": []}
    for series, part in itertools.product(instances, range(FILES)):
        sop = f"{series}.{part}"
        key = instance_key(EDGE, delivery, STUDY, series, sop)
        instances[series].append(Instance(sop, "1.2.840", "1.2.840.1", key, 9, "0" * 64, NOW.isoformat(), "a"))
    study = Study(STUDY, tuple(Series(series, tuple(found)) for series, found in instances.items()))
    association = Association("a", "CT1", "EDGE", "10.0.0.1", "released")
    return Manifest(EDGE, delivery, NOW, NOW, (association,), (study,))


def _rows(engine: Engine, table: Any) -> list[Any]:
    with engine.begin() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key.columns)))


def _clear(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            if table.name in _FILLED:
                connection.execute(delete(table))


_FILLED: Final = frozenset(
    ("stored_object", "delivery", "delivery_association", "series_import", "import_job", "import_outcome", "wake_up")
)


def _turns() -> Iterator[tuple[int, tuple[random.Random, ...]]]:
    """Number the batches, and give what decides on each input of one; each of two databases has half of them."""
    for turn in range(max(2, EXAMPLES // 2 // (BATCH - 1))):
        yield turn, tuple(random.Random(f"{SEED} {turn} {number}") for number in range(BATCH - 1))  # a test's


def test_spoiled_manifest_is_recorded_and_stops_no_other(deps: Dependencies) -> None:
    """A delivery is planned as its manifest says or has its reason, by its event and by a rebuild; the next goes on."""
    engine, plan = deps.engine, handlers_of(deps)["plan"]
    originals = [_manifest(number) for number in range(BATCH)]
    documents = [json.loads(each.to_json()) for each in originals]
    keys = [manifest_key(EDGE, each.delivery) for each in originals]
    objects = [{"object_key": one.key, "indexed_at": NOW} for each in originals for one in each.instances()]
    for turn, chances in _turns():
        for key, document, chance in zip(keys, documents, chances, strict=False):
            deps.store.put(key, spoil_document(document, chance))
        deps.store.put(keys[-1], originals[-1].to_json())
        _clear(engine)
        if turn % 2:
            with engine.begin() as connection:
                connection.execute(insert(tables.stored_object), objects)
            rebuild._plan(engine, deps.store, keys, deps.clock, rebuild.Rebuilt())
        else:
            bodies = [encode_object_event(BUCKET, key, 1) for key in keys]
            assert {"batchItemFailures": []} == plan(_event(bodies)), f"seed {SEED} turn {turn}"
        problems = {row.object_key: row.problem for row in _rows(engine, tables.stored_object) if row.problem}
        planned = {row.manifest_key for row in _rows(engine, tables.delivery)}
        assert set(keys) == problems.keys() | planned, f"seed {SEED} turn {turn}"
        assert not problems.keys() & planned
        series = Counter(row.delivery_id for row in _rows(engine, tables.series_import))
        assert (2, True) == (series[originals[-1].delivery], keys[-1] in planned)


def _event(bodies: list[str]) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": f"r{number}",
                "body": body,
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
            }
            for number, body in enumerate(bodies)
        ]
    }


def _output(job: jobs.Job, keys: list[str]) -> dict[str, Any]:
    """Return what a job writes: its manifest and its lists, as documents."""
    imported, failed, warned = keys
    image_set = f"set{job.import_job_id}"
    summary = {
        "jobId": job.job_id,
        "inputS3Uri": job.input_s3_uri,
        "numberOfScannedFiles": len(keys),
        "numberOfImportedFiles": len(keys) - 1,
        "numberOfFilesWithCustomerError": 1,
        "numberOfFilesWithServerError": 0,
        "imageSetsSummary": [{"imageSetId": image_set, "imageSetVersion": 1, "isPrimary": True}],
    }
    response = {"imageSetId": image_set, "imageSetVersion": 1, "isPrimary": True}
    warnings = [{"warning_reason_code": 45330, "type": "InvalidOffsetTable", "message": "frames"}]
    return {
        MANIFEST_NAME: [{"jobSummary": summary}],
        NAMES[0]: [{"inputFile": imported, "importResponse": response}],
        NAMES[1]: [{"inputFile": failed, "exception": {"exceptionType": "ValidationException", "message": "no"}}],
        NAMES[2]: [{"inputFile": warned, "importResponse": {**response, "warnings": warnings}}],
    }


class _Jobs:
    """Jobs under way, each of one series of a delivery; what a round made of them is forgotten in the next."""

    def __init__(self, deps: Dependencies) -> None:
        self.deps, self.jobs, self.outputs = deps, list[jobs.Job](), list[dict[str, Any]]()
        self.prefixes: list[str] = []
        for number in range(BATCH):
            manifest = _manifest(number)
            key = manifest_key(EDGE, manifest.delivery)
            deps.store.put(key, manifest.to_json())
            plan_delivery(deps.engine, deps.store, key, import_enabled=True, now=NOW)
            self._start(number, manifest.studies[0].series[0])
        with deps.engine.begin() as connection:
            connection.execute(update(tables.stored_object).values(indexed_at=NOW, stored_at=NOW))
        self._kept = {table: _rows(deps.engine, table) for table in (tables.series_import, tables.import_job)}

    def _start(self, number: int, series: Series) -> None:
        with self.deps.engine.begin() as connection:
            of_series = tables.series_import.c.series_instance_uid == series.series_instance_uid
            rows = connection.execute(select(tables.series_import).where(of_series)).all()
            job = jobs.claim_job(connection, self.deps.target, rows[0].input_prefix, rows, NOW, NOW)
            assert job is not None
            jobs.record_submitted(connection, job, f"job{number}", NOW, NOW + timedelta(minutes=1), NOW)
        job = replace(job, job_id=f"job{number}", state="submitted", submitted_at=NOW)
        self.jobs.append(job)
        self.outputs.append(_output(job, [each.key for each in series.instances]))
        self.prefixes.append(results_prefix(job.output_s3_uri, BUCKET, DATASTORE, f"job{number}"))

    def forget(self, *, state: str | None = None) -> None:
        """Put everything back as it was; with a state, without the jobs and the series in it, as in a new catalog."""
        with self.deps.engine.begin() as connection:
            for name in ("series_image_set", "image_set", "import_outcome"):
                connection.execute(delete(getattr(tables, name)))
            connection.execute(delete(tables.stored_object).where(tables.stored_object.c.delivery_id.is_(None)))
            connection.execute(update(tables.stored_object).values(problem=None))
            connection.execute(delete(tables.series_import))
            connection.execute(delete(tables.import_job))
            if state is None:
                connection.execute(
                    insert(tables.import_job), [dict(row._mapping) for row in self._kept[tables.import_job]]
                )
            rows = [dict(row._mapping) for row in self._kept[tables.series_import]]
            if state is not None:
                rows = [{**row, "state": state, "import_job_id": None} for row in rows]
            connection.execute(insert(tables.series_import), rows)

    def spoil(self, chances: tuple[random.Random, ...]) -> None:
        """Write the output of each job, spoiled but for the last one's."""
        for number, chance in itertools.zip_longest(range(BATCH), chances[:BATCH]):
            other = self.outputs[(number + 1) % BATCH]
            for name, documents in self.outputs[number].items():
                content = b"\n".join(json.dumps(each).encode() for each in documents) + b"\n"
                if number < BATCH - 1 and chance is not None and chance.random() < 0.6:
                    content = _spoil_lines(documents, other[name], chance)
                self.deps.store.put(self.prefixes[number] + name, content)

    def told(self, number: int) -> ImportJob:
        """Return what the service says of a job."""
        job = self.jobs[number]
        return ImportJob(f"job{number}", job.job_name, "COMPLETED", NOW, NOW, None, job.output_s3_uri)


def _spoil_lines(documents: list[Any], others: list[Any], chance: random.Random) -> bytes:
    """Spoil lines, repeat them, mix in another job's, and spoil the whole at times."""
    lines = [json.dumps(each).encode() for each in documents]
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(lines))
        lines.insert(at, spoil_document(chance.choice([*documents, *others]), chance))
    if chance.random() < 0.3:
        del lines[chance.randrange(len(lines))]
    content = chance.choice((b"\n", b"\r\n", b"\n\n", b"\n\0\n")).join(lines)
    return spoil_bytes(content, chance) if chance.random() < 0.2 else content


def _check_outcomes(world: _Jobs, where: str) -> None:
    """No row is lost; what a job wrote is of its own objects; the job that is whole is told in full."""
    engine = world.deps.engine
    series = _rows(engine, tables.series_import)
    assert [(row.series_import_id, row.object_count) for row in world._kept[tables.series_import]] == [
        (row.series_import_id, row.object_count) for row in series
    ], where
    inputs = {row.import_job_id: key_of_uri(row.input_s3_uri) for row in _rows(engine, tables.import_job)}
    for row in _rows(engine, tables.import_outcome):
        assert row.object_key.startswith(inputs[row.import_job_id]), where
    (last,) = (row for row in series if row.series_instance_uid == f"1.2.{BATCH - 1}.1")
    assert ("partial", True) == (last.state, "2 of 3" in last.message), where
    found = [row for row in _rows(engine, tables.import_outcome) if row.series_import_id == last.series_import_id]
    assert ["failed", "imported", "warned"] == sorted(row.outcome for row in found), where


def test_spoiled_job_output_is_the_trouble_of_its_job_alone(deps: Dependencies) -> None:
    """A job ends or waits, with its reason; what the output says of its own files is kept; no other job changes."""
    world = _Jobs(deps)
    for turn, chances in _turns():
        where = f"seed {SEED} turn {turn}"
        world.forget()
        world.spoil(chances)
        for number, job in enumerate(world.jobs):
            attempts = MAX_RESULT_ATTEMPTS if turn % 4 else 0
            settle_completed(deps, replace(job, attempts=attempts), world.told(number))
        for row in _rows(deps.engine, tables.import_job):
            assert row.state == "completed" or (row.message and turn % 4 == 0), (where, row)
            assert row.due_at is not None or row.state == "completed", where
        for row in _rows(deps.engine, tables.series_import):
            assert row.message or row.state == "completed" or row.import_job_id is None, where
        _check_outcomes(world, where)


def test_spoiled_job_output_stops_no_rebuild(deps: Dependencies) -> None:
    """Each job comes back as its output tells of its own files, or its reason is listed; the next job comes back."""
    world = _Jobs(deps)
    for turn, chances in _turns():
        where = f"seed {SEED} turn {turn}"
        world.forget(state="disabled")
        world.spoil(chances)
        done = rebuild.Rebuilt()
        for prefix in world.prefixes:
            restore = partial(rebuild._restore, deps.engine, deps.store, BUCKET, prefix, NOW, deps.clock, done)
            rebuild._restore_apart(deps.engine, prefix + MANIFEST_NAME, restore, done)
        rows = _rows(deps.engine, tables.import_job)
        with deps.engine.begin() as connection:
            listed = select(func.count()).where(tables.stored_object.c.problem.is_not(None))
            problems = connection.execute(listed).scalar_one()
        assert (BATCH, done.jobs) == (len(rows) + problems, len(rows)), where
        _check_outcomes(world, where)
