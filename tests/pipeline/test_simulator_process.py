"""`dicomflow simulator` as the process it is: at the service's limits, with a folder as bucket and events in SQS."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from waiting import WAIT_SECONDS, wait_for


@pytest.fixture
def queue_url(aws: dict[str, str]) -> str:
    """Give a queue of SQS."""
    url: str = boto3.client("sqs", **aws).create_queue(QueueName=uuid4().hex)["QueueUrl"]
    return url


@pytest.fixture
def client(aws: dict[str, str], queue_url: str, deployment: Any, tmp_path: Path) -> Iterator[Any]:
    """Start a simulator over a deployment's objects; give a client of it."""
    command = [sys.executable, "-m", "dicomflow", "simulator", "--data", str(tmp_path / "state"), "--port", "0"]
    command += ["--service-limits", "--set", "submit_seconds=0", "--set", "run_seconds=0"]
    command += ["--bucket", f"images={tmp_path / 'objects'}", "--events-queue-url", queue_url]
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": aws["endpoint_url"],
        "AWS_DEFAULT_REGION": aws["region_name"],
        "AWS_ACCESS_KEY_ID": aws["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": aws["aws_secret_access_key"],
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    arguments = {**aws, "endpoint_url": url}
    yield boto3.client(
        "medical-imaging", **arguments, config=Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
    )
    process.terminate()
    assert 0 == process.wait(WAIT_SECONDS)
    process.stdout.close()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_simulator_process_throttles_and_tells_sqs_of_a_job(
    aws: dict[str, str], queue_url: str, client: Any, deployment: Any
) -> None:
    """Two starts are taken and the third is too much; the events of a job come in EventBridge's envelope."""
    deployment.deliver({"1.2.1": 1}, delivery="d1")
    datastore_id = client.create_datastore(datastoreName="test", clientToken="test")["datastoreId"]

    def start(token: str) -> str:
        job_id: str = client.start_dicom_import_job(
            datastoreId=datastore_id,
            jobName=token,
            clientToken=token,
            dataAccessRoleArn="arn:aws:iam::123456789012:role/import",
            inputS3Uri="s3://images/edge/d1/",
            outputS3Uri="s3://images/imports/",
        )["jobId"]
        return job_id

    wait_for_datastore(client, datastore_id)
    job_id = start("a")
    assert job_id == start("a")

    def start_again_and_again() -> None:
        for _ in range(1000):
            start("a")

    with pytest.raises(client.exceptions.ThrottlingException):
        start_again_and_again()
    sqs = boto3.client("sqs", **aws)
    told: list[str] = []

    def is_told() -> bool:
        answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            event = json.loads(message["Body"])
            assert "aws.medical-imaging" == event["source"]
            if event["detail-type"].startswith("Import Job"):
                assert (datastore_id, job_id) == (event["detail"]["datastoreId"], event["detail"]["jobId"])
                told.append(event["detail"]["jobStatus"])
        return "COMPLETED" in told

    wait_for(is_told, explain=lambda: str(told))
    assert [] == sorted({"SUBMITTED", "IN_PROGRESS", "COMPLETED"} ^ set(told))
    assert 1 == len(client.search_image_sets(datastoreId=datastore_id)["imageSetsMetadataSummaries"])


def wait_for_datastore(client: Any, datastore_id: str) -> None:
    """Wait until a data store can be used."""
    wait_for(
        lambda: "ACTIVE" == client.get_datastore(datastoreId=datastore_id)["datastoreProperties"]["datastoreStatus"]
    )
