"""A driver and collector in a process of its own, to be killed: the real handlers on the catalog's queues.

It is a module apart from its test so that a server of forks can load it once.
"""

import logging
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from obstore.store import LocalStore

from dicomflow.catalog import queue as local_queue
from dicomflow.catalog.engine import create_engine_for
from dicomflow.healthimaging.client import build_client
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.drive import drive
from dicomflow.pipeline.handlers import handlers_of

__all__ = ["CALLER", "POLL_SECONDS", "FastClock", "Post", "run_driver"]

VISIBILITY_SECONDS = 30
MAX_RECEIVES = 1_000  # killed processes count as receives, and this is not about dead letters
POLL_SECONDS = 0.03
UNCALLED = 0.02
"""How often, by chance, a process runs the driver that nobody has called."""
CALLER = "x-driver"
_NOWHERE = "http://127.0.0.1:1"
# What takes a process a second is done once, before the forks: no connection is opened by it.
_CLIENT = build_client(_NOWHERE, "us-east-1", "test", "test")
for _url in ("postgresql://localhost/none", "sqlite://"):
    create_engine_for(_url).dispose()


@dataclass(frozen=True)
class FastClock:
    """The machine's clock, `speed` times as fast since `started`: all processes of a test share its time."""

    started: float
    speed: float

    def __call__(self) -> datetime:
        """Return the time."""
        passed = (time.time() - self.started) * self.speed
        return datetime.fromtimestamp(self.started, UTC) + timedelta(seconds=passed)


@dataclass(frozen=True)
class Post:
    """Where a driver works."""

    database_url: str
    folder: str
    bucket: str
    endpoint: str
    datastore_id: str
    concurrent_imports: int
    clock: FastClock
    log: str


def run_driver(post: Post, name: str, seed: int) -> None:
    """Work until killed; the name goes with each call of the service."""
    logging.basicConfig(filename=post.log, level=logging.ERROR)

    def address(request: Any, **_: Any) -> None:
        request.url = request.url.replace(_NOWHERE, post.endpoint)
        request.headers[CALLER] = name

    _CLIENT.meta.events.register("before-sign", address)
    engine = create_engine_for(post.database_url)

    def enqueue(queue: str, body: str, delay_seconds: int = 0) -> None:
        with engine.begin() as connection:
            local_queue.send(connection, queue, body, post.clock(), delay_seconds)

    deps = Dependencies(
        engine=engine,
        store=LocalStore(post.folder),
        bucket=post.bucket,
        client=_CLIENT,
        datastore_id=post.datastore_id,
        data_access_role_arn="arn:aws:iam::123456789012:role/import",
        concurrent_imports=post.concurrent_imports,
        start_rate=1.0,
        import_enabled=True,
        enqueue=enqueue,
        clock=post.clock,
    )
    handlers = handlers_of(deps)
    chance = random.Random(seed)
    while True:
        worked = [_work(deps, handlers, queue) for queue in ("drive", "collect")]
        if chance.random() < UNCALLED:
            drive(deps)
        if not any(worked):
            time.sleep(POLL_SECONDS)


def _work(deps: Dependencies, handlers: Any, queue: str) -> bool:
    """Receive a batch, handle it, delete what succeeded; tell whether there was any."""
    with deps.engine.begin() as connection:
        messages = local_queue.receive(
            connection, queue, deps.clock(), visibility_timeout_seconds=VISIBILITY_SECONDS, max_receives=MAX_RECEIVES
        )
    if not messages:
        return False
    records = [
        {
            "messageId": message.message_id,
            "receiptHandle": message.receipt,
            "body": message.body,
            "attributes": {"ApproximateReceiveCount": str(message.receive_count)},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
        }
        for message in messages
    ]
    failed = {item["itemIdentifier"] for item in handlers[queue]({"Records": records})["batchItemFailures"]}
    with deps.engine.begin() as connection:
        for message in messages:
            if message.message_id not in failed:
                local_queue.delete_message(connection, queue, message.message_id, message.receipt)
    return True
