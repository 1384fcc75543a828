"""One deployment in a test: catalog of either kind, a folder as bucket, a simulator, and queues that are lists."""

import hashlib
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import LocalStore, ObjectStore, S3Store
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine, select, update
from transfer_messages import OK, SERIES, beat

from dicomflow.bucket.keys import instance_key, manifest_key
from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.catalog import tables
from dicomflow.healthimaging.client import build_client
from dicomflow.healthimaging.simulator import SimulatorSettings, create_app, serve, state
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.drive import DriveResult, drive
from dicomflow.pipeline.events import encode_object_event
from dicomflow.pipeline.handlers import QUEUES, handlers_of

BUCKET = "images"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def encode(study: str, series: str, sop: str, **attributes: Any) -> bytes:
    """Return a small Part 10 file."""
    dataset = Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": sop,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "PatientID": "P1",
        "PatientName": "Invented^Patient",
        "StudyDate": "20260102",
        "AccessionNumber": "A1",
        "StudyID": "S1",
        "SeriesNumber": 1,
        "Modality": "CT",
        **attributes,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encoded = BytesIO()
    dataset.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


@dataclass
class Deployment:
    """Everything the pipeline has, and means to look at it; `clock` moves with `advance`."""

    deps: Dependencies
    app: Any
    store: LocalStore
    messages: dict[str, list[tuple[datetime, str]]]
    events: list[dict[str, Any]]
    stores: dict[str, ObjectStore] = field(default_factory=dict)
    offset: list[timedelta] = field(default_factory=lambda: [timedelta()])
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def faults(self) -> Any:
        """Return the simulator's faults."""
        return self.app.state.world.faults

    def now(self) -> datetime:
        """Return the deployment's time."""
        return self.deps.clock()

    def advance(self, seconds: float) -> None:
        """Let time pass, for the simulator too."""
        self.offset[0] += timedelta(seconds=seconds)
        self.app.state.runner.run_due()

    def deliver(
        self,
        series_sizes: dict[str, int],
        *,
        delivery: str,
        edge: str = "edge",
        study: str = "1.2",
        calling_ae_title: str = "SENDER",
        ended: str = "released",
        change: Callable[[bytes], bytes] = bytes,
        **attributes: Any,
    ) -> str:
        """Put the objects of a delivery and its manifest; return the manifest's key."""
        series = []
        for uid, size in series_sizes.items():
            instances = []
            for number in range(size):
                sop = f"{uid}.{number + 1}"
                key = instance_key(edge, delivery, study, uid, sop)
                encoded = change(encode(study, uid, sop, **attributes))
                self.store.put(key, encoded)
                instances.append(
                    Instance(
                        sop,
                        "1.2.840.10008.5.1.4.1.1.2",
                        "1.2.840.10008.1.2.1",
                        key,
                        len(encoded),
                        hashlib.sha256(encoded).hexdigest(),
                        START.isoformat(),
                        "1",
                    )
                )
            series.append(Series(uid, tuple(instances)))
        association = Association("1", calling_ae_title, "DICOMFLOW", "127.0.0.1", ended)
        manifest = Manifest(edge, delivery, START, START, (association,), (Study(study, tuple(series)),))
        key = manifest_key(edge, delivery)
        self.store.put(key, manifest.to_json())
        return key

    def deliver_studies(self, count: int, *, series: int = 5, files: int = 2) -> list[str]:
        """Deliver `count` studies and plan them all at once; return the SOP Instance UIDs."""
        uids = []
        bodies = []
        for number in range(count):
            study = f"1.{number + 2}"
            sizes = {f"{study}.{part + 1}": files for part in range(series)}
            bodies.append(self.object_event(self.deliver(sizes, delivery=f"d{number}", study=study)))
            uids += [f"{uid}.{part + 1}" for uid in sizes for part in range(files)]
        assert {"batchItemFailures": []} == self.handle("plan", *bodies)
        return uids

    def check_outcomes(self, uids: list[str], failing: set[str]) -> None:
        """Hold each instance to one outcome with its reason, its series to the state of that, image sets to be new."""
        found = {row["sop_instance_uid"]: (row["outcome"], row["reason"]) for row in self.rows("import_outcome")}
        expected = {
            uid: ("failed", f"ValidationException: simulated {uid}") if uid in failing else ("imported", None)
            for uid in uids
        }
        assert expected == found
        assert len(uids) == len(self.rows("import_outcome"))
        wanted = {}
        for series, of_series in itertools.groupby(uids, lambda uid: uid.rpartition(".")[0]):
            failed = [uid in failing for uid in of_series]
            wanted[series] = "failed" if all(failed) else "partial" if any(failed) else "completed"
        assert wanted == self.states()
        assert {1} == {row["version"] for row in self.rows("image_set")}

    def digest(self, key: str) -> str:
        """Return the SHA-256 of a stored object."""
        return hashlib.sha256(bytes(self.store.get(key).bytes())).hexdigest()

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the objects under a prefix."""
        return sorted(meta["path"] for chunk in self.store.list(prefix) for meta in chunk)

    def plan(self, key: str) -> dict[str, Any]:
        """Hand a manifest's event to the plan handler."""
        return self.handle("plan", encode_object_event(BUCKET, key, 1))

    def drive(self) -> DriveResult:
        """Run the driver once."""
        return drive(self.deps)

    def handle(self, queue: str, *bodies: str) -> dict[str, Any]:
        """Call a queue's handler with messages of these bodies."""
        records = [
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
        return handlers_of(self.deps)[queue]({"Records": records})

    def collect(self) -> None:
        """Hand all events that have come to the collect handler."""
        while self.events:
            event = self.events.pop(0)
            assert {"batchItemFailures": []} == self.handle("collect", json.dumps(event))

    def finish(self) -> None:
        """Let the jobs run to their end and collect their events."""
        self.advance(10)
        self.advance(10)
        self.collect()

    def release_stuck_jobs(self) -> None:
        """Let the jobs that hang go on."""
        with self.app.state.world.engine.begin() as connection:
            connection.execute(
                update(state.job).where(state.job.c.status == "IN_PROGRESS").values(due_at=self.now().timestamp())
            )

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return a table's rows in the order of its key."""
        found = getattr(tables, table)
        statement = select(found).order_by(*found.primary_key.columns)
        with self.deps.engine.begin() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def states(self) -> dict[str, str]:
        """Return the state of each series' import."""
        return {row["series_instance_uid"]: row["state"] for row in self.rows("series_import")}

    def object_event(self, key: str) -> str:
        """Return the bucket's message on an object."""
        return encode_object_event(BUCKET, key, 1)

    def all_service_jobs(self) -> Iterator[Any]:
        """Yield the jobs the service knows, page by page."""
        pages = self.deps.client.get_paginator("list_dicom_import_jobs").paginate(datastoreId=self.deps.datastore_id)
        for page in pages:
            yield from page["jobSummaries"]

    def service_jobs(self) -> list[Any]:
        """Return the jobs the service knows."""
        return self.deps.client.list_dicom_import_jobs(datastoreId=self.deps.datastore_id)["jobSummaries"]

    def variant(self, **changes: Any) -> "Deployment":
        """Return the same deployment with other settings."""
        return replace(self, deps=replace(self.deps, **changes))


@pytest.fixture
def deploy(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Build deployments; the simulator's settings are the arguments.

    `clock` takes the place of one that `advance` moves, `front` stands before the simulator, and `deliver_event` gets
    the service's events.
    """
    servers = []
    (tmp_path / "objects").mkdir()
    store = LocalStore(tmp_path / "objects")

    def build(
        *,
        clock: Callable[[], datetime] | None = None,
        front: Callable[[Any], Any] = lambda app: app,
        deliver_event: Callable[[Any], None] | None = None,
        **settings: Any,
    ) -> Deployment:
        offset = [timedelta()]
        events: list[dict[str, Any]] = []
        messages: dict[str, list[tuple[datetime, str]]] = {}
        clock = clock or (lambda: START + offset[0])

        def enqueue(queue: str, body: str, delay_seconds: int = 0) -> None:
            messages.setdefault(queue, []).append((clock() + timedelta(seconds=delay_seconds), body))

        delays = {"submit_seconds": 10, "run_seconds": 10, **settings}
        simulator = SimulatorSettings(state_path=tmp_path / f"simulator{len(servers)}.db", **delays)
        stores: dict[str, ObjectStore] = {BUCKET: store}
        app = create_app(simulator, stores, deliver_event or events.append, clock)
        server = serve(front(app))
        servers.append(server)
        client = build_client(server.url, "us-east-1", "test", "test")
        created = client.create_datastore(datastoreName="test", clientToken="datastore")
        app.state.runner.run_due()
        deps = Dependencies(
            engine=engine,
            store=store,
            bucket=BUCKET,
            client=client,
            datastore_id=created["datastoreId"],
            data_access_role_arn="arn:aws:iam::123456789012:role/import",
            concurrent_imports=100,
            start_rate=1.0,
            import_enabled=True,
            enqueue=enqueue,
            clock=clock,
        )
        return Deployment(deps, app, store, messages, events, stores, offset)

    yield build
    for server in servers:
        server.close()


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    """Return a deployment with the service's defaults."""
    return deploy()


@pytest.fixture(scope="session")
def aws() -> Iterator[dict[str, str]]:
    """Serve S3 and SQS; give the arguments of a boto3 client for them."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
    }
    server.stop()


@pytest.fixture
def environment(
    aws: dict[str, str], engine: Engine, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Give the environment of a deployment's functions: its catalog, a bucket and queues of its own, its simulator."""
    name = uuid4().hex
    sqs, s3 = boto3.client("sqs", **aws), boto3.client("s3", **aws)
    s3.create_bucket(Bucket=f"images-{name}")
    deployment.stores[f"images-{name}"] = S3Store(
        f"images-{name}",
        endpoint=aws["endpoint_url"],
        region=aws["region_name"],
        access_key_id=aws["aws_access_key_id"],
        secret_access_key=aws["aws_secret_access_key"],
        client_options={"allow_http": True},
    )
    variables = {
        "AWS_ENDPOINT_URL": aws["endpoint_url"],
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": deployment.deps.client.meta.endpoint_url,
        "AWS_REGION": aws["region_name"],
        "AWS_DEFAULT_REGION": aws["region_name"],
        "AWS_ACCESS_KEY_ID": aws["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": aws["aws_secret_access_key"],
        "DICOMFLOW_DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "DICOMFLOW_STORE_URL": f"s3://images-{name}",
        "DICOMFLOW_IMPORTS__DATASTORE_ID": deployment.deps.datastore_id,
        "DICOMFLOW_IMPORTS__DATA_ACCESS_ROLE_ARN": deployment.deps.data_access_role_arn,
        "DICOMFLOW_IMPORTS__STAT_AE_TITLES": '["EMERGENCY"]',
    }
    for queue in QUEUES:
        url = sqs.create_queue(QueueName=f"{queue}-{name}")["QueueUrl"]
        variables[f"DICOMFLOW_QUEUES__{queue.upper()}"] = url
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    return variables


@pytest.fixture
def hospital(deployment: Any) -> Any:
    """Give a deployment with a study of three instances, and an edge that knows a PACS."""
    deployment.plan(deployment.deliver(SERIES, delivery="d1"))
    keys = deployment.keys("edge/")
    assert OK == deployment.handle("index", *map(deployment.object_event, keys))
    beat(deployment, "edge", "PACS")
    return deployment
