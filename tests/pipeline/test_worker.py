"""The worker on the local queue and on SQS: what succeeds is deleted, what fails comes back, and it stops when told."""

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from waiting import WAIT_SECONDS

from dicomflow.catalog.engine import create_engine_for
from dicomflow.errors import PermanentError
from dicomflow.pipeline.worker import LocalQueues, SqsQueues, run


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@pytest.fixture(params=["local", "SQS"])
def build_queues(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Build queues of either kind; a message that is not deleted is hidden for the seconds given."""
    if request.param == "local":
        catalog = tmp_path / "catalog.db"
        shutil.copy(request.getfixturevalue("_sqlite_template").url.database, catalog)
        engine = create_engine_for(f"sqlite:///{catalog}")
        yield lambda visibility_seconds=60: LocalQueues(engine, now, visibility_seconds)
        engine.dispose()
        return
    client = boto3.client("sqs", **request.getfixturevalue("aws"))
    urls = {
        name: client.create_queue(QueueName=f"{name}-{uuid4().hex}")["QueueUrl"] for name in ("index", "plan", "drive")
    }
    yield lambda visibility_seconds=60: SqsQueues(client, urls, visibility_seconds, long_poll_seconds=1)


def run_until(done: threading.Event, queues: Any, handlers: dict[str, Callable[..., Any]]) -> None:
    """Work until `done` is set."""
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(list(handlers), handlers, queues, stop))
    worker.start()
    assert done.wait(WAIT_SECONDS)
    stop.set()
    worker.join(WAIT_SECONDS)
    assert not worker.is_alive()


def test_local_message_waits_while_there_is_no_room_for_its_work(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is neither received nor counted: space that comes back finds it as it was sent."""
    catalog = tmp_path / "catalog.db"
    shutil.copy(request.getfixturevalue("_sqlite_template").url.database, catalog)
    engine = create_engine_for(f"sqlite:///{catalog}")
    room: list[bool] = []
    queues = LocalQueues(engine, now, 0, lambda: bool(room))
    queues.enqueue("index", "body")
    assert [[], []] == [queues.receive("index") for _ in range(2)]
    room.append(True)
    (record,) = queues.receive("index")
    engine.dispose()
    assert ("body", "1") == (record["body"], record["attributes"]["ApproximateReceiveCount"])


def test_message_handled_is_deleted_and_failed_comes_back(build_queues: Callable[..., Any]) -> None:
    """Only the records that the handler names are received again."""
    queues = build_queues(visibility_seconds=0)
    seen: list[str] = []
    done = threading.Event()

    def handler(event: Any) -> dict[str, Any]:
        seen.extend(record["body"] for record in event["Records"])
        failed = [
            record
            for record in event["Records"]
            if record["body"] == "bad" and int(record["attributes"]["ApproximateReceiveCount"]) < 3
        ]
        if seen.count("bad") == 3:
            done.set()
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}

    queues.enqueue("index", "good")
    queues.enqueue("index", "bad")
    run_until(done, queues, {"index": handler})
    assert (1, 3) == (seen.count("good"), seen.count("bad"))
    assert [] == queues.receive("index")


def test_handler_that_raises_does_not_stop_the_worker(build_queues: Callable[..., Any]) -> None:
    """A handler's bug gives the batch back; other queues and later messages go on."""
    queues = build_queues(visibility_seconds=0)
    done = threading.Event()
    calls: list[str] = []

    def raises_once(event: Any) -> dict[str, Any]:
        calls.append(event["Records"][0]["body"])
        if len(calls) == 1:
            raise RuntimeError("simulated")
        done.set()
        return {"batchItemFailures": []}

    queues.enqueue("plan", "again")
    run_until(done, queues, {"plan": raises_once})
    assert ["again", "again"] == calls


def test_message_that_a_handler_sends_is_received(build_queues: Callable[..., Any]) -> None:
    """A handler may send to another queue, whose receiver gets it."""
    queues = build_queues()
    done = threading.Event()

    def forward(_event: Any) -> dict[str, Any]:
        queues.enqueue("drive", "go")
        return {"batchItemFailures": []}

    def arrive(_event: Any) -> dict[str, Any]:
        done.set()
        return {"batchItemFailures": []}

    queues.enqueue("plan", "start")
    run_until(done, queues, {"plan": forward, "drive": arrive})
    assert [] == queues.receive("plan")


def test_message_has_what_a_lambda_record_has(build_queues: Callable[..., Any]) -> None:
    """Whatever queue it comes from, a record is shaped as Lambda's are, and counts its receives."""
    queues = build_queues(visibility_seconds=0)
    queues.enqueue("index", "body")
    for count in ("1", "2"):
        (record,) = queues.receive("index")
        assert ("body", "aws:sqs", count) == (
            record["body"],
            record["eventSource"],
            record["attributes"]["ApproximateReceiveCount"],
        )


def test_delayed_message_is_not_received_before(build_queues: Callable[..., Any]) -> None:
    """A message with a delay is not there at once."""
    queues = build_queues()
    queues.enqueue("drive", "later", 600)
    assert [] == queues.receive("drive")


def test_queue_without_a_url_is_named() -> None:
    """A message for a queue that the settings do not give is an error that names the setting."""
    with pytest.raises(PermanentError, match="DICOMFLOW_QUEUES__DRIVE"):
        SqsQueues(boto3.client("sqs", region_name="us-east-1"), {}).enqueue("drive", "{}")
