"""Deliveries: pure state with the clock in the test's hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.deliver.delivery import Deliveries, Delivery, ReceivedInstance
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.names import ReceivedFile

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
Make = Callable[..., ReceivedInstance]


@pytest.fixture
def make() -> Make:
    """Make received instances; the digest is that of the content's name."""

    def _make(
        sop: str, study: str = "1.2", *, sha256: str = "", association: str = "a1", size: int = 100
    ) -> ReceivedInstance:
        file = ReceivedFile(Path(f"{sop}.dcm"), association, 0, "10.0.0.1", sha256 or sop)
        at = START + timedelta(seconds=int(sop.rpartition(".")[2]))
        return ReceivedInstance(file, sop, "1.2.3", "1.2.840.10008.1.2", study, f"{study}.1", size, at, "CT1", "STORE")

    return _make


@pytest.fixture
def deliveries_with() -> Callable[..., Deliveries]:
    """Make empty deliveries with ids d1, d2 and so on."""

    def _deliveries_with(**settings: Any) -> Deliveries:
        ids = count(1)
        defaults = {"store_url": "file:///x", "quiet_seconds": 10, "max_seconds": 100}
        return Deliveries(DeliverySettings(**(defaults | settings)), lambda: f"d{next(ids)}")

    return _deliveries_with


def add(deliveries: Deliveries, instance: ReceivedInstance, now: float) -> Delivery | None:
    """Take an instance in as the deliverer does."""
    delivery = deliveries.find(instance, now)
    if delivery is not None:
        delivery.add(instance, now)
    return delivery


def names(found: list[Delivery]) -> list[str]:
    """Return the deliveries' ids."""
    return [delivery.delivery_id for delivery in found]


def test_instances_of_one_study_join_one_delivery(deliveries_with: Any, make: Make):
    """An association for each image makes one delivery; another study has its own."""
    deliveries = deliveries_with()
    joined = [add(deliveries, make(f"1.2.{n}", association=f"a{n}"), n) for n in range(3)]
    other = add(deliveries, make("1.3.1", "1.3"), 3)
    assert ["d1"] * 3 == names(joined)
    assert "d2" == other.delivery_id
    assert {"a0", "a1", "a2"} <= deliveries.associations()


def test_delivery_closes_when_quiet_and_no_association_carries_it(deliveries_with: Any, make: Make):
    """It closes `quiet_seconds` after the last instance, not while its association is open."""
    deliveries = deliveries_with()
    add(deliveries, make("1.2.1"), 0)
    add(deliveries, make("1.2.2"), 5)
    assert [] == deliveries.take_due(14.9, [])
    assert [] == deliveries.take_due(15, ["a1"])
    assert ["d1"] == names(deliveries.take_due(15, ["of another study"]))
    assert [] == deliveries.take_due(1000, [])


def test_delivery_closes_at_max_seconds_though_its_association_is_open(deliveries_with: Any, make: Make):
    """A modality that never releases does not hold its study back for ever."""
    deliveries = deliveries_with()
    for second in range(0, 100, 5):
        add(deliveries, make(f"1.2.{second}"), second)
    assert [] == deliveries.take_due(99.9, ["a1"])
    assert ["d1"] == names(deliveries.take_due(100, ["a1"]))


def test_delivery_closes_at_max_files(deliveries_with: Any, make: Make):
    """The import's limit on files closes a delivery; the next instance begins another."""
    deliveries = deliveries_with(max_files=2)
    found = [add(deliveries, make(f"1.2.{n}"), 0) for n in range(5)]
    assert ["d1", "d1", "d2", "d2", "d3"] == names(found)
    assert {"d1", "d2"} == set(names(deliveries.take_due(0, ["a1"])))


def test_delivery_never_exceeds_max_bytes_unless_by_one_object(deliveries_with: Any, make: Make):
    """What would exceed the limit begins the next delivery; an object above it has one of its own."""
    deliveries = deliveries_with(max_bytes=250)
    sizes = [100, 100, 100, 900, 10]
    found = [add(deliveries, make(f"1.2.{n}", size=size), 0) for n, size in enumerate(sizes)]
    assert ["d1", "d1", "d2", "d3", "d4"] == names(found)
    assert {"d1": 200, "d2": 100, "d3": 900} == {
        each.delivery_id: each.bytes for each in deliveries.take_due(0, ["a1"])
    }


