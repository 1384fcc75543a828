"""A catalog that is behind its bucket takes in what it does not know, and only that."""

from typing import Any

from sqlalchemy import delete

from dicomflow.bucket.keys import manifest_key
from dicomflow.catalog import tables
from dicomflow.catalog.removal import delete_study
from dicomflow.pipeline.behind import catch_up, manifests_behind

NONE: dict[str, str] = {}


def deliver(deployment: Any, delivery: str, series: str, *, is_imported: bool = True) -> None:
    """Have a delivery of a study of its own come, and be imported."""
    key = deployment.deliver({series: 2}, delivery=delivery)
    deployment.handle("index", *map(deployment.object_event, deployment.keys(f"edge/{delivery}")))
    deployment.plan(key)
    if is_imported:
        deployment.drive()
        deployment.finish()


def forget(deployment: Any) -> None:
    """Lose the catalog."""
    with deployment.deps.engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))


def caught_up(deployment: Any, *on_their_way: str) -> Any:
    """Catch up as `local` does at its start."""
    deps = deployment.deps
    return catch_up(
        deps.engine,
        deps.store,
        deps.bucket,
        on_their_way=on_their_way,
        issuers=NONE,
        character_sets=NONE,
        clock=deployment.now,
    )


def test_lost_catalog_has_everything_again_and_imports_what_was_not(deployment: Any) -> None:
    """What was imported is not imported again; what was not is queued, as no event will come for it."""
    deliver(deployment, "d1", "1.2.1")
    deliver(deployment, "d2", "1.2.2", is_imported=False)
    jobs = len(deployment.service_jobs())
    forget(deployment)
    assert [manifest_key("edge", "d1"), manifest_key("edge", "d2")] == manifests_behind(
        deployment.deps.engine, deployment.deps.store
    )
    assert 2 == caught_up(deployment).deliveries
    assert {"1.2.1": "completed", "1.2.2": "queued"} == deployment.states()
    deployment.drive()
    deployment.finish()
    assert {"1.2.1": "completed", "1.2.2": "completed"} == deployment.states()
    assert jobs + 1 == len(deployment.service_jobs())
    assert caught_up(deployment) is None


def test_what_the_catalog_knows_is_left_as_it_is(deployment: Any) -> None:
    """A study whose rows an operator deleted stays deleted while another delivery is taken in."""
    deliver(deployment, "d1", "1.2.1")
    with deployment.deps.engine.begin() as connection:
        delete_study(connection, "1.2", deployment.now(), actor="test")
    assert caught_up(deployment) is None
    deployment.deliver({"1.2.2": 1}, delivery="d2")
    assert 1 == caught_up(deployment).deliveries
    assert {"1.2.2": "queued"} == deployment.states()


def test_manifest_on_its_way_or_refused_is_not_behind(deployment: Any) -> None:
    """An event that waits in a queue brings its manifest; one that cannot be read is in the list of problems once."""
    deployment.deliver({"1.2.1": 1}, delivery="d1")
    assert caught_up(deployment, manifest_key("edge", "d1")) is None
    deployment.store.put(manifest_key("edge", "odd"), b"no manifest")
    assert 1 == caught_up(deployment, manifest_key("edge", "d1")).problems
    assert [] == manifests_behind(deployment.deps.engine, deployment.deps.store)
