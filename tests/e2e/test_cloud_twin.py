"""The cloud without AWS: an edge's images become image sets through the deployment's own template and bundles."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from cloud_twin import (
    ACCOUNT,
    ENDPOINT_VARIABLES,
    NOT_MADE,
    REGION,
    MiniStack,
    synthesised_template,
    twin_template,
    zip_bundle,
)
from transfer_site import Pacs
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import samples
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.report import create_read_only_engine, run_read_only
from dicomflow.cli.operator import caller, function_of
from dicomflow.console.forward import create_forwarder
from dicomflow.healthimaging.client import build_client, create_datastore
from dicomflow.serving import WebServer
from infra.bundles import HOST, build_bundle

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "iep-edge-1"
QUEUES = ("index", "plan", "drive", "collect", "transfers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("cloud_twin")]


class Twin:
    """A deployed stack and an edge that delivers to it. One owner: the fixture."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.pacs = Pacs()
        ports = free_ports(3)
        self.cloud = MiniStack(folder, ports[0])
        self.dimse_port = ports[1]
        self.database_url = database_url
        self.catalog = create_read_only_engine(database_url)
        self.template = synthesised_template()
        self.simulator = f"http://127.0.0.1:{ports[2]}"
        self.bucket = ""

    def client(self, service: str) -> Any:
        """Return a client of the cloud."""
        return boto3.client(
            service,
            endpoint_url=self.cloud.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def deploy(self) -> None:
        """Start HealthImaging's stand-in, make the stack with the real bundles, and start the edge."""
        self._start_simulator()
        datastore = create_datastore(build_client(self.simulator, REGION, "test", "test"), "twin", "twin")
        environment = {
            "DICOMFLOW_DATABASE_URL": self.database_url,
            "DICOMFLOW_DATABASE_IAM": "",
            "PGSSLROOTCERT": "",
            "DICOMFLOW_IMPORTS__DATASTORE_ID": datastore.datastore_id,
            "AWS_ENDPOINT_URL": self.cloud.endpoint,
            "AWS_ENDPOINT_URL_LAMBDA": self.cloud.endpoint,
            "AWS_ENDPOINT_URL_SQS": self.cloud.endpoint,
            "AWS_ENDPOINT_URL_MEDICAL_IMAGING": self.simulator,
        }
        self.client("s3").create_bucket(Bucket="bundles")
        stack = twin_template(self.template, environment, self._upload_bundle)
        self.client("s3").put_object(Bucket="bundles", Key="stack.json", Body=json.dumps(stack).encode())
        formation = self.client("cloudformation")
        formation.create_stack(
            StackName="iep",
            TemplateURL=f"{self.cloud.endpoint}/bundles/stack.json",
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )

        def state() -> str:
            return str(formation.describe_stacks(StackName="iep")["Stacks"][0]["StackStatus"])

        wait_for(lambda: not state().endswith("IN_PROGRESS"), explain=state)
        events = formation.describe_stack_events(StackName="iep")["StackEvents"]
        failed = [event for event in events if "FAILED" in event["ResourceStatus"]]
        reasons = [(each["ResourceType"], each.get("ResourceStatusReason")) for each in failed]
        assert "CREATE_COMPLETE" == state(), f"{reasons}\n{self.cloud.log_tail()}"
        outputs = formation.describe_stacks(StackName="iep")["Stacks"][0]["Outputs"]
        (self.bucket,) = [output["OutputValue"] for output in outputs if output["OutputKey"] == "Bucket"]
        self._start_edge()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on the catalog."""
        return run_read_only(self.catalog, sql)[1]

    def send(self, paths: tuple[Path, ...]) -> None:
        """Send files to the edge over DIMSE, as a modality does."""
        command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(self.dimse_port), *map(str, paths)]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert 0 == result.returncode, result.stdout + result.stderr

    def dead_letters(self) -> dict[str, int]:
        """Return how many messages are in each queue of dead letters."""
        sqs = self.client("sqs")
        found = {}
        for queue in QUEUES:
            url = sqs.get_queue_url(QueueName=f"iep-{queue}-dead")["QueueUrl"]
            answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
            found[queue] = int(answer["Attributes"]["ApproximateNumberOfMessages"])
        return found

    def explain(self) -> str:
        """Return what the cloud and the edge said last, for the one who reads a failure."""
        logs = [path.read_text(errors="replace")[-3000:] for path in self._folder.glob("*.log")]
        return "\n".join([*logs, self.cloud.log_tail()])

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(WAIT_SECONDS)
        self.catalog.dispose()
        self.cloud.close()
        self.pacs.close()

    def _upload_bundle(self, name: str) -> dict[str, str]:
        path = self._folder / f"{name}.zip"
        zip_bundle(build_bundle(name, ROOT / "build" / "bundles-host", HOST), path)
        self.client("s3").upload_file(str(path), "bundles", path.name)
        path.unlink()
        return {"S3Bucket": "bundles", "S3Key": path.name}

    def _start_simulator(self) -> None:
        command = ["simulator", "--data", self._folder / "simulator", "--port", self.simulator.rpartition(":")[2]]
        command += ["--events-queue-url", f"{self.cloud.endpoint}/{ACCOUNT}/iep-collect"]
        command += ["--set", "submit_seconds=0.2", "--set", "run_seconds=0.2"]
        self._start("simulator", *command, AWS_ENDPOINT_URL=self.cloud.endpoint)
        port = int(self.simulator.rpartition(":")[2])
        wait_for(lambda: _answers(port), explain=self.explain)

    def _start_edge(self) -> None:
        config = self._folder / "edge.toml"
        config.write_text(f"""
name = "{DEVICE}"
http_port = 0
[dimse]
port = {self.dimse_port}
bind = "127.0.0.1"
[spool]
dir = "{self._folder / "spool"}"
workers = 2
[delivery]
store_url = "s3://{self.bucket}"
endpoint = "{self.cloud.endpoint}"
quiet_seconds = 0.5
[destinations.pacs]
host = "127.0.0.1"
port = {self.pacs.port}
ae_title = "PACS"
""")
        self._start("edge", "edge", "--config", config)
        wait_for(lambda: _answers(self.dimse_port), explain=self.explain)

    def _start(self, name: str, *arguments: object, **variables: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DICOMFLOW_", "AWS_"))}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dicomflow", *map(str, arguments)],
                    stdout=log,
                    stderr=log,
                    env={**inherited, **ENDPOINT_VARIABLES, **variables},
                )
            )


@pytest.fixture
def twin(tmp_path: Path, postgres_url: str) -> Iterator[Twin]:
    """Give a deployed stack on a real PostgreSQL, with an edge."""
    engine = create_engine_for(postgres_url)
    migrate(engine)
    engine.dispose()
    made = Twin(tmp_path, postgres_url)
    try:
        made.deploy()
        yield made
    finally:
        made.close()
        build_client.cache_clear()
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_study_sent_to_the_edge_becomes_image_sets(twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From DIMSE over S3, SQS and functions to the catalog and HealthImaging: all is there once, no letter is dead."""
    paths = samples.write(samples.ct_study(3, slices=3), tmp_path / "study")
    garbage = f"{DEVICE}/no-delivery/1/2/3.dcm"
    twin.client("s3").put_object(Bucket=twin.bucket, Key=garbage, Body=b"no DICOM")
    twin.send(paths)
    wait_for(lambda: {3} == {row[0] for row in twin.query("SELECT status FROM Ahlijob")}, explain=twin.explain)
    series = {row[0] for row in twin.query("SELECT series_instance_uid FROM Series")}
    assert {path.stem for path in paths} == {row[0] for row in twin.query("SELECT sop_instance_uid FROM Instance")}
    assert len(series) == len(twin.query("SELECT * FROM Ahliimageset"))
    stored = twin.query("SELECT object_key, sha256 FROM stored_object WHERE problem IS NULL")
    assert len(paths) == len(stored)
    for key, digest in stored:
        body = twin.client("s3").get_object(Bucket=twin.bucket, Key=key)["Body"].read()
        assert key.startswith(f"{DEVICE}/")
        assert digest == hashlib.sha256(body).hexdigest()
    wait_for(lambda: bool(_keys(twin, f"feedback/{DEVICE}/")), explain=twin.explain)
    assert [f"status/{DEVICE}.json"] == _keys(twin, "status/")
    wait_for(lambda: bool(twin.query("SELECT 1 FROM stored_object WHERE problem IS NOT NULL")), explain=twin.explain)
    assert [(garbage,)] == twin.query("SELECT object_key FROM stored_object WHERE problem IS NOT NULL")
    _assert_study_goes_back(twin, paths)
    assert dict.fromkeys(QUEUES, 0) == twin.dead_letters()
    _assert_rule_takes_job_events(twin)
    for name, value in {**ENDPOINT_VARIABLES, "AWS_ENDPOINT_URL": twin.cloud.endpoint}.items():
        monkeypatch.setenv(name, value)
    _assert_operator_counts(len(paths))
    _assert_console_shows(twin, series, {path.stem for path in paths})


def _assert_operator_counts(instances: int) -> None:
    """`dicomflow --stack iep query` runs in the operator's function, from its bundle alone."""
    arguments = ["query", "--json", "SELECT count(*) AS instances FROM instance"]
    told = function_of("iep", "operator", read_seconds=WAIT_SECONDS)({"arguments": arguments})
    assert (0, [{"instances": instances}]) == (told["code"], json.loads(told["output"])), told["errors"]


def _assert_console_shows(twin: Twin, series: set[str], instances: set[str]) -> None:
    """`dicomflow console --stack iep` has its pages and a picture of the console's function, from its bundle alone."""
    call = function_of("iep", "console", read_seconds=WAIT_SECONDS)
    server = WebServer(create_forwarder(call, caller()), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=WAIT_SECONDS) as console:
            for path in ("/overview", "/studies", "/imports", "/edges", "/problems", "/audit", "/static/console.css"):
                answer = console.get(path)
                assert 200 == answer.status_code, (path, answer.text, twin.explain())
            shown = set()
            for uid in series:
                answer = console.get(f"/series/{uid}.json")
                assert 200 == answer.status_code, (answer.text, twin.explain())
                shown |= {each["sop_instance_uid"] for each in answer.json()["instances"]}
            assert instances == shown
            picture = console.get(f"/instances/{min(instances)}/frames/0.png")
            assert (200, b"\x89PNG") == (picture.status_code, picture.content[:4]), (picture.text, twin.explain())
    finally:
        server.stop()
        thread.join()


def _assert_study_goes_back(twin: Twin, paths: tuple[Path, ...]) -> None:
    """A message on the queue brings every image to the PACS that the edge knows, once, and nothing of it stays."""
    sqs = twin.client("sqs")
    ((study,),) = twin.query("SELECT study_instance_uid FROM Study")
    message = {"transfer": "twin-1", "to": "pacs", "uid": study}
    for _ in range(2):  # as at least once
        sqs.send_message(
            QueueUrl=sqs.get_queue_url(QueueName="iep-transfers")["QueueUrl"], MessageBody=json.dumps(message)
        )
    wait_for(lambda: [("done",)] == twin.query("SELECT state FROM transfer"), explain=twin.explain)
    assert {path.stem: 1 for path in paths} == twin.pacs.taken
    wait_for(lambda: [f"outbound/{DEVICE}/pending.json"] == _keys(twin, "outbound/"), explain=twin.explain)


def _assert_rule_takes_job_events(twin: Twin) -> None:
    """The rule that is to bring the service's events takes them; the simulator sends its own past the rule."""
    rules = [each for each in twin.template["Resources"].values() if each["Type"] == "AWS::Events::Rule"]
    (rule,) = [each["Properties"] for each in rules if "aws.medical-imaging" in json.dumps(each)]
    pattern = {**rule["EventPattern"], "detail": {"datastoreId": ["store"]}}
    event = {
        "id": "1",
        "account": ACCOUNT,
        "time": "2026-01-01T00:00:00Z",
        "region": REGION,
        "resources": [],
        "source": "aws.medical-imaging",
        "detail-type": "Import Job Completed",
        "detail": {"datastoreId": "store", "jobId": "1"},
    }
    answer = twin.client("events").test_event_pattern(EventPattern=json.dumps(pattern), Event=json.dumps(event))
    assert answer["Result"]


def test_twin_leaves_out_only_what_it_says():
    """Every type that the twin goes without is in the template, and those of the pipeline itself are all made."""
    types = {resource["Type"] for resource in synthesised_template()["Resources"].values()}
    assert NOT_MADE.keys() <= types
    needed = {"AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::Lambda::Function", "AWS::Lambda::EventSourceMapping"}
    assert needed <= types - NOT_MADE.keys()


def _keys(twin: Twin, prefix: str) -> list[str]:
    answer = twin.client("s3").list_objects_v2(Bucket=twin.bucket, Prefix=prefix)
    return [found["Key"] for found in answer.get("Contents", [])]


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
