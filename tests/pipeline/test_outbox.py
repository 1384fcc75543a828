"""Events for others: told with what happened, sent at least once, and nothing waits for whoever does not take them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sqlalchemy import Engine, func, select
from waiting import WAIT_SECONDS, wait_for

from dicomflow.catalog.conflicts import list_problems
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.imports import retry_series
from dicomflow.catalog.outgoing import MOST_ATTEMPTS, OutgoingEvent
from dicomflow.catalog.tables import outgoing_event
from dicomflow.errors import PermanentError
from dicomflow.healthimaging.simulator import FileFault
from dicomflow.pipeline.metrics import NoMetrics
from dicomflow.pipeline.outbox import EventBridge, Outbox, SendingThread, Webhook
from dicomflow.pipeline.rebuild import rebuild_catalog
from dicomflow.pipeline.relay import RelayClient, answer_call

RECEIVING, STORED, IMPORTED = "Study Receiving", "Delivery Stored", "Series Imported"
PATIENT = ("Invented", "P1", "A1")


class Killed(BaseException):
    """The process dies."""


@dataclass
class Receiver:
    """Takes events; `answer` says what of each, and may be the end of the process."""

    most: int = 10
    answer: Callable[[OutgoingEvent], str | None] = lambda _: None
    taken: list[OutgoingEvent] = field(default_factory=list)
    calls: int = 0

    def __call__(self, events: Sequence[OutgoingEvent]) -> list[str | None]:
        """Ask `answer`, and keep what is taken."""
        self.calls += 1
        answers = [self.answer(event) for event in events]
        self.taken += [event for event, answer in zip(events, answers, strict=True) if answer is None]
        return answers

    def types(self) -> list[str]:
        """Return what was taken, by kind."""
        return [str(event.event_type) for event in self.taken]

    def ids(self) -> set[str]:
        """Return the ids of what was taken."""
        return {event.event_id for event in self.taken}


def go_through(deployment: Any, delivery: str = "d1", study: str = "1.2", sizes: Any = None) -> list[str]:
    """Bring a delivery from its objects to its end; return the bodies that index and plan were given."""
    manifest = deployment.deliver(sizes or {f"{study}.1": 2, f"{study}.2": 1}, delivery=delivery, study=study)
    objects = [deployment.object_event(key) for key in deployment.keys(f"edge/{delivery}/")]
    for queue, bodies in (("index", objects[:1]), ("index", objects), ("plan", [deployment.object_event(manifest)])):
        assert {"batchItemFailures": []} == deployment.handle(queue, *bodies)
    import_all(deployment)
    return objects


def import_all(deployment: Any) -> None:
    """Start what is queued, and collect how it ends."""
    for _ in range(4):
        deployment.handle("drive", "{}")
        deployment.finish()
        deployment.advance(40)


def waiting(engine: Engine) -> int:
    """Count the events that wait."""
    with engine.begin() as connection:
        unsent = select(func.count()).where(outgoing_event.c.sent_at.is_(None))
        return connection.scalar(unsent) or 0


@pytest.mark.parametrize("most", [1, 10])
def test_delivery_is_told_from_its_first_image_to_its_last_series(deployment: Any, most: int):
    """One event at its beginning, one when it is stored, and one for each series, with counts and image sets."""
    receiver = Receiver(most)
    deployment = deployment.variant(publisher=receiver)
    go_through(deployment)
    assert [RECEIVING, STORED, IMPORTED, IMPORTED] == receiver.types()
    receiving, stored, *series = (event.detail for event in receiver.taken)
    ids = {"edge": "edge", "delivery": "d1"}
    assert {**ids, "study_instance_uid": "1.2"} == without_envelope(receiving)
    assert ids.items() <= stored.items()
    assert (3, 2) == (stored["instances"], stored["series_count"])
    counts = {each["series_instance_uid"]: each["instances"] for each in stored["series"]}
    assert {"1.2.1": 2, "1.2.2": 1} == counts
    for each in series:
        uid = each["series_instance_uid"]
        assert ("completed", counts[uid], counts[uid], []) == tuple(
            each[name] for name in ("state", "instances", "imported", "reasons")
        )
        (image_set,) = each["image_sets"]
        assert (deployment.deps.datastore_id, 1, True) == (
            image_set["datastore_id"],
            image_set["version"],
            image_set["is_primary"],
        )
        assert 1 == each["image_set_count"]
    assert 0 == waiting(deployment.deps.engine)
    told = json.dumps([event.detail for event in receiver.taken])
    assert [] == [value for value in PATIENT if f'"{value}' in told]


def test_details_have_the_members_that_the_document_shows(deployment: Any):
    """docs/events.md has one example for each kind, in this order, and every member of it."""
    text = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
    shown = [json.loads(block.partition("```")[0]) for block in text.split("```json\n")[1:4]]
    receiver = Receiver()
    go_through(deployment.variant(publisher=receiver), sizes={"1.2.1": 1})
    told = [event.detail for event in receiver.taken]
    assert [each.keys() for each in shown] == [each.keys() for each in told]
    assert shown[1]["series"][0].keys() == told[1]["series"][0].keys()
    assert shown[2]["image_sets"][0].keys() == told[2]["image_sets"][0].keys()


def without_envelope(detail: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says of itself alone, its id, version and time aside."""
    assert 1 == detail["version"]
    assert datetime.fromisoformat(detail["at"]).tzinfo is not None
    return {name: value for name, value in detail.items() if name not in {"id", "version", "at"}}


