"""The outbox: sends the events that wait in the catalog to whoever asked for them, at least once.

An event is written with what it tells, and sent when that is committed. Who dies in between leaves it there: whatever
comes next sends it, and the message at hand comes again. One that is not taken waits, longer each time, and delays no
other; nothing of the pipeline waits for it.
"""

import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from sqlalchemy import Engine

from dicomflow.catalog import outgoing
from dicomflow.catalog.deliveries import clear_problem, record_problem
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.outgoing import LONGEST_WAIT, MOST_ATTEMPTS, OutgoingEvent
from dicomflow.errors import PermanentError, pause_after
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.metrics import Metrics, Name

__all__ = ["SOURCE", "EventBridge", "Outbox", "Publisher", "SendingThread", "Webhook", "send_events"]

logger = logging.getLogger(__name__)

SOURCE: Final = "dicomflow"
EVENT_KEY: Final = "event:"
"""In the place of an object's key, for an event that nobody takes."""
HELD: Final = timedelta(seconds=60)
FIRST_WAIT: Final = timedelta(seconds=5)
KEPT: Final = timedelta(days=30)
MOST_FAILURES: Final = 3
"""Of a run: a receiver that is away fails each after a long time."""
WEBHOOK_SECONDS: Final = 10.0
MOST_CALL_BYTES: Final = 240 << 10
"""Of a call of EventBridge's, which takes less than 256 KiB."""


class Publisher(Protocol):
    """Takes events to whoever asked for them."""

    @property
    def most(self) -> int:
        """How many it takes at once."""

    def __call__(self, events: Sequence[OutgoingEvent]) -> list[str | None]:
        """Return for each event why it was not taken, None when it was; may raise when none was."""


def send_events(deps: Dependencies) -> datetime | None:
    """Send what a batch has told; return when somebody is to come back for the rest, None when nobody need."""
    if deps.wake_sender is not None:
        deps.wake_sender()
        return None
    return Outbox(deps.engine, deps.publisher, deps.clock, deps.metrics).send()


class Outbox:
    """Sends what waits; without a publisher nobody asked, and it is dismissed. Thread: any."""

    def __init__(
        self, engine: Engine, publisher: Publisher | None, clock: Callable[[], datetime], metrics: Metrics
    ) -> None:
        self._engine, self._publisher, self._clock, self._metrics = engine, publisher, clock, metrics

    def send(self) -> datetime | None:
        """Send what is due; return when there is more to send, None when nothing waits."""
        failures, sent = 0, False
        while (due_at := self._next_due()) is not None:
            if self._publisher is None:
                with self._engine.begin() as connection:
                    outgoing.dismiss_events(connection, self._clock())
                return None
            if due_at > self._clock() or failures == MOST_FAILURES:
                return max(due_at, self._clock() + FIRST_WAIT)
            has_sent, has_failed = self._send_some(self._publisher)
            if has_sent and not sent:
                self._tidy()
            sent |= has_sent
            failures += has_failed
        return None

    def _next_due(self) -> datetime | None:
        now = self._clock()
        with begin_read(self._engine) as connection:
            due_at = outgoing.next_event_due(connection)
        # Nothing is put off for longer: such a time is of a clock that was wrong.
        return now if due_at is not None and due_at > now + LONGEST_WAIT + HELD else due_at

    def _send_some(self, publisher: Publisher) -> tuple[bool, bool]:
        """Send a few; tell whether some were taken, and whether some were not."""
        now = self._clock()
        with self._engine.begin() as connection:
            events = outgoing.claim_events(connection, publisher.most, now, now + HELD)
        if not events:
            return False, True  # another sender has them
        answers = _publish(publisher, events)
        taken = [event.event_id for event, answer in zip(events, answers, strict=True) if answer is None]
        with self._engine.begin() as connection:
            now = self._clock()
            outgoing.record_sent(connection, taken, now)
            for event, answer in zip(events, answers, strict=True):
                if answer is None:
                    continue
                wait = pause_after(event.attempts, FIRST_WAIT, LONGEST_WAIT)
                outgoing.put_off_event(connection, event.event_id, now + wait)
                if event.attempts >= MOST_ATTEMPTS:
                    record_problem(connection, EVENT_KEY + event.event_id, f"nobody takes the event: {answer}")
                logger.warning(
                    "event_not_sent",
                    extra={"event_id": event.event_id, "attempts": event.attempts, "error": answer},
                )
        self._metrics.count(Name.EVENTS_SENT, len(taken))
        self._metrics.count(Name.EVENTS_NOT_SENT, len(events) - len(taken))
        return bool(taken), len(taken) < len(events)

    def _tidy(self) -> None:
        """Try once more what was given up, since something was taken, and forget what was sent long ago."""
        with self._engine.begin() as connection:
            for event_id in outgoing.revive_events(connection):
                clear_problem(connection, EVENT_KEY + event_id)
            outgoing.forget_sent(connection, self._clock() - KEPT)


