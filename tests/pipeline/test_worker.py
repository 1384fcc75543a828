"""The worker on the local queue: what succeeds is deleted, what fails comes back, and it stops when told."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from dicomflow.catalog import queue as local_queue
from dicomflow.pipeline.worker import LocalQueues, run


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def run_until(done: threading.Event, queues: LocalQueues, handlers: dict[str, Callable[..., Any]]) -> None:
    """Work until `done` is set, at most ten seconds."""
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(list(handlers), handlers, queues, stop))
    worker.start()
    assert done.wait(10)
    stop.set()
    worker.join(10)
    assert not worker.is_alive()


def test_message_handled_is_deleted_and_failed_comes_back(engine: Engine) -> None:
    """Only the records that the handler names are received again."""
    queues = LocalQueues(engine, now, visibility_seconds=0)
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
    with engine.begin() as connection:
        counts = local_queue.count(connection, "index", now())
    assert (0, 0) == (counts.visible, counts.dead)


def test_handler_that_raises_does_not_stop_the_worker(engine: Engine) -> None:
    """A handler's bug gives the batch back; other queues and later messages go on."""
    queues = LocalQueues(engine, now, visibility_seconds=0)
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


def test_message_of_this_process_is_received_without_a_poll(engine: Engine) -> None:
    """A handler that sends to another queue wakes its receiver."""
    queues = LocalQueues(engine, now)
    done = threading.Event()

    def forward(_event: Any) -> dict[str, Any]:
        queues.enqueue("drive", "go")
        return {"batchItemFailures": []}

    def arrive(_event: Any) -> dict[str, Any]:
        done.set()
        return {"batchItemFailures": []}

    queues.enqueue("plan", "start")
    run_until(done, queues, {"plan": forward, "drive": arrive})
    with engine.begin() as connection:
        assert 0 == local_queue.count(connection, "plan", now()).visible
