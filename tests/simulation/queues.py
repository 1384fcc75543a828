"""Standard queues: at least once, in no order, a visibility timeout, dead letters after so many receives of its own."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.simulation.box import Box

VISIBILITY_SECONDS = 180.0
MAX_RECEIVES = 5
"""Of those that failed without a fault: a deployment's hundred are shared with outages."""


@dataclass
class Message:
    """A message, and how often it failed though nothing was injected."""

    id: str
    queue: str
    body: str
    visible_at: datetime
    receives: int = 0
    unexcused: int = 0


class Queues:
    """The queues between the handlers, which it calls as Lambda does."""

    def __init__(self, box: Box, handlers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
        self._box, self.handlers = box, handlers
        self.messages: dict[str, Message] = {}
        self.dead: list[Message] = []
        self._sent: Counter[str] = Counter()

    def enqueue(self, queue: str, body: str, delay_seconds: int = 0) -> None:
        """Send a message, as the pipeline does."""
        self._box.point(f"enqueue {queue} {delay_seconds}")
        if self._box.fails("queue_error", "queue"):
            raise OSError("simulated: the queue does not answer")
        self.put(queue, body, delay_seconds)
        self._box.point(f"enqueued {queue}")

    def put(self, queue: str, body: str, delay_seconds: float = 0.0) -> None:
        """Take a message; it may come twice, and late."""
        box = self._box
        for _ in range(2 if box.chance("duplicate") else 1):
            delay = delay_seconds + (box.draw("how late") * 1800 if box.chance("late") else 0.0)
            name = hashlib.blake2b(f"{queue} {body}".encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
            self._sent[name] += 1
            message = Message(f"{name}-{self._sent[name]}", queue, body, box.now + timedelta(seconds=delay))
            self.messages[message.id] = message
            box.at(delay + box.draw("poll") * 0.5, lambda: self._receive(queue))

    def _receive(self, queue: str) -> None:
        box = self._box
        visible = [each for each in self.messages.values() if each.queue == queue and each.visible_at <= box.now]
        if not visible:
            return
        box.rng("order").shuffle(visible)
        taken = visible[: (1, 1, 3, 10)[int(box.draw("batch") * 4)]]
        if len(visible) > len(taken):
            box.at(0.1, lambda: self._receive(queue))
        batch = []
        for message in taken:
            if message.unexcused >= MAX_RECEIVES:
                self.dead.append(self.messages.pop(message.id))
                box.note(f"dead letter {queue} {message.body[:200]}")
                continue
            message.receives += 1
            message.visible_at = box.now + timedelta(seconds=VISIBILITY_SECONDS)
            batch.append((message, message.receives))
        if batch:
            box.at(VISIBILITY_SECONDS + 1, lambda: self._receive(queue))
            key = f"{queue} {'+'.join(f'{each.id}.{receives}' for each, receives in batch)}"
            box.spawn(key, lambda: self._work(queue, batch))

    def _work(self, queue: str, batch: list[tuple[Message, int]]) -> None:
        task = self._box.task
        failed = {message.id for message, _ in batch}
        try:
            answer = self.handlers[queue]({"Records": [_record(*each) for each in batch]})
            failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
            self._box.point(f"delete {queue}")
        finally:
            for message, receives in batch:
                if message.id in failed or task.is_dead:
                    if not self._box.is_excused("failure of a message", task.is_faulted):
                        message.unexcused += 1
                        self._box.note(f"{queue} failed {message.id}")
                elif message.receives == receives and not self._box.chance("redelivery"):
                    self.messages.pop(message.id, None)


def _record(message: Message, receives: int) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": str(receives),
        "body": message.body,
        "attributes": {"ApproximateReceiveCount": str(receives)},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{message.queue}",
    }
