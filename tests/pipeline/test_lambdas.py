"""The functions as Lambda has them: built from the environment alone, on S3 and SQS, and quick to import."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from dicomflow.bucket.manifest import Manifest
from dicomflow.errors import InternalError, PermanentError
from dicomflow.pipeline import lambdas
from dicomflow.pipeline.events import encode_object_event


@pytest.fixture(autouse=True)
def _fresh(restore_logging: None) -> Iterator[None]:
    """Build the dependencies anew for each test, and leave the session's logging as it was."""
    yield
    if lambdas._dependencies.cache_info().currsize:
        lambdas._dependencies().engine.dispose()
    lambdas._dependencies.cache_clear()
    lambdas._configure_logging.cache_clear()
    lambdas._queues.cache_clear()


def call(environment: dict[str, str], queue: str, *bodies: str) -> None:
    """Send bodies through a queue to its function, and take what succeeded away, as Lambda does."""
    sqs = boto3.client("sqs", endpoint_url=environment["AWS_ENDPOINT_URL"])
    url = environment[f"DICOMFLOW_QUEUES__{queue.upper()}"]
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)
    records = [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
        }
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    ]
    assert records
    assert {"batchItemFailures": []} == getattr(lambdas, queue)({"Records": records}, None)
    for record in records:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])


def test_functions_on_s3_and_sqs_import_a_series(environment: dict[str, str], deployment: Any) -> None:
    """From the bucket's events to image sets, with nothing but the environment, S3, SQS and HealthImaging."""
    bucket = environment["DICOMFLOW_STORE_URL"].removeprefix("s3://")
    key = deployment.deliver({"1.2.1": 3}, delivery="d1", calling_ae_title="EMERGENCY")
    manifest = Manifest.from_json(bytes(deployment.store.get(key).bytes()))
    keys = [instance.key for instance in manifest.instances()]
    for each in [*keys, key]:
        deployment.stores[bucket].put(each, bytes(deployment.store.get(each).bytes()))
    call(environment, "index", *(encode_object_event(bucket, each, 1) for each in keys))
    call(environment, "plan", encode_object_event(bucket, key, 1))
    call(environment, "drive")  # planning has sent the wake-up
    assert [1] == [row["priority"] for row in deployment.rows("series_import")]
    deployment.advance(10)
    deployment.advance(10)
    call(environment, "collect", *(json.dumps(event) for event in deployment.events if "Job" in event["detail-type"]))
    assert {"1.2.1": "completed"} == deployment.states()
    assert 3 == len(deployment.rows("instance"))
    assert 1 == len(deployment.rows("series_image_set"))


def test_messages_that_failed_come_back_by_their_count(
    environment: dict[str, str], deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault delays an image by half a minute and not by the queue's visibility; an outage by half an hour."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # nobody is there
    sqs = boto3.client("sqs", endpoint_url=environment["AWS_ENDPOINT_URL"])
    url = environment["DICOMFLOW_QUEUES__INDEX"]
    bucket = environment["DICOMFLOW_STORE_URL"].removeprefix("s3://")
    manifest = Manifest.from_json(bytes(deployment.store.get(deployment.deliver({"1.2.1": 12}, delivery="d1")).bytes()))
    for each in manifest.instances():
        sqs.send_message(QueueUrl=url, MessageBody=encode_object_event(bucket, each.key, 1))
    received = [sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"] for _ in range(2)]
    counts = [1, 2, 6, 7, 100, *([1] * 7)]
    records = [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": str(count)},
        }
        for message, count in zip([*received[0], *received[1]], counts, strict=True)
    ]
    told: list[dict[str, Any]] = []
    lambdas._queues()._client.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibilityBatch", lambda params, **_: told.append(params)
    )
    answer = lambdas.index({"Records": records})
    assert 12 == len(answer["batchItemFailures"])
    assert [10, 2] == [len(each["Entries"]) for each in told]
    seconds = [entry["VisibilityTimeout"] for each in told for entry in each["Entries"]]
    assert [30, 60, 960, 1800, 1800, *([30] * 7)] == seconds


def test_dependencies_are_built_once(environment: dict[str, str]) -> None:
    """A warm function keeps its connections."""
    assert lambdas._dependencies() is lambdas._dependencies()


def test_lines_of_an_invocation_carry_its_request_id(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that is logged while a message is worked on names the invocation, beside its own fields."""
    context: Any = SimpleNamespace(aws_request_id="request-1")
    record = {"messageId": "m1", "receiptHandle": "r1", "body": "no event", "attributes": {}, "eventSource": "aws:sqs"}
    assert {"batchItemFailures": []} == lambdas.plan({"Records": [record]}, context)
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ("message_refused", "message:m1", "request-1") == (line["message"], line["key"], line["request_id"])


def test_catalog_without_a_schema_is_refused(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function on a database that nobody migrated fails with what to do, and its messages stay."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(PermanentError, match="dicomflow migrate"):
        lambdas.plan({"Records": []}, None)


def test_functions_import_nothing_that_some_never_use(python: Callable[[str], str]) -> None:
    """What a cold start imports holds none of the packages that only some functions, or none, need."""
    code = """
import sys
import dicomflow.pipeline.lambdas
unwanted = "alembic boto3 botocore.session dicomflow.edge numpy psycopg pydicom pynetdicom rich starlette typer".split()
print([name for name in unwanted if name in sys.modules])
"""
    assert "[]" == python(code).strip()


@pytest.mark.usefixtures("environment")
def test_error_that_leaves_a_function_quotes_nothing() -> None:
    """What Lambda's own log gets of a bug is where it was and of which type, not the value that it met."""
    with pytest.raises(InternalError, match=r"^index failed: KeyError$") as caught:
        lambdas.index({"Records": [{"Hidden^Patient": 1}]})
    assert caught.value.__suppress_context__
