"""A simulator over HTTP, a folder as its bucket, and small data sets to import."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from obstore.store import LocalStore
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomflow.healthimaging.simulator import SimulatorSettings, create_app, serve
from dicomflow.serving import WebServer

BUCKET = "images"
ROLE_ARN = "arn:aws:iam::123456789012:role/import"


def encode(**attributes: Any) -> bytes:
    """Return a Part 10 file of a data set with these attributes; UIDs and patient are filled in."""
    dataset = Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": "1.2.3.1.1",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
        "PatientID": "P1",
        "PatientName": "Invented^Patient",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "AccessionNumber": "A1",
        "StudyID": "S1",
        "SeriesNumber": 1,
        "Modality": "CT",
        "Rows": 2,
        "Columns": 2,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = bytes(8)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encoded = BytesIO()
    dataset.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


@dataclass
class Simulation:
    """A running simulator with a client, one data store and the means to move time."""

    server: WebServer
    app: Any
    client: Any
    store: LocalStore
    datastore_id: str
    events: list[dict[str, Any]]
    tokens: int = field(default=0)

    def encode(self, **attributes: Any) -> bytes:
        """Return an object that can be imported."""
        return encode(**attributes)

    def put(self, key: str, **attributes: Any) -> None:
        """Store an object that can be imported."""
        self.store.put(key, encode(**attributes))

    def start(self, prefix: str, **arguments: Any) -> str:
        """Start an import of a prefix with a token of its own; return the job's id."""
        self.tokens += 1
        parameters = {
            "datastoreId": self.datastore_id,
            "jobName": f"job-{self.tokens}",
            "clientToken": f"token-{self.tokens}",
            "dataAccessRoleArn": ROLE_ARN,
            "inputS3Uri": f"s3://{BUCKET}/{prefix}",
            "outputS3Uri": f"s3://{BUCKET}/imports/",
            **arguments,
        }
        return self.client.start_dicom_import_job(**parameters)["jobId"]

    def advance(self, seconds: float) -> None:
        """Put the simulator's clock forward, and do what is due by then."""
        self.app.state.world.ahead_seconds += seconds
        self.app.state.runner.run_due()

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job's properties."""
        return self.client.get_dicom_import_job(datastoreId=self.datastore_id, jobId=job_id)["jobProperties"]

    def run(self, prefix: str, **arguments: Any) -> dict[str, Any]:
        """Import a prefix to its end and return the job's properties."""
        job_id = self.start(prefix, **arguments)
        self.advance(10)
        self.advance(10)
        return self.job(job_id)

    def image_sets(self) -> list[dict[str, Any]]:
        """Return every image set, as a search tells of them."""
        return self.client.search_image_sets(datastoreId=self.datastore_id)["imageSetsMetadataSummaries"]


def connect(url: str) -> Any:
    """Return an unmodified boto3 client of the simulator."""
    return boto3.client(
        "medical-imaging",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(inject_host_prefix=False, retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def settings(tmp_path: Path) -> SimulatorSettings:
    """Settings whose delays pass only when a test says so."""
    return SimulatorSettings(state_path=tmp_path / "simulator.db", submit_seconds=10, run_seconds=10)


@pytest.fixture
def simulate(tmp_path: Path, settings: SimulatorSettings) -> Iterator[Callable[..., Simulation]]:
    """Start simulators with changed settings; time stands still but for `advance`."""
    running: list[WebServer] = []
    (tmp_path / "objects").mkdir()
    store = LocalStore(tmp_path / "objects")

    def start(**changes: Any) -> Simulation:
        events: list[dict[str, Any]] = []
        app = create_app(
            replace(settings, **changes),
            {BUCKET: store},
            events.append,
            clock=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        server = serve(app)
        running.append(server)
        client = connect(server.url)
        datastore_id = client.create_datastore(datastoreName="test", clientToken="datastore")["datastoreId"]
        app.state.runner.run_due()
        return Simulation(server, app, client, store, datastore_id, events)

    yield start
    for server in running:
        server.close()


@pytest.fixture
def simulation(simulate: Callable[..., Simulation]) -> Simulation:
    """Return a simulator with the default switches."""
    return simulate()
