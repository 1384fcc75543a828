"""Handlers as Lambda calls them: each message for itself."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from dicomflow.bucket.keys import RESERVED_NAMES, instance_key, returns_key
from dicomflow.catalog import queue, tables
from dicomflow.edge.deliver.deliverer import StoredObject
from dicomflow.local_notifier import Notifier
from dicomflow.local_notifier import _engine_of as notifier_engine
from dicomflow.pipeline.events import encode_object_event
from dicomflow.pipeline.handlers import QUEUES, handlers_of
from dicomflow.pipeline.heartbeats import read_heartbeats
from dicomflow.pipeline.rebuild import rebuild_catalog


def test_every_queue_has_a_handler(deployment: Any) -> None:
    """No queue is without a consumer."""
    assert set(QUEUES) == set(handlers_of(deployment.deps))


def test_every_message_of_a_batch_is_processed(deployment: Any) -> None:
    """All manifests of a batch are planned, not only the first."""
    keys = [deployment.deliver({f"1.{n}.1": 1}, delivery=f"d{n}", study=f"1.{n}") for n in range(3)]
    bodies = [encode_object_event("images", key, 1) for key in keys]
    assert {"batchItemFailures": []} == deployment.handle("plan", *bodies)
    assert 3 == len(deployment.rows("delivery"))


def test_unknown_message_in_a_batch_loses_only_itself(deployment: Any) -> None:
    """What is no event is recorded with its reason; what stands beside it is planned and indexed."""
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    instance = instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1")
    for name, wanted in (("plan", key), ("index", instance)):
        body = encode_object_event("images", wanted, 1)
        assert {"batchItemFailures": []} == deployment.handle(name, "nonsense", body)
    assert 1 == len(deployment.rows("series_import"))
    assert 1 == len(deployment.rows("instance"))
    assert "message:m0" in [row["object_key"] for row in deployment.rows("stored_object") if row["problem"]]


def test_event_of_another_bucket_is_refused_and_stops_no_other(deployment: Any) -> None:
    """Whoever may send to the queue names no bucket but ours: nothing of the same key is read for it."""
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    other = deployment.deliver({"1.3.1": 1}, delivery="d2", study="1.3")
    bodies = encode_object_event("theirs", key, 1), encode_object_event("images", other, 1)
    assert {"batchItemFailures": []} == deployment.handle("plan", *bodies)
    assert ["d2"] == [row["delivery_id"] for row in deployment.rows("delivery")]
    instance = instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1")
    assert {"batchItemFailures": []} == deployment.handle("index", encode_object_event("theirs", instance, 1))
    assert [] == deployment.rows("instance")
    problems = {row["problem"] for row in deployment.rows("stored_object")}
    assert "the event is of another bucket than this deployment's" in problems


@pytest.mark.parametrize("name", ["index", "plan", "collect", "transfers"])
def test_message_of_endless_brackets_is_done_with(deployment: Any, name: str) -> None:
    """What no reader of JSON gets to the end of comes once, and is no dead letter."""
    assert {"batchItemFailures": []} == deployment.handle(name, "[" * 200_000)


def test_probe_of_an_edge_is_passed_over(deployment: Any) -> None:
    """What an edge puts beside its manifests to try the store is neither planned nor a problem."""
    body = encode_object_event("images", "manifests/edge/probe", 0)
    for name in ("plan", "index"):
        assert {"batchItemFailures": []} == deployment.handle(name, body)
    assert [] == deployment.rows("stored_object")


def test_images_of_an_edge_called_as_a_prefix_are_indexed_live_and_by_rebuild(deployment: Any) -> None:
    """An earlier version took such names: their images are found, and nothing else there is taken for an image."""
    deployment.store.put("status/edge.json", b"no heartbeat")
    deployment.store.put(f"staging/{'0' * 32}/1.2.1.9.dcm", b"a copy")
    names = sorted(RESERVED_NAMES)
    for number, edge in enumerate(names):
        deployment.deliver({f"1.{number}.1": 2}, delivery=f"d{number}", edge=edge, study=f"1.{number}")
    events = list(map(deployment.object_event, deployment.keys("")))
    for stage in ("index", "plan"):
        assert {"batchItemFailures": []} == deployment.handle(stage, *events)
    counts = [len(deployment.rows(table)) for table in ("instance", "stored_object", "delivery")]
    assert [2 * len(names), 2 * len(names), len(names)] == counts
    assert [] == read_heartbeats(deployment.store)

    deps = deployment.deps
    with deps.engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))
    done = rebuild_catalog(deps.engine, deps.store, deps.bucket, issuers={})
    assert (2 * len(names), 0, len(names)) == (done.indexed, done.problems, done.deliveries)


def test_failure_is_raised_so_that_the_queue_keeps_the_message(deployment: Any) -> None:
    """An error that nobody foresaw fails every message of the batch, and none is lost."""
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    broken = deployment.variant(store=None)
    body = encode_object_event("images", key, 1)
    assert {"batchItemFailures": [{"itemIdentifier": "m0"}, {"itemIdentifier": "m1"}]} == broken.handle(
        "plan", body, body
    )


def test_wake_up_message_starts_what_is_queued(deployment: Any) -> None:
    """The message that planning sends is the one that the driver understands."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    ((_, body),) = deployment.messages["drive"]
    assert "planned" == json.loads(body)["reason"]
    assert {"batchItemFailures": []} == deployment.handle("drive", body)
    assert {"1.2.1": "in_progress"} == deployment.states()


def test_every_queue_has_producer_consumer_and_dead_letter_queue(deployment: Any) -> None:
    """Each queue is fed by the stage before it, has a handler, and keeps what always fails in its dead letters."""
    engine = deployment.deps.engine
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    url = engine.url.render_as_string(hide_password=False)
    put = (instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1"), key, returns_key("edge", "t1"))
    Notifier(url)([StoredObject(each, 1) for each in put])
    notifier_engine(url).dispose()
    deployment.plan(key)
    deployment.drive()
    deployment.advance(10)
    fed = {row["queue"] for row in deployment.rows("queue_message")} | deployment.messages.keys()
    fed |= {"collect" for event in deployment.events if event["detail-type"].startswith("Import Job")}
    assert set(QUEUES) == fed == set(handlers_of(deployment.deps))

    later = datetime.now(UTC) + timedelta(days=1)
    for name in QUEUES:
        with engine.begin() as connection:
            before = queue.count(connection, name, later).visible
            queue.send(connection, name, "what always fails", later)
            for _ in range(queue.MAX_RECEIVES):
                assert before + 1 == len(queue.receive(connection, name, later, visibility_timeout_seconds=0))
            assert [] == queue.receive(connection, name, later)
            assert before + 1 == queue.count(connection, name, later).dead
