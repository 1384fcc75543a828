"""Planning: a manifest becomes rows, once."""

import json
from datetime import timedelta
from typing import Any

import pytest

from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.engine import begin_read
from dicomflow.pipeline.events import encode_object_event


def test_manifest_queues_one_row_per_series(deployment: Any) -> None:
    """Each series has its prefix, count and size; the objects have their digests."""
    deployment.plan(deployment.deliver({"1.2.1": 2, "1.2.2": 1}, delivery="d1"))
    rows = deployment.rows("series_import")
    assert [("edge/d1/1.2/1.2.1/", 2, "queued", 1), ("edge/d1/1.2/1.2.2/", 1, "queued", 1)] == [
        (row["input_prefix"], row["object_count"], row["state"], row["status"]) for row in rows
    ]
    objects = deployment.rows("stored_object")
    assert [deployment.digest(row["object_key"]) for row in objects] == [row["sha256"] for row in objects]
    assert sum(row["bytes"] for row in rows) == sum(row["bytes"] for row in objects)
    (delivery,) = deployment.rows("delivery")
    assert ("edge", 3) == (delivery["edge"], delivery["instance_count"])
    assert "SENDER" == deployment.rows("delivery_association")[0]["calling_ae_title"]


def test_manifest_told_twice_changes_nothing(deployment: Any) -> None:
    """A repeated event queues nothing again, even after the import."""
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    deployment.plan(key)
    deployment.drive()
    deployment.finish()
    before = [deployment.rows(table) for table in ("series_import", "delivery", "stored_object")]
    deployment.plan(key)
    assert before == [deployment.rows(table) for table in ("series_import", "delivery", "stored_object")]
    assert 0 == deployment.drive().started


def test_second_manifest_for_other_bytes_is_not_believed(deployment: Any) -> None:
    """Who writes over an object, and over its manifest too, is told as damage: the first word on a digest stays."""
    from dicomflow.bucket.keys import instance_key

    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    deployment.plan(key)
    (before,) = deployment.rows("stored_object")
    instance = instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1")
    other = bytes(deployment.store.get(instance).bytes()) + bytes(8)
    manifest = bytes(deployment.store.get(key).bytes())
    deployment.store.put(instance, other)
    deployment.store.put(key, manifest.replace(before["sha256"].encode(), deployment.digest(instance).encode()))
    deployment.plan(key)
    deployment.handle("index", encode_object_event("images", instance, len(other)))
    (after,) = deployment.rows("stored_object")
    assert (before["sha256"], deployment.digest(instance)) == (after["sha256"], after["object_sha256"])
    with begin_read(deployment.deps.engine) as connection:
        assert ["damaged"] == [each.kind for each in list_conflicts(connection)]


def test_manifest_after_its_objects_keeps_what_they_said(deployment: Any) -> None:
    """Digests join the rows of objects that are indexed already."""
    from dicomflow.bucket.keys import instance_key

    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    instance = instance_key("edge", "d1", "1.2", "1.2.1", "1.2.1.1")
    deployment.handle("index", encode_object_event("images", instance, 1))
    deployment.plan(key)
    (row,) = deployment.rows("stored_object")
    assert (True, deployment.digest(instance)) == (row["indexed_at"] is not None, row["sha256"])


def test_object_that_is_no_manifest_is_recorded(deployment: Any) -> None:
    """A broken manifest, one that is gone, and one with a UID that is none are kept with their reasons."""
    deployment.store.put("manifests/edge/broken.json", b"{")
    good = bytes(deployment.store.get(deployment.deliver({"1.2.1": 1}, delivery="d2")).bytes())
    bad = "manifests/edge/bad.json"
    deployment.store.put(bad, good.replace(b'"1.2.1"', b'"1.2.1/../1"'))
    keys = ["manifests/edge/broken.json", "manifests/edge/gone.json", bad]
    for key in keys:
        assert {"batchItemFailures": []} == deployment.plan(key)
    problems = {row["object_key"]: row["problem"] for row in deployment.rows("stored_object")}
    assert sorted(keys) == sorted(problems)
    assert all(problems.values())
    assert [] == deployment.rows("series_import")


def test_other_objects_are_no_manifests(deployment: Any) -> None:
    """An instance's event in the manifests' queue does nothing."""
    assert {"batchItemFailures": []} == deployment.plan("edge/d1/1.2/1.2.1/1.2.1.1.dcm")
    assert [] == deployment.rows("stored_object")


def test_series_closes_without_the_end_of_an_association(deployment: Any) -> None:
    """A manifest is what closes a series: its association may still be open, or be lost (PS3.4 B.4.1)."""
    for number, ended in enumerate(("open", "lost", "aborted")):
        series = f"1.2.{number + 1}"
        assert {"batchItemFailures": []} == deployment.plan(
            deployment.deliver({series: 1}, delivery=ended, ended=ended)
        )
        assert "queued" == deployment.states()[series]


