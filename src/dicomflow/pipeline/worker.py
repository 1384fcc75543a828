"""The handlers outside Lambda: threads that receive from queues, call the same handlers, and delete what succeeded."""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Engine

from dicomflow.catalog import queue as local_queue
from dicomflow.errors import PermanentError, pause_after
from dicomflow.pipeline.handlers import Handler

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

__all__ = ["LocalQueues", "Source", "SqsQueues", "run"]

logger = logging.getLogger(__name__)

BATCH: Final = 10  # the most that one ReceiveMessage of SQS gives
VISIBILITY_SECONDS: Final = 180
LONG_POLL_SECONDS: Final = 10
POLL_SECONDS: Final = 0.5
RECOVERY_SECONDS: Final = 1.0
FIRST_PAUSE_SECONDS: Final = 30
LONGEST_PAUSE_SECONDS: Final = 1800

Record = dict[str, Any]  # a record of Lambda's SQS event


class Source(Protocol):
    """Queues to receive from: SQS or the local ones."""

    def receive(self, queue: str) -> Sequence[Record]:
        """Return some messages, hidden from others for a while; none after a short wait."""

    def delete(self, queue: str, records: Sequence[Record]) -> None:
        """Remove messages that were worked on."""


def run(queues: Sequence[str], handlers: Mapping[str, Handler], source: Source, stop: threading.Event) -> None:
    """Work on the queues, each in a thread of its own, until `stop` is set; the batches at hand are finished."""
    threads = [
        threading.Thread(target=_work, args=(queue, handlers[queue], source, stop), name=f"worker-{queue}")
        for queue in queues
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(queue: str, handler: Handler, source: Source, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            records = source.receive(queue)
            if records:
                source.delete(queue, _succeeded(handler, records))
        except Exception:  # the thread's boundary: the messages come back after their timeout
            logger.exception("worker_failed", extra={"queue": queue})
            stop.wait(RECOVERY_SECONDS)


def _succeeded(handler: Handler, records: Sequence[Record]) -> list[Record]:
    failures = handler({"Records": list(records)})["batchItemFailures"]
    failed = {failure["itemIdentifier"] for failure in failures}
    return [record for record in records if record["messageId"] not in failed]


def receive_count(record: Record) -> int:
    """Return how often a message was received, this time included."""
    return max(1, int(record.get("attributes", {}).get("ApproximateReceiveCount", 1)))


class LocalQueues:
    """The local queues as a source, and their `enqueue`. Thread: any.

    A message that is sent in this process wakes its receiver at once; others are found by polling. While `has_room`
    says no, messages wait: to be received and then not worked on, for want of space, would make dead letters of them.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        visibility_seconds: float = VISIBILITY_SECONDS,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._visibility_seconds = visibility_seconds
        self._has_room = has_room
        self._arrived = threading.Condition()
        self._sent = 0

    def enqueue(self, queue: str, body: str, delay_seconds: int = 0) -> None:
        """Send a message. Durable: on return it is in the catalog's file."""
        with self._engine.begin() as connection:
            local_queue.send(connection, queue, body, self._clock(), delay_seconds)
        with self._arrived:
            self._sent += 1
            self._arrived.notify_all()

    def bodies(self, queue: str) -> list[str]:
        """Return what waits in a queue or is worked on."""
        with self._engine.begin() as connection:
            return local_queue.bodies(connection, queue)

    def receive(self, queue: str) -> list[Record]:
        """Receive a batch; without one, wait for a message or the next poll."""
        with self._arrived:
            sent = self._sent
        messages: list[local_queue.Message] = []
        if self._has_room():
            with self._engine.begin() as connection:
                messages = local_queue.receive(
                    connection,
                    queue,
                    self._clock(),
                    max_messages=BATCH,
                    visibility_timeout_seconds=self._visibility_seconds,
                )
        if not messages:
            with self._arrived:
                self._arrived.wait_for(lambda: self._sent != sent, POLL_SECONDS)
        return [_local_record(queue, message) for message in messages]

    def delete(self, queue: str, records: Sequence[Record]) -> None:
        """Remove messages in one transaction."""
        if records:
            with self._engine.begin() as connection:
                for record in records:
                    local_queue.delete_message(connection, queue, record["messageId"], record["receiptHandle"])


class SqsQueues:
    """SQS queues as a source, and their `enqueue`. Thread: any."""

    def __init__(
        self,
        client: "SQSClient",
        urls: Mapping[str, str],
        visibility_seconds: int = VISIBILITY_SECONDS,
        long_poll_seconds: int = LONG_POLL_SECONDS,
    ) -> None:
        self._client = client
        self._urls = urls
        self._visibility_seconds = visibility_seconds
        self._long_poll_seconds = long_poll_seconds

    def enqueue(self, queue: str, body: str, delay_seconds: int = 0) -> None:
        """Send a message. Durable: on return the service has it.

        Raises:
            PermanentError: the queue has no URL in the settings.
        """
        if queue not in self._urls:
            raise PermanentError(f"queue {queue} has no URL; set DICOMFLOW_QUEUES__{queue.upper()}")
        self._client.send_message(QueueUrl=self._urls[queue], MessageBody=body, DelaySeconds=math.ceil(delay_seconds))

    def put_off(self, queue: str, records: Sequence[Record]) -> None:
        """Let messages that failed come again, later each time: 30 seconds after the first, up to half an hour.

        A call that fails changes nothing but the time: the queue's own visibility then holds.
        """
        if queue not in self._urls:
            return
        for start in range(0, len(records), BATCH):
            entries: Any = [
                {
                    "Id": str(number),
                    "ReceiptHandle": record["receiptHandle"],
                    "VisibilityTimeout": pause_after(receive_count(record), FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
                }
                for number, record in enumerate(records[start : start + BATCH])
            ]
            try:
                answer = self._client.change_message_visibility_batch(QueueUrl=self._urls[queue], Entries=entries)
            except Exception:  # one of many: the others' boundary, and the message comes back all the same
                logger.warning("message_not_put_off", extra={"queue": queue}, exc_info=True)
                continue
            if answer.get("Failed"):
                logger.warning("message_not_put_off", extra={"queue": queue, "messages": len(answer["Failed"])})

    def receive(self, queue: str) -> list[Record]:
        """Receive a batch by long polling."""
        answer = self._client.receive_message(
            QueueUrl=self._urls[queue],
            MaxNumberOfMessages=BATCH,
            VisibilityTimeout=self._visibility_seconds,
            WaitTimeSeconds=self._long_poll_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": dict(message.get("Attributes", {})),
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": queue,
            }
            for message in answer.get("Messages", [])
        ]

    def delete(self, queue: str, records: Sequence[Record]) -> None:
        """Remove messages; one that SQS keeps comes again, which changes nothing."""
        if not records:
            return
        answer = self._client.delete_message_batch(
            QueueUrl=self._urls[queue],
            Entries=[
                {"Id": str(number), "ReceiptHandle": record["receiptHandle"]} for number, record in enumerate(records)
            ],
        )
        for failure in answer.get("Failed", []):
            logger.warning("message_not_deleted", extra={"queue": queue, "code": failure["Code"]})


def _local_record(queue: str, message: local_queue.Message) -> Record:
    return {
        "messageId": message.message_id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": str(message.receive_count),
            "SentTimestamp": str(int(message.enqueued_at.timestamp() * 1000)),
        },
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": queue,
    }