def test_series_that_fails_is_told_with_codes_and_again_when_it_is_in(deployment: Any):
    """What the service says of values stays out; each end of a series is an event of its own."""
    receiver = Receiver()
    deployment = deployment.variant(publisher=receiver)
    deployment.faults.fail_files(FileFault("1.2.1.1.dcm", "customer", "PatientName 'Invented' is none"))
    go_through(deployment, sizes={"1.2.1": 2})
    first = receiver.taken[-1].detail
    assert ("partial", 2, 1, ["ValidationException"]) == tuple(
        first[name] for name in ("state", "instances", "imported", "reasons")
    )
    deployment.faults.clear()
    with deployment.deps.engine.begin() as connection:
        assert retry_series(connection, deployment.now())
    import_all(deployment)
    second = receiver.taken[-1].detail
    assert ("completed", 2) == (second["state"], second["imported"])
    assert first["id"] != second["id"]


def test_repeats_of_messages_tell_nothing_new(deployment: Any):
    """Every message twice, after everything was told: nothing is told again."""
    receiver = Receiver()
    deployment = deployment.variant(publisher=receiver)
    objects = go_through(deployment)
    told = len(receiver.taken)
    deployment.handle("index", *objects)
    deployment.plan("manifests/edge/d1.json")
    import_all(deployment)
    assert told == len(receiver.taken) == len(receiver.ids())


@pytest.mark.parametrize("is_taken", [False, True])
def test_death_between_commit_and_send_loses_no_event(deployment: Any, is_taken: bool):  # noqa: FBT001  # a case
    """Whoever dies with an event in hand, before it is taken or before that is recorded: it is sent all the same."""
    plain = deployment.variant(publisher=Receiver())
    go_through(plain, delivery="d0", study="1.1")
    receiver = Receiver(1)
    deaths: list[str] = []

    def die_once(event: OutgoingEvent) -> str | None:
        if event.event_id not in deaths:
            deaths.append(event.event_id)
            if is_taken:
                receiver.taken.append(event)
            raise Killed
        return None

    receiver.answer = die_once
    deployment = deployment.variant(publisher=receiver)
    manifest = deployment.deliver({"1.2.1": 2, "1.2.2": 1}, delivery="d1")
    messages = [("index", deployment.object_event(key)) for key in deployment.keys("edge/d1/")]
    messages.append(("plan", deployment.object_event(manifest)))
    for queue, body in messages:
        again_until_done(deployment, queue, body)
    for _ in range(6):
        again_until_done(deployment, "drive", "{}")
        deployment.advance(10)
        while deployment.events:
            again_until_done(deployment, "collect", json.dumps(deployment.events.pop(0)))
        deployment.advance(60)
    assert {RECEIVING: 1, STORED: 1, IMPORTED: 2} == {
        kind: len({event.event_id for event in receiver.taken if event.event_type == kind})
        for kind in (RECEIVING, STORED, IMPORTED)
    }
    assert 4 == len(deaths)
    assert (8 if is_taken else 4) == len(receiver.taken)
    assert 0 == waiting(deployment.deps.engine)


