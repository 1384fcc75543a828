"""Who sent what: each delivery once for a sender, however many associations it took, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.senders import list_deliveries, list_senders
from dicomflow.catalog.tables import delivery, delivery_association, series_import

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)

Deliver = Callable[..., None]


@pytest.fixture
def deliver(engine: Engine) -> Deliver:
    """Write a delivery of ten instances that was open for 20 s, and its associations' ends."""

    def write(name: str, sender: str, *ended: str, minutes: int = 0, states: tuple[str, ...] = ()) -> None:
        closed_at = NOW - timedelta(minutes=minutes)
        with engine.begin() as connection:
            connection.execute(
                insert(delivery).values(
                    delivery_id=name,
                    edge="edge",
                    manifest_key=name,
                    opened_at=closed_at - timedelta(seconds=20),
                    closed_at=closed_at,
                    instance_count=10,
                    bytes=4000,
                )
            )
            for number, how in enumerate(ended):
                connection.execute(
                    insert(delivery_association).values(
                        delivery_id=name,
                        association_id=f"{name}-{number}",
                        calling_ae_title=sender,
                        called_ae_title="DICOMFLOW",
                        peer="10.0.0.1",
                        ended=how,
                    )
                )
            for number, state in enumerate(states):
                connection.execute(
                    insert(series_import).values(
                        delivery_id=name,
                        study_instance_uid="1.2",
                        series_instance_uid=f"1.2.{number}",
                        input_prefix="p/",
                        object_count=5,
                        bytes=1,
                        state=state,
                        status=1,
                        created_at=closed_at,
                        updated_at=closed_at,
                    )
                )

    return write


def test_senders_count_a_delivery_once_however_many_associations(engine: Engine, deliver: Deliver):
    """An association for each image does not multiply the images."""
    deliver("a", "CT", "released", "released", "aborted")
    deliver("b", "CT", "released", minutes=5)
    deliver("c", "MR", "released")
    deliver("old", "CT", "lost", minutes=3000)
    with begin_read(engine) as connection:
        ct, mr = list_senders(connection, NOW - timedelta(days=1))
    assert ("CT", 2, 20, 8000, 4) == (ct.calling_ae_title, ct.deliveries, ct.instances, ct.bytes, ct.associations)
    assert {"released": 3, "aborted": 1} == ct.ended
    assert ct.seconds == pytest.approx(40, abs=0.01)
    assert (NOW, "10.0.0.1", "edge") == (ct.last_at, ct.peer, ct.edge)
    assert ("MR", 10) == (mr.calling_ae_title, mr.instances)


def test_deliveries_come_page_by_page_with_their_imports(engine: Engine, deliver: Deliver):
    """The latest first, each once, also where times are equal."""
    for number in range(5):
        deliver(f"d{number}", "CT", "released", minutes=number // 2, states=("completed", "completed", "failed"))
    seen, after = [], None
    with begin_read(engine) as connection:
        while True:
            page = list_deliveries(connection, after=after, limit=2)
            seen += page.deliveries
            after = page.next_key
            if after is None:
                break
    assert ["d1", "d0", "d3", "d2", "d4"] == [each.delivery_id for each in seen]
    assert {"completed": 2, "failed": 1} == seen[0].imports
    assert (("CT",), ("10.0.0.1",), ("1.2",), {"released": 1}) == (
        seen[0].calling_ae_titles,
        seen[0].peers,
        seen[0].study_instance_uids,
        seen[0].ended,
    )


def test_senders_of_an_empty_catalog_are_none(engine: Engine):
    """Nothing sent, nobody listed."""
    with begin_read(engine) as connection:
        assert [] == list_senders(connection, NOW)
        assert ((), None) == (
            list_deliveries(connection).deliveries,
            list_deliveries(connection).next_key,
        )
