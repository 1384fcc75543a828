"""Retention: what was imported goes, so long after its import, and nothing else ever."""

from datetime import timedelta
from typing import Any

import pytest
from obstore.exceptions import BaseError
from sqlalchemy import update

from dicomflow.catalog.tables import series_import
from dicomflow.pipeline import retention as retention_module
from dicomflow.pipeline.retention import expire_objects

DAYS = timedelta(days=30)


@pytest.fixture
def kept(deployment: Any) -> Any:
    """Give a deployment that keeps images for thirty days."""
    return deployment.variant(retention=DAYS)


def index(deployment: Any) -> None:
    """Hand an event of every received object to the index handler."""
    keys = deployment.keys("edge/")
    assert {"batchItemFailures": []} == deployment.handle("index", *(deployment.object_event(key) for key in keys))


def imported(deployment: Any, series: dict[str, int], delivery: str, **arguments: Any) -> None:
    """Deliver and import some series."""
    deployment.plan(deployment.deliver(series, delivery=delivery, **arguments))
    index(deployment)
    deployment.drive()
    deployment.finish()


def test_object_goes_when_its_import_is_old_enough(kept: Any) -> None:
    """Counted from the import: not a second before; manifests, and what the catalog says, stay."""
    imported(kept, {"1.2.1": 3}, "d1")
    assert {"1.2.1": "completed"} == kept.states()
    (row,) = kept.rows("series_import")
    kept.offset[0] += row["updated_at"] + DAYS - kept.now()
    assert not expire_objects(kept.deps)
    assert 3 == len(kept.keys("edge/"))
    kept.offset[0] += timedelta(seconds=1)
    kept.drive()
    assert [] == kept.keys("edge/")
    assert 1 == len(kept.keys("manifests/"))
    assert 3 == len(kept.rows("instance"))
    (event,) = [each for each in kept.rows("audit_event") if each["action"] == "expire_objects"]
    assert 3 == event["details"]["objects_deleted"]


@pytest.mark.parametrize("state", ["queued", "in_progress", "partial", "failed", "disabled"])
def test_object_that_was_not_imported_stays_for_ever(kept: Any, state: str) -> None:
    """However old it is: it may be the only copy."""
    imported(kept, {"1.2.1": 2, "1.2.2": 1}, "d1")
    with kept.deps.engine.begin() as connection:
        connection.execute(
            update(series_import).where(series_import.c.series_instance_uid == "1.2.1").values(state=state)
        )
    kept.offset[0] += timedelta(days=4000)
    expire_objects(kept.deps)
    assert {"1.2.1.1", "1.2.1.2"} == {key.rpartition("/")[2].removesuffix(".dcm") for key in kept.keys("edge/")}


def test_object_beside_a_completed_series_stays(kept: Any) -> None:
    """An object that came under the delivery's prefix, and that no job has taken, is not the series' fault."""
    imported(kept, {"1.2.1": 2}, "d1")
    (first, _) = kept.keys("edge/")
    late = first.replace("1.2.1.1.dcm", "1.2.1.99.dcm")
    kept.store.put(late, b"not imported")
    kept.handle("index", kept.object_event(late))
    kept.offset[0] += timedelta(days=4000)
    expire_objects(kept.deps)
    assert [late] == kept.keys("edge/")


def test_series_that_is_retried_counts_from_its_own_import(kept: Any) -> None:
    """What ends later than what has gone already goes later, and is not passed over."""
    kept.faults.fail_jobs("simulated reason", count=3)
    imported(kept, {"1.2.1": 1}, "d1")
    for _ in range(3):
        kept.offset[0] += timedelta(minutes=20)
        kept.drive()
        kept.finish()
    imported(kept, {"1.2.2": 1}, "d2", study="1.3")
    kept.offset[0] += DAYS + timedelta(days=1)
    expire_objects(kept.deps)
    assert 1 == len(kept.keys("edge/"))
    with kept.deps.engine.begin() as connection:
        connection.execute(
            update(series_import)
            .values(state="queued", status=1, attempts=0)
            .where(series_import.c.series_instance_uid == "1.2.1")
        )
    kept.drive()
    kept.finish()
    assert {"1.2.1": "completed", "1.2.2": "completed"} == kept.states()
    expire_objects(kept.deps)
    assert 1 == len(kept.keys("edge/"))
    kept.offset[0] += DAYS + timedelta(days=1)
    expire_objects(kept.deps)
    assert [] == kept.keys("edge/")


def test_objects_go_in_rounds_and_the_driver_comes_back(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long list is worked off by the driver's own wake-ups, and then nothing wakes the catalog any more."""
    monkeypatch.setattr(retention_module, "SERIES_AT_ONCE", 1)
    monkeypatch.setattr(retention_module, "ROUNDS", 1)
    for number in range(3):
        imported(kept, {f"1.2.{number + 1}": 1}, f"d{number}")
        kept.offset[0] += timedelta(minutes=1)
    kept.offset[0] += timedelta(days=4000)
    left = []
    for _ in range(5):
        result = kept.drive()
        kept.offset[0] += timedelta(minutes=1)
        left.append((len(kept.keys("edge/")), result.due_at is None))
    assert [(2, False), (1, False), (0, False), (0, True), (0, True)] == left


def test_store_that_refuses_keeps_the_mark_and_the_driver(kept: Any) -> None:
    """What could not be deleted is tried by the next run, and imports go on meanwhile."""
    imported(kept, {"1.2.1": 1}, "d1")
    kept.offset[0] += timedelta(days=4000)

    class Refusing:
        """A store that deletes nothing."""

        def __getattr__(self, name: str) -> Any:
            """Give all but the deletion."""
            if name == "delete":
                raise BaseError("refused")
            return getattr(kept.store, name)

    refusing = kept.variant(store=Refusing())
    refusing.drive()
    assert 1 == len(kept.keys("edge/"))
    kept.drive()
    assert [] == kept.keys("edge/")