def again_until_done(deployment: Any, queue: str, body: str) -> None:
    """Hand a message to its handler as the queue does: again, later, when the process died."""
    for _ in range(10):
        try:
            assert {"batchItemFailures": []} == deployment.handle(queue, body)
        except Killed:
            deployment.advance(360)  # the queue's visibility
        else:
            return
    pytest.fail("it never ended")


VICTIM = """
import os, signal, sys
from datetime import UTC, datetime
from obstore.store import LocalStore
from dicomflow.catalog.engine import create_engine_for
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.events import encode_object_event
from dicomflow.pipeline.handlers import handlers_of

class Murderer:
    most = 1
    def __call__(self, events):
        os.kill(os.getpid(), signal.SIGKILL)

url, objects, key = sys.argv[1:]
deps = Dependencies(create_engine_for(url), LocalStore(objects), "images", None, "d", "r", 1, 1.0, True,
                    lambda *_: None, lambda: datetime.now(UTC), publisher=Murderer())
body = encode_object_event("images", key, 1)
handlers_of(deps)["plan"]({"Records": [{"messageId": "1", "body": body, "eventSource": "aws:sqs"}]})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_sigkill_between_commit_and_send_loses_no_event(deployment: Any, tmp_path: Path):
    """A process that is killed as it sends leaves the event, which the next one sends."""
    engine = deployment.deps.engine
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", VICTIM, url, str(tmp_path / "objects"), key]
    assert -9 == subprocess.run(command, check=False, timeout=WAIT_SECONDS).returncode
    assert 1 == waiting(engine)
    receiver = Receiver()
    later = datetime.now(UTC) + timedelta(minutes=2)
    assert Outbox(engine, receiver, lambda: later, NoMetrics()).send() is None
    assert ([STORED], 0) == (receiver.types(), waiting(engine))


def test_receiver_that_is_away_holds_up_nothing_and_gets_everything(deployment: Any):
    """Images are indexed and imported meanwhile; the driver comes back by itself, later each time."""
    receiver = Receiver(answer=lambda _: "HTTP 503")
    deployment = deployment.variant(publisher=receiver)
    go_through(deployment)
    assert {"completed"} == set(deployment.states().values())
    assert [] == receiver.taken
    calls = receiver.calls
    assert deployment.messages["drive"]
    deployment.handle("drive", "{}")
    assert calls + 3 >= receiver.calls, "a run asks a receiver that is away three times at most"
    receiver.answer = lambda _: None
    deployment.advance(400)
    deployment.handle("drive", "{}")
    assert [RECEIVING, STORED, IMPORTED, IMPORTED] == receiver.types()


def test_event_that_is_refused_delays_no_other(deployment: Any):
    """One that is never taken waits by itself, is shown after a day, and is tried again when something is taken."""
    engine, now = deployment.deps.engine, deployment.now()
    receiver = Receiver(1, answer=lambda event: "HTTP 400" if event.event_type == RECEIVING else None)
    deployment = deployment.variant(publisher=receiver)
    go_through(deployment)
    assert [STORED, IMPORTED, IMPORTED] == receiver.types()
    with engine.begin() as connection:
        connection.execute(
            outgoing_event.update().where(outgoing_event.c.sent_at.is_(None)).values(attempts=MOST_ATTEMPTS - 1)
        )
    clock = {"now": now + timedelta(days=1)}
    outbox = Outbox(engine, receiver, lambda: clock["now"], NoMetrics())
    outbox.send()
    assert outbox.send() is None, "nobody comes back for what was given up"
    with engine.begin() as connection:
        (problem,) = list_problems(connection)
    assert (True, "nobody takes the event: HTTP 400") == (problem.object_key.startswith("event:"), problem.reason)
    receiver.answer = lambda _: None
    go_through(deployment, delivery="d2", study="1.3")
    assert 2 == receiver.types().count(RECEIVING)
    with engine.begin() as connection:
        assert [] == list_problems(connection)


def test_without_a_receiver_nobody_is_told_later_either(deployment: Any):
    """What happened while nobody asked is dismissed, and does not come in a flood to who asks later."""
    go_through(deployment)
    receiver = Receiver()
    deployment = deployment.variant(publisher=receiver)
    go_through(deployment, delivery="d2", study="1.3")
    assert {"d2"} == {event.detail["delivery"] for event in receiver.taken}


def test_rebuild_tells_nothing(deployment: Any, tmp_path: Path):
    """What lies in the bucket is no news."""
    go_through(deployment.variant(publisher=Receiver()))
    engine = create_engine_for(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    migrate(engine)
    rebuild_catalog(engine, deployment.store, "images", issuers={})
    assert 0 == waiting(engine)
    engine.dispose()


def test_what_was_sent_long_ago_is_forgotten(deployment: Any):
    """The outbox does not grow for ever."""
    receiver = Receiver()
    deployment = deployment.variant(publisher=receiver)
    go_through(deployment)
    deployment.advance(31 * 86400)
    go_through(deployment, delivery="d2", study="1.3")
    assert {"d2"} == {row["detail"]["delivery"] for row in deployment.rows("outgoing_event")}


class Bus:
    """EventBridge's client: one entry of a call is refused."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def put_events(self, Entries: list[Any]) -> Any:  # noqa: N803  # botocore's name
        """Answer as the service does."""
        self.entries += Entries
        answers = [{"EventId": str(number)} for number in range(len(Entries))]
        answers[-1] = {"ErrorCode": "ThrottlingException", "ErrorMessage": "later"}
        return {"FailedEntryCount": 1, "Entries": answers}


