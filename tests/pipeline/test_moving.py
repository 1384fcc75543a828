"""A move to another data store: what the one before has is imported into the new one when an operator asks for it."""

from datetime import timedelta
from typing import Any

from dicomflow.catalog import imports
from dicomflow.catalog.moving import retry_elsewhere
from dicomflow.catalog.retention import set_expired_until
from dicomflow.catalog.states import MOVED, SeriesState


def moved(deployment: Any, datastore_id: str, series: list[int] | None = None) -> list[int]:
    """Queue what is in another data store."""
    with deployment.deps.engine.begin() as connection:
        return retry_elsewhere(connection, deployment.deps.clock(), MOVED, datastore_id, series)


def other_store(deployment: Any) -> Any:
    """Give the same deployment, with another data store."""
    created = deployment.deps.client.create_datastore(datastoreName="other", clientToken="other")["datastoreId"]
    deployment.finish()
    return deployment.variant(datastore_id=created)


def imported(deployment: Any, delivery: str, sizes: dict[str, int]) -> None:
    """Deliver a study and import it."""
    key = deployment.deliver(sizes, delivery=delivery)
    keys = [each for each in deployment.keys(f"edge/{delivery}") if each.endswith(".dcm")]
    deployment.handle("index", *map(deployment.object_event, keys))
    deployment.plan(key)
    deployment.drive()
    deployment.finish()


def test_what_the_old_data_store_has_is_imported_into_the_new(deployment: Any) -> None:
    """Every instance, once; what is in there already is not queued again, nor is anything in the store of before."""
    imported(deployment, "d1", {"1.2.1": 2, "1.2.2": 1})
    assert [] == moved(deployment, deployment.deps.datastore_id)
    other = other_store(deployment)
    assert [1] == moved(other, other.deps.datastore_id, [1])
    assert [2] == moved(other, other.deps.datastore_id)
    other.drive()
    other.finish()
    assert {"completed"} == {row["state"] for row in other.rows("series_import")}
    sets = [row for row in other.rows("series_image_set") if row["datastore_id"] == other.deps.datastore_id]
    assert ["1.2.1", "1.2.2"] == sorted(row["series_instance_uid"] for row in sets)
    jobs = len(other.rows("import_job"))
    assert [] == moved(other, other.deps.datastore_id)
    other.drive()
    assert jobs == len(other.rows("import_job"))


def test_what_the_retention_deleted_stays_completed(deployment: Any) -> None:
    """Its objects are gone, so that an import would fail: the catalog says on that the store of before has it."""
    imported(deployment, "d1", {"1.2.1": 1})
    deployment.advance(60)
    imported(deployment, "d2", {"1.2.2": 1})
    first, second = (row["updated_at"] for row in deployment.rows("series_import"))
    assert second > first
    with deployment.deps.engine.begin() as connection:
        set_expired_until(connection, second - timedelta(seconds=1))
    assert [2] == moved(deployment, "0" * 32)
    with deployment.deps.engine.begin() as connection:
        assert SeriesState.COMPLETED == imports.find_series(connection, "1")[0].state
