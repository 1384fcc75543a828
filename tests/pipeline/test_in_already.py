"""What the catalog remembers to be in is skipped only when the data store that is configured now says so."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, event

from dicomflow.catalog import pace, tables
from dicomflow.healthimaging.client import delete_image_set
from dicomflow.healthimaging.simulator import FileFault
from dicomflow.pipeline import claim as claim_module
from dicomflow.pipeline.drive import drive


def run(deployment: Any, size: int, delivery: str, **arguments: Any) -> None:
    """Deliver a series of this size, and import it to the end."""
    deployment.plan(deployment.deliver({"1.2.1": size}, delivery=delivery, **arguments))
    deployment.offset[0] += timedelta(seconds=5)
    deployment.drive()
    deployment.finish()


def delete_image_sets(deployment: Any) -> None:
    """Delete all image sets behind the catalog's back."""
    for row in deployment.rows("image_set"):
        delete_image_set(deployment.deps.client, deployment.deps.datastore_id, row["image_set_id"])
    deployment.advance(10)


@pytest.mark.parametrize("size", [2, 3])
def test_series_whose_image_set_was_deleted_is_imported_again(
    deployment: Any, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Sent again unchanged, or with more, after a deletion in HealthImaging: all of it is imported, and it is told."""
    run(deployment, 2, "d1")
    delete_image_sets(deployment)
    with caplog.at_level(logging.WARNING):
        run(deployment, size, "d2")
    assert [2, size] == [job["scanned"] for job in deployment.rows("import_job")]
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert 1 == [record.message for record in caplog.records].count("image_set_gone")
    (image_set,) = deployment.rows("image_set")
    (mapping,) = deployment.rows("series_image_set")
    assert mapping["image_set_id"] == image_set["image_set_id"]
    (job,) = {row["import_job_id"] for row in deployment.rows("import_outcome") if row["outcome"] == "imported"}
    assert job == deployment.rows("import_job")[1]["import_job_id"]


def test_partial_series_whose_image_set_was_deleted_is_imported_whole(deployment: Any) -> None:
    """An operator's retry takes what failed, and what is not there any more."""
    deployment.faults.fail_files(FileFault("1.2.1.2.dcm", "customer"))
    run(deployment, 3, "d1")
    delete_image_sets(deployment)
    deployment.faults.clear()
    with deployment.deps.engine.begin() as connection:
        claim_module.imports.retry_series(connection, deployment.now())
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed"} == deployment.states()
    assert [3, 3] == [job["scanned"] for job in deployment.rows("import_job")]


def test_series_sent_again_is_imported_into_another_data_store(deployment: Any) -> None:
    """What is in one data store is in no other."""
    run(deployment, 2, "d1")
    created = deployment.deps.client.create_datastore(datastoreName="other", clientToken="other")["datastoreId"]
    deployment.advance(10)
    other = deployment.variant(datastore_id=created)
    run(other, 2, "d2")
    run(other, 2, "d3")
    assert ["completed"] * 3 == [row["state"] for row in other.rows("series_import")]
    assert [deployment.deps.datastore_id, created] == [job["datastore_id"] for job in other.rows("import_job")]


def test_image_set_is_asked_for_before_a_series_is_skipped(deployment: Any) -> None:
    """While the service does not answer, the series waits with the reason; nothing is skipped on a memory."""
    run(deployment, 2, "d1")
    deployment.plan(deployment.deliver({"1.2.1": 2}, delivery="d2"))
    deployment.offset[0] += timedelta(seconds=5)
    deployment.faults.fail_calls("GetImageSet")
    deployment.drive()
    _, row = deployment.rows("series_import")
    assert ("queued", True) == (row["state"], "GetImageSet" in row["message"])
    deployment.advance(2)
    deployment.drive()
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert 1 == len(deployment.service_jobs())


def test_row_made_anew_has_another_token(deployment: Any) -> None:
    """A series that is queued again after its rows were removed starts a job of its own."""
    key = deployment.deliver({"1.2.1": 1}, delivery="d1")
    for _ in range(2):
        deployment.plan(key)
        deployment.offset[0] += timedelta(seconds=5)
        deployment.drive()
        deployment.finish()
        assert {"1.2.1": "completed"} == deployment.states()
        with deployment.deps.engine.begin() as connection:
            for table in (tables.import_outcome, tables.series_import, tables.stored_object):
                connection.execute(delete(table))
    assert 2 == len(deployment.service_jobs())
    assert 2 == len({job["client_token"] for job in deployment.rows("import_job")})


def test_slow_copies_are_made_once(deployment: Any) -> None:
    """A claim lasts as long as its copies take, however many drivers there are."""
    run(deployment, 1, "d1")
    deployment.plan(deployment.deliver({"1.2.1": 121}, delivery="d2"))
    deployment.offset[0] += timedelta(seconds=5)
    copies: list[str] = []
    started: list[int] = []

    class Slow:
        def __init__(self, store: Any) -> None:
            self._store = store

        def copy(self, source: str, target: str) -> None:
            deployment.offset[0] += timedelta(seconds=1)
            self._store.copy(source, target)
            copies.append(source)
            if len(copies) % 30 == 0:
                started.append(drive(deployment.deps).started)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    assert 1 == deployment.variant(store=Slow(deployment.store)).drive().started
    assert (120, [0] * 4) == (len(copies), started)
    assert 2 == len(deployment.service_jobs())


def test_claim_that_another_driver_took_is_not_started(deployment: Any) -> None:
    """A driver that was away for too long finds its job taken, and leaves it alone."""
    run(deployment, 1, "d1")
    deployment.plan(deployment.deliver({"1.2.1": 3}, delivery="d2"))
    deployment.offset[0] += timedelta(seconds=5)

    class Away:
        def __init__(self, store: Any) -> None:
            self._store = store
            self._is_away = False

        def copy(self, *arguments: Any) -> None:
            if not self._is_away:
                self._is_away = True
                deployment.offset[0] += timedelta(seconds=claim_module.CLAIM_SECONDS + 1)
                assert 1 == drive(deployment.deps).started
            self._store.copy(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    assert 0 == deployment.variant(store=Away(deployment.store)).drive().started
    deployment.finish()
    assert ["completed", "completed"] == [row["state"] for row in deployment.rows("series_import")]
    assert 2 == len(deployment.service_jobs())


def test_unchanged_series_are_completed_each_by_itself(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction holds more than one series, and none of these the lock that starts are made under."""
    sizes = {f"1.2.{number}": 1 for number in range(1, 21)}
    for delivery in ("d1", "d2"):
        deployment.plan(deployment.deliver(sizes, delivery=delivery))
        deployment.offset[0] += timedelta(seconds=15)
        completed: list[int] = []
        current: list[int] = []
        locked: list[int] = []
        complete = claim_module.imports.complete_series
        lock = pace.lock_claims

        def count(*arguments: Any, known: Any = complete, into: Any = current) -> bool:
            into.append(1)
            return bool(known(*arguments))

        def count_lock(connection: Any, known: Any = lock, into: Any = locked, now: Any = current) -> None:
            into.append(len(now))
            known(connection)

        @event.listens_for(deployment.deps.engine, "commit")
        def commit(_connection: Any, into: Any = completed, now: Any = current) -> None:
            into.append(len(now))
            now.clear()

        with monkeypatch.context() as patch:
            patch.setattr(claim_module.imports, "complete_series", count)
            patch.setattr(pace, "lock_claims", count_lock)
            deployment.drive()
        event.remove(deployment.deps.engine, "commit", commit)
        deployment.finish()
    assert (20, 1, 0) == (sum(completed), max(completed), max(locked))
    assert {"completed"} == {row["state"] for row in deployment.rows("series_import")}
    assert 1 == len(deployment.service_jobs())
