"""What is sent again: the ledger tells what was delivered before, and loses nothing when it is lost itself."""

from typing import Any

import pytest

from dicomflow.edge.ledger import LEDGER_FILE

Site = Any  # conftest's


def _deliver(site: Site, sop: str = "1.2.1", association: str = "a1", **fields: Any) -> None:
    site.receive(sop, association=association, **fields)
    site.spool.associations.note_end(association, "released")
    site.run(site.is_empty)


def test_identical_resend_after_its_delivery_is_not_delivered_again(site: Site):
    """Bytes that are in the store are acknowledged and dropped: no second object and no second manifest."""
    _deliver(site)
    before = site.stored_keys()
    _deliver(site, association="a2")
    assert before == site.stored_keys()
    assert 1 == len(site.entries())


def test_resend_with_other_ae_title_after_its_delivery_is_not_delivered_again(site: Site):
    """The same data set from another node differs in its meta information alone, and is known all the same."""
    _deliver(site)
    before = site.stored_keys()
    _deliver(site, association="a2", calling="WORKSTATION")
    assert before == site.stored_keys()


@pytest.mark.parametrize("calling", ["CT1", "WORKSTATION"])
def test_resend_on_the_way_is_not_delivered_again(site: Site, flaky_store: Any, calling: str):
    """While the first waits for the store, in a delivery that is closed, the second is known by the spool's file."""
    with pytest.MonkeyPatch.context() as patched:
        flaky_store(patched, lambda _key: True)
        site.receive("1.2.1")
        site.spool.associations.note_end("a1", "released")
        site.run(lambda: list(site.spool.delivering.glob("*/manifest.json")))
        site.receive("1.2.1", association="a2", calling=calling)
        site.spool.associations.note_end("a2", "released")
        site.run(lambda: not any(site.spool.scan_received()))
    site.run(site.is_empty)
    assert 1 == sum(key.endswith(".dcm") for key in site.stored_keys())


@pytest.mark.parametrize("calling", ["CT1", "WORKSTATION"])
def test_resend_within_one_batch_is_not_delivered_again(site: Site, calling: str):
    """Two of one data set that are found together in the spool give one object."""
    site.receive("1.2.1")
    site.receive("1.2.1", calling=calling)
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert 1 == sum(key.endswith(".dcm") for key in site.stored_keys())
    assert 1 == len(site.manifests())


def test_resend_is_delivered_when_the_site_wants_it(site: Site):
    """With skip_resent off the same bytes are delivered again under another key."""
    for association in ("a1", "a2"):
        site.receive("1.2.1", association=association)
        site.spool.associations.note_end(association, "released")
        site.run(site.is_empty, skip_resent=False)
    assert 2 == len(site.manifests())
    objects = [key for key in site.stored_keys() if key.endswith(".dcm")]
    assert objects == sorted(entry.object_key for entry in site.entries() if entry.stored_at)


def test_other_bytes_under_one_uid_after_delivery_are_in_the_ledger_twice(site: Site):
    """A changed instance is delivered for itself, and the ledger shows both contents."""
    _deliver(site, pixels=b"first ")
    _deliver(site, association="a2", pixels=b"second")
    entries = site.entries()
    assert ["1.2.1", "1.2.1"] == [entry.sop_instance_uid for entry in entries]
    assert 2 == len({entry.sha256 for entry in entries}) == len({entry.delivery_id for entry in entries})
    assert all(entry.stored_at for entry in entries)


def test_quarantined_instance_is_delivered_when_it_is_sent_again(site: Site, part10: Any):
    """What was given up counts as not delivered, so the good copy goes its way."""
    file = site.receive("1.2.1")
    good = file.path.read_bytes()
    file.path.write_bytes(good[:-1])
    site.spool.associations.note_end("a1", "released")
    site.run(lambda: site.spool.counts()["quarantined"])
    assert "SHA-256 of the spooled file is" in site.entries()[0].problem
    _deliver(site, association="a2")
    (instance,) = site.manifests()[0].instances()
    assert part10("1.2.1") == (site.objects / instance.key).read_bytes()
    assert [None] == [entry.problem for entry in site.entries()]


@pytest.mark.parametrize("damage", ["lost", "garbage", "torn", "other version"])
def test_lost_or_damaged_ledger_is_filled_from_the_spool(site: Site, flaky_store: Any, damage: str):
    """With the ledger gone or unreadable in the midst of a delivery, everything arrives once and is in the new one."""
    for number in range(6):
        site.receive(f"1.2.{number}")
    with pytest.MonkeyPatch.context() as patched:
        store = flaky_store(patched, lambda key: key.endswith(("/1.2.0.dcm", "/1.2.1.dcm")))
        site.run(lambda: len(store.puts) > 8)
    site.spool.associations.note_end("a1", "released")
    _damage(site.spool.root / LEDGER_FILE, damage)
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert {f"1.2.{number}" for number in range(6)} == {each.sop_instance_uid for each in manifest.instances()}
    assert 7 == len(site.stored_keys())
    assert {f"1.2.{number}" for number in range(6)} == {each.sop_instance_uid for each in site.entries()}
    assert all(entry.stored_at for entry in site.entries())
    assert (damage != "lost") == bool(list(site.spool.root.glob(f"{LEDGER_FILE}.damaged-*")))


def _damage(path: Any, how: str) -> None:
    content = path.read_bytes()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if how == "garbage":
        path.write_bytes(b"no database at all " * 500)
    elif how == "torn":
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    elif how == "other version":
        import contextlib
        import sqlite3

        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE instance (sop_instance_uid TEXT, received_at TEXT, delivery_id TEXT)")