def test_bus_takes_what_it_takes_of_a_call_through_the_relay():
    """An entry that is refused is that one's failure, and each has source, kind, detail and bus."""

    class Function:
        def invoke(self, FunctionName: str, Payload: bytes) -> Any:  # noqa: N803  # botocore's names
            assert "relay" == FunctionName
            return {"Payload": BytesIO(json.dumps(answer_call(json.loads(Payload), lambda _: bus)).encode())}

    bus = Bus()
    events = [OutgoingEvent(f"e{n}", RECEIVING, datetime.now(UTC), {"id": f"e{n}"}, 1) for n in range(2)]  # type: ignore[arg-type]  # its text serves
    put = EventBridge(RelayClient(Function(), "relay", "events"), "default")
    assert [None, "ThrottlingException"] == put(events)
    assert {
        "Source": "dicomflow",
        "DetailType": RECEIVING,
        "Detail": '{"id": "e0"}',
        "EventBusName": "default",
    } == bus.entries[0]


class LimitedBus:
    """EventBridge's client with its limits: a call of over ten entries or 256 KiB is refused whole."""

    def __init__(self, refused: str = "none") -> None:
        self.calls: list[int] = []
        self.taken: list[str] = []
        self._refused = refused

    def put_events(self, Entries: list[Any]) -> Any:  # noqa: N803  # botocore's name
        """Answer as the service does."""
        size = sum(len(each[name].encode()) for each in Entries for name in ("Source", "DetailType", "Detail"))
        ids = [json.loads(each["Detail"])["id"] for each in Entries]
        if len(Entries) > 10 or size >= 256 << 10 or self._refused in ids:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "size"}}, "PutEvents")
        self.calls.append(len(Entries))
        self.taken += ids
        return {"FailedEntryCount": 0, "Entries": [{"EventId": each} for each in ids]}


def large_events(count: int, size: int) -> list[OutgoingEvent]:
    """Return events with details of so many bytes."""
    details = [{"id": f"e{number}", "series": "1" * (size - 50)} for number in range(count)]
    return [OutgoingEvent(each["id"], RECEIVING, datetime.now(UTC), each, 1) for each in details]  # type: ignore[arg-type]  # its text serves


@pytest.mark.parametrize(("size", "calls"), [(60, [10]), (44_000, [5, 5]), (100_000, [2] * 5), (200_000, [1] * 10)])
def test_events_are_put_within_the_buss_limit_of_a_call(size: int, calls: list[int]):
    """Ten of the largest events do not fit one call: it is cut, in the order of the events, and all are taken."""
    bus = LimitedBus()
    assert [None] * 10 == EventBridge(bus, "default")(large_events(10, size))
    assert (calls, [f"e{number}" for number in range(10)]) == (bus.calls, bus.taken)


