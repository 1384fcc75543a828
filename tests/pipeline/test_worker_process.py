"""`dicomflow worker` as the process it is, on SQS and S3: from the bucket's events to image sets, and a clean end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from waiting import WAIT_SECONDS, wait_for

from dicomflow.pipeline.handlers import QUEUES


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a worker of all queues, which is ready."""
    command = [sys.executable, "-m", "dicomflow", "worker"]
    command += [part for queue in QUEUES for part in ("--queue", queue)]
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment}
        )
    assert process.stdout is not None
    assert "ready: index, plan, drive, collect, transfers\n" == process.stdout.readline(), (
        tmp_path / "worker.log"
    ).read_text()
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(WAIT_SECONDS)
    process.stdout.close()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_worker_process_on_sqs_imports_a_series_and_stops_when_told(
    environment: dict[str, str], deployment: Any, worker: subprocess.Popen[str]
) -> None:
    """Messages of S3 and EventBridge become rows and image sets; one that is broken is recorded; none is left."""
    sqs = boto3.client("sqs", endpoint_url=environment["AWS_ENDPOINT_URL"])
    bucket = environment["DICOMFLOW_STORE_URL"].removeprefix("s3://")

    def send(queue: str, body: str) -> None:
        sqs.send_message(QueueUrl=environment[f"DICOMFLOW_QUEUES__{queue.upper()}"], MessageBody=body)

    manifest = deployment.deliver({"1.2.1": 3}, delivery="d1")
    keys = [key for prefix in ("edge", "manifests") for key in deployment.keys(prefix)]
    for key in keys:
        deployment.stores[bucket].put(key, bytes(deployment.store.get(key).bytes()))
        event = deployment.object_event(key).replace('"name":"images"', f'"name":"{bucket}"')
        send("plan" if key == manifest else "index", event)
    send("plan", "no JSON")

    def pass_time() -> bool:
        """Let the service's time pass, and bring its events."""
        deployment.advance(10)
        while deployment.events:
            send("collect", json.dumps(deployment.events.pop(0)))
        return {"1.2.1": "completed"} == deployment.states()

    wait_for(pass_time)
    wait_for(lambda: 3 == len(deployment.rows("instance")))
    assert ["imported"] * 3 == [row["outcome"] for row in deployment.rows("import_outcome")]
    assert 1 == len(deployment.rows("series_image_set"))
    wait_for(lambda: any(row["problem"] for row in deployment.rows("stored_object")))

    def is_empty() -> bool:
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        answers = [
            sqs.get_queue_attributes(
                QueueUrl=environment[f"DICOMFLOW_QUEUES__{queue.upper()}"], AttributeNames=list(names)
            )["Attributes"]
            for queue in QUEUES
        ]
        return not any(int(answer[name]) for answer in answers for name in names)

    wait_for(is_empty)
    worker.send_signal(signal.SIGTERM)
    for queue in QUEUES:
        send(queue, '{"Event":"s3:TestEvent"}')  # ends the wait for messages; each batch at hand is finished
    assert 0 == worker.wait(WAIT_SECONDS)