def test_identical_resend_adds_nothing_and_keeps_the_delivery_open(deliveries_with: Any, make: Make):
    """The same bytes again are in the delivery already, and show that the sender is at work."""
    deliveries = deliveries_with()
    add(deliveries, make("1.2.1"), 0)
    assert add(deliveries, make("1.2.1", association="a2"), 8) is None
    assert [] == deliveries.take_due(17, [])
    (due,) = deliveries.take_due(18, [])
    assert ["1.2.1"] == list(due.instances)


def test_other_bytes_under_one_uid_begin_the_next_delivery(deliveries_with: Any, make: Make):
    """Neither version is overwritten: each has a key of its own."""
    deliveries = deliveries_with()
    first = add(deliveries, make("1.2.1"), 0)
    second = add(deliveries, make("1.2.1", sha256="other"), 0)
    assert ["d1"] == names(deliveries.take_due(0, []))
    keys = {each.key_of(each.instances["1.2.1"], "site") for each in (first, second)}
    assert {"site/d1/1.2/1.2.1/1.2.1.dcm", "site/d2/1.2/1.2.1/1.2.1.dcm"} == keys


def test_clock_jump_neither_duplicates_nor_expires_work(deliveries_with: Any, make: Make):
    """A clock that goes back keeps a delivery open; it is taken once and not again."""
    deliveries = deliveries_with()
    add(deliveries, make("1.2.1"), 1000)
    assert [] == deliveries.take_due(0, [])
    assert ["d1"] == names(deliveries.take_due(1010, []))
    assert [] == deliveries.take_due(0, []) + deliveries.take_due(10**9, [])


def test_reopened_delivery_keeps_its_id_and_takes_more(deliveries_with: Any, make: Make):
    """After a restart the study's next instances join the delivery that was open."""
    deliveries = deliveries_with()
    deliveries.reopen("old", [make("1.2.1")], 0)
    assert "old" == add(deliveries, make("1.2.2"), 1).delivery_id
    assert ["old"] == names(deliveries.take_due(11, []))


def test_two_reopened_deliveries_of_one_study_both_close(deliveries_with: Any, make: Make):
    """When a crash left two open, the first is closed at once and the second goes on."""
    deliveries = deliveries_with()
    deliveries.reopen("old-1", [make("1.2.1")], 0)
    deliveries.reopen("old-2", [make("1.2.2")], 0)
    assert ["old-1"] == names(deliveries.take_due(0, []))
    assert "old-2" == add(deliveries, make("1.2.3"), 0).delivery_id


def test_manifest_counts_and_digests_match_what_was_acknowledged(deliveries_with: Any, make: Make):
    """The manifest names each instance with its key, size and digest, and each association with its end."""
    deliveries = deliveries_with()
    for n in (2, 1):
        delivery = add(deliveries, make(f"1.2.{n}", association=f"a{n}", size=n), 0)
    closed_at = START + timedelta(minutes=1)
    manifest = delivery.manifest("site", closed_at, {"a1": "released", "a2": "aborted"}.__getitem__)
    assert ("site", "d1", START + timedelta(seconds=1), closed_at) == (
        manifest.edge,
        manifest.delivery,
        manifest.opened_at,
        manifest.closed_at,
    )
    assert [("1.2.1", 1, "1.2.1", "a1"), ("1.2.2", 2, "1.2.2", "a2")] == [
        (each.sop_instance_uid, each.bytes, each.sha256, each.association_id) for each in manifest.instances()
    ]
    assert {("a1", "CT1", "STORE", "10.0.0.1", "released"), ("a2", "CT1", "STORE", "10.0.0.1", "aborted")} == {
        (each.association_id, each.calling_ae_title, each.called_ae_title, each.peer, each.ended)
        for each in manifest.associations
    }