def _publish(publisher: Publisher, events: Sequence[OutgoingEvent]) -> list[str | None]:
    try:
        return publisher(events)
    except Exception as error:  # the receiver's boundary: whatever it does is not the pipeline's
        if not isinstance(error, PermanentError | OSError):
            logger.exception("events_not_published")
        return [type(error).__name__] * len(events)


class EventBridge:
    """Puts events onto a bus of EventBridge; `client` is boto3's, or what stands for it.

    A call takes ten entries of 256 KiB together, and is refused whole where it has more: so it is cut by size, and what
    is refused whole is put one by one, so that no event is held up by another.
    """

    most: Final = 10  # the service's limit of a call

    def __init__(self, client: Any, bus: str) -> None:
        self._client, self._bus = client, bus

    def __call__(self, events: Sequence[OutgoingEvent]) -> list[str | None]:
        """Put some, in as few calls as the service takes them in."""
        answers: list[str | None] = []
        entries: list[dict[str, str]] = []
        for entry in map(self._entry, events):
            if entries and sum(map(_entry_bytes, (*entries, entry))) > MOST_CALL_BYTES:
                answers += self._put(entries)
                entries = []
            entries.append(entry)
        return [*answers, *self._put(entries)] if entries else answers

    def _entry(self, event: OutgoingEvent) -> dict[str, str]:
        return {
            "Source": SOURCE,
            "DetailType": str(event.event_type),
            "Detail": json.dumps(event.detail),
            "EventBusName": self._bus,
        }

    def _put(self, entries: Sequence[dict[str, str]]) -> list[str | None]:
        from botocore.exceptions import ClientError  # noqa: PLC0415  # a third of a cold start

        try:
            answered = self._client.put_events(Entries=list(entries))["Entries"]
        except ClientError as error:
            if error.response["Error"].get("Code") != "ValidationException":  # it may pass, for all of them
                raise
            if len(entries) == 1:
                return ["ValidationException"]
            return [answer for entry in entries for answer in self._put([entry])]
        answers = [None if "EventId" in each else str(each.get("ErrorCode", "no answer")) for each in answered]
        # Of what has no answer nobody knows: it is put again.
        return (answers + ["no answer"] * len(entries))[: len(entries)]


def _entry_bytes(entry: dict[str, str]) -> int:
    """Return the size of an entry as the service counts it: source, kind and detail in UTF-8."""
    return sum(len(entry[name].encode()) for name in ("Source", "DetailType", "Detail"))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for a refusal: what it leads to would be asked by GET."""

    def redirect_request(self, *_: Any) -> None:  # all that it is told
        return None


class Webhook:
    """Posts events to a URL, one at a time, in the shape that EventBridge gives them; any 2xx takes it."""

    most: Final = 1

    def __init__(self, url: str, timeout_seconds: float = WEBHOOK_SECONDS) -> None:
        """Raises PermanentError where the URL is none of HTTP."""
        try:
            parts = urlsplit(url)
            names_host = bool(parts.hostname) and parts.port != 0
        except ValueError:  # no number is its port, or its brackets do not close
            names_host = False
        if not names_host or parts.scheme not in {"http", "https"}:
            raise PermanentError("a webhook's URL begins with http:// or https:// and names a host")
        self._url, self._timeout_seconds = url, timeout_seconds
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, events: Sequence[OutgoingEvent]) -> list[str | None]:
        """Post each."""
        return [self._post(event) for event in events]

    def _post(self, event: OutgoingEvent) -> str | None:
        document = {
            "id": event.event_id,
            "source": SOURCE,
            "detail-type": str(event.event_type),
            "time": event.happened_at.isoformat(),
            "detail": event.detail,
        }
        request = urllib.request.Request(  # noqa: S310  # the scheme is one of HTTP's
            self._url,
            data=json.dumps(document).encode(),
            headers={"Content-Type": "application/json", "User-Agent": SOURCE},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            return f"HTTP {error.code}"
        return None


class SendingThread:
    """Sends beside the pipeline, so that a receiver that hangs holds nothing up.

    Thread: `wake` any, the rest one owner.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], datetime]) -> None:
        self._outbox, self._clock = outbox, clock
        self._woken = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="events")

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._woken.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be events to send."""
        self._woken.set()

    def stop(self) -> None:
        """Finish the event at hand; what waits is sent after the next start."""
        self._is_stopping = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        wait: float | None = None
        while True:
            self._woken.wait(wait)
            self._woken.clear()
            if self._is_stopping:
                return
            try:
                due_at = self._outbox.send()
                wait = None if due_at is None else max(0.0, (due_at - self._clock()).total_seconds())
            except Exception:  # the thread's boundary: it tries again
                logger.exception("events_not_sent")
                wait = FIRST_WAIT.total_seconds()