def test_event_that_the_bus_never_takes_holds_up_no_other():
    """A call is refused for one of its entries: the others are put one by one, and that one waits."""
    bus = LimitedBus(refused="e3")
    answers = EventBridge(bus, "default")(large_events(10, 60))
    assert [None] * 3 + ["ValidationException"] + [None] * 6 == answers
    assert 9 == len(bus.taken)


def test_entry_without_an_answer_is_put_again():
    """A service that answers for fewer entries than it was given has taken no more than it says."""

    class ShortBus(LimitedBus):
        def put_events(self, Entries: list[Any]) -> Any:  # noqa: N803  # botocore's name
            return {"FailedEntryCount": 0, "Entries": super().put_events(Entries)["Entries"][:-1]}

    assert [None, None, "no answer"] == EventBridge(ShortBus(), "default")(large_events(3, 60))


@pytest.fixture
def web() -> Iterator[Any]:
    """Give a receiver on HTTP: `codes` are what it answers next (0: nothing at all), 204 afterwards."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = server.codes.pop(0) if server.codes else 204  # type: ignore[attr-defined]  # ours
            if code == 0:
                server.hanging.wait(WAIT_SECONDS)  # type: ignore[attr-defined]  # ours
                return
            if code < 300:
                server.bodies.append(json.loads(body))  # type: ignore[attr-defined]  # ours
            self.send_response(code)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.codes, server.bodies, server.hanging = [], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.hanging.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_webhook_is_posted_to_until_it_takes_each(web: Any, deployment: Any):
    """A refusal, an error and a redirection are tried again; the body has the shape that EventBridge gives."""
    web.codes += [503, 404, 302]
    deployment = deployment.variant(publisher=Webhook(web.url))
    go_through(deployment)
    deployment.advance(400)
    deployment.handle("drive", "{}")
    assert {RECEIVING, STORED, IMPORTED} == {body["detail-type"] for body in web.bodies}
    assert 4 == len({body["id"] for body in web.bodies}) == len(web.bodies)
    for body in web.bodies:
        assert ("dicomflow", body["id"]) == (body["source"], body["detail"]["id"])
        assert {"id", "source", "detail-type", "time", "detail"} == body.keys()


@pytest.mark.parametrize(
    "url",
    ["", "http://", "http:///path", "https://:443/", "http://[::1", "http://host:x/", "ftp://host/", "file:///etc"],
)
def test_webhook_that_is_no_address_is_refused_at_once(url: str):
    """And not found out with each event; the text does not repeat it, since it may hold a password."""
    with pytest.raises(PermanentError, match="names a host"):
        Webhook(url)


def test_webhook_that_hangs_or_is_away_is_no_answer(web: Any):
    """Neither takes an event, and neither holds longer than it is given."""
    event = OutgoingEvent("e", RECEIVING, datetime.now(UTC), {}, 1)  # type: ignore[arg-type]  # its text serves
    web.codes += [0]
    with pytest.raises(OSError, match="timed out"):
        Webhook(web.url, timeout_seconds=0.2)([event])
    with pytest.raises(OSError, match="refused"):
        Webhook("http://127.0.0.1:1/")([event])
    with pytest.raises(PermanentError, match="begins with http"):
        Webhook("file:///etc/passwd")


def test_thread_sends_what_waits_and_what_comes(deployment: Any):
    """It begins with what an earlier process left, is woken for the rest, and stops at once."""
    receiver = Receiver()
    engine, clock = deployment.deps.engine, deployment.deps.clock
    deployment.handle("plan", deployment.object_event(deployment.deliver({"1.1.1": 1}, delivery="d0", study="1.1")))
    with engine.begin() as connection:
        connection.execute(outgoing_event.update().values(sent_at=None))
    thread = SendingThread(Outbox(engine, receiver, clock, NoMetrics()), clock)
    thread.start()
    wait_for(lambda: len(receiver.taken) == 1)
    deployment = deployment.variant(wake_sender=thread.wake)
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    wait_for(lambda: len(receiver.taken) == 2)
    thread.stop()
    assert [STORED, STORED] == receiver.types()