def test_late_object_reopens_its_series(deployment: Any) -> None:
    """An image that comes after its series was imported makes it an open one again, until that is in too."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.drive()
    deployment.finish()
    assert ["completed"] == [row["state"] for row in deployment.rows("series_import")]
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d2"))
    assert ["completed", "queued"] == [row["state"] for row in deployment.rows("series_import")]
    deployment.offset[0] += timedelta(seconds=5)
    deployment.drive()
    deployment.finish()
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert {"1.2.1.1", "1.2.1.2"} == {row["sop_instance_uid"] for row in deployment.rows("import_outcome")}
    assert [2] == [row["version"] for row in deployment.rows("image_set")]


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("manifests/stolen/d1.json", {}),
        ("manifests/stolen/d1.json", {"edge": "stolen"}),
        ("manifests/stolen/d9.json", {"edge": "stolen", "delivery": "d9"}),
        ("manifests/edge/d9.json", {}),
        ("manifests/edge/d9.json", {"delivery": "d9"}),
        ("manifests/edg/d1.json", {"edge": "edg"}),
        ("manifests/d1.json", {}),
    ],
)
def test_manifest_speaks_for_its_own_key_only(deployment: Any, key: str, changes: dict[str, str]) -> None:
    """A manifest that names another edge, another delivery, or their objects is refused, and changes nothing."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    deployment.handle("index", *map(deployment.object_event, deployment.keys("edge/d1")))
    before = [deployment.rows(table) for table in ("series_import", "delivery")]
    told = json.loads(bytes(deployment.store.get("manifests/edge/d1.json").bytes()))
    told["studies"][0]["series"][0]["instances"][0]["sha256"] = "00" * 32
    deployment.store.put(key, json.dumps(told | changes).encode())
    assert {"batchItemFailures": []} == deployment.plan(key)
    assert before == [deployment.rows(table) for table in ("series_import", "delivery")]
    (problem,) = [row for row in deployment.rows("stored_object") if row["problem"]]
    assert key == problem["object_key"]
    with begin_read(deployment.deps.engine) as connection:
        assert [] == list_conflicts(connection)


def test_delivery_of_another_edge_is_not_taken_over(deployment: Any) -> None:
    """A delivery's id belongs to the edge that planned it first."""
    deployment.plan(deployment.deliver({"1.2.1": 1}, delivery="d1"))
    told = bytes(deployment.store.get("manifests/edge/d1.json").bytes())
    deployment.store.put(
        "manifests/stolen/d1.json",
        told.replace(b'"edge/d1', b'"stolen/d1').replace(b'"edge":"edge"', b'"edge":"stolen"'),
    )
    assert {"batchItemFailures": []} == deployment.plan("manifests/stolen/d1.json")
    assert 1 == len(deployment.rows("series_import"))
    assert ["another edge has a delivery of this id"] == [
        row["problem"] for row in deployment.rows("stored_object") if row["problem"]
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told["associations"][0].update(peer="\0"),
        lambda told: told["associations"][0].update(peer="\ud800"),
        lambda told: told["studies"][0]["series"][0]["instances"][0].update(bytes=2**70),
        lambda told: told["studies"][0]["series"][0]["instances"][0].update(sha256="a" * 5000),
        lambda told: told.update(opened_at="0001-01-01T00:00:00+14:00"),
        lambda told: told["studies"][0].update(study_instance_uid="1" * 5000),
        lambda told: told["studies"][0]["series"][0]["instances"][0].update(sop_instance_uid="1" * 5000),
    ],
)
def test_manifest_that_the_catalog_cannot_hold_is_its_own_problem(deployment: Any, spoil: Any) -> None:
    """A value that no column takes is recorded against its manifest; the others of the batch are planned."""
    bad = deployment.deliver({"1.2.1": 1}, delivery="bad")
    told = json.loads(bytes(deployment.store.get(bad).bytes()))
    spoil(told)
    deployment.store.put(bad, json.dumps(told).encode())
    good = deployment.deliver({"1.2.2": 1}, delivery="good")
    answer = deployment.handle("plan", *map(deployment.object_event, (bad, good)))
    assert {"batchItemFailures": []} == answer
    assert "queued" == deployment.states()["1.2.2"]
    problems = [row["object_key"] for row in deployment.rows("stored_object") if row["problem"]]
    assert problems == [bad] or "1.2.1" in deployment.states()  # SQLite holds some of these


def test_study_that_comes_by_a_second_way_is_planned_without_reading_images(deployment: Any) -> None:
    """`plan` reads what its role lets it, manifests; the driver is woken, and compares before it starts anything."""
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d1"))
    deployment.handle("index", *map(deployment.object_event, deployment.keys("edge/d1")))
    deployment.drive()
    deployment.finish()
    deployment.messages.clear()
    second = deployment.deliver({"1.2.1": 3}, delivery="d2", change=lambda encoded: b"x" + encoded[1:])
    read: list[str] = []

    class Recording:
        def __init__(self, store: Any) -> None:
            self._store = store

        def get(self, key: str, *arguments: Any, **named: Any) -> Any:
            read.append(key)
            return self._store.get(key, *arguments, **named)

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    recording = deployment.variant(store=Recording(deployment.store))
    assert {"batchItemFailures": []} == recording.plan(second)
    assert [second] == read
    assert deployment.messages["drive"]
    deployment.offset[0] += timedelta(seconds=5)
    deployment.drive()
    deployment.finish()
    assert [2, 1] == [job["scanned"] for job in deployment.rows("import_job")]
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
