"""What is sent again: the ledger tells what was delivered before, and loses nothing when it is lost itself."""

import asyncio
import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore

from dicomflow.edge.deliver.resent import Resent
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.progress import PROGRESS_FILE
from dicomflow.edge.spool.view import count_files

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


@pytest.mark.parametrize("is_stored", [True, False])
def test_first_bytes_sent_again_are_the_senders_last_word(site: Site, flaky_store: Any, *, is_stored: bool):
    """Commitment asks for what the sender means: the content that it sent last, although that is not stored again."""
    with pytest.MonkeyPatch.context() as patched:
        if not is_stored:
            flaky_store(patched, lambda _key: True)
        for number, pixels in enumerate((b"first ", b"second", b"first "), 1):
            site.receive("1.2.1", association=f"a{number}", pixels=pixels)
            site.spool.associations.note_end(f"a{number}", "released")
            site.run(site.is_empty if is_stored else lambda: not any(site.spool.scan_received()))
    first, second = {entry.delivery_id: entry for entry in site.entries()}.values()
    with contextlib.closing(Ledger(site.spool.root / LEDGER_FILE, read_only=True)) as ledger:
        assert [second.sha256, first.sha256] == [entry.sha256 for entry in ledger.find("1.2.1")]


def _digests(site: Site) -> dict[str, str]:
    """Return the digest of each object, by its key."""
    keys = (key for key in site.stored_keys() if key.endswith(".dcm"))
    return {key: hashlib.sha256((site.objects / key).read_bytes()).hexdigest() for key in keys}


def _listed(site: Site) -> dict[str, str]:
    """Return the digests that manifests have, by key."""
    return {each.key: each.sha256 for manifest in site.manifests() for each in manifest.instances()}


def test_other_bytes_after_a_skipped_resend_have_a_key_of_their_own(site: Site, monkeypatch: pytest.MonkeyPatch):
    """What is skipped lies in its delivery until its end: other bytes under its UID begin the next one."""
    _deliver(site, pixels=b"first ")
    site.receive("1.2.1", association="a9", pixels=b"first ")
    original = Resent.drop

    def _drop(resent: Resent, *arguments: Any) -> None:
        original(resent, *arguments)
        site.receive("1.2.1", association="a3", pixels=b"second")

    with monkeypatch.context() as patched:
        patched.setattr(Resent, "drop", _drop)
        site.run(lambda: site.has_noted(2), quiet_seconds=60)
    for association in ("a9", "a3"):
        site.spool.associations.note_end(association, "released")
    site.run(site.is_empty)
    assert 2 == len(set(_digests(site).values()))
    assert _listed(site) == _digests(site)


def test_skipped_and_other_bytes_left_in_one_delivery_are_both_stored(site: Site, tmp_path: Path):
    """A folder that an earlier version left with both: the ledger's word on a key is for the very bytes it names."""
    first = site.receive("1.2.1", association="a9", pixels=b"first ").path
    aside = first.rename(tmp_path / first.name)
    site.receive("1.2.1", association="a3", pixels=b"second")
    site.run(lambda: site.has_noted(1), quiet_seconds=60)
    (folder,) = site.spool.delivering.iterdir()
    aside.rename(folder / first.name)
    for association in ("a9", "a3"):
        site.spool.associations.note_end(association, "released")
    site.run(site.is_empty)
    assert 2 == len(set(_digests(site).values()))
    assert _listed(site) == _digests(site)


def test_quarantined_instance_is_delivered_when_it_is_sent_again(site: Site, part10: Any):
    """What was given up counts as not delivered, so the good copy goes its way."""
    file = site.receive("1.2.1")
    good = file.path.read_bytes()
    file.path.write_bytes(good[:-1])
    site.spool.associations.note_end("a1", "released")
    site.run(lambda: count_files(site.spool.root)["quarantined"])
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


def _another_bucket(site: Site) -> str:
    other = site.objects.with_name("objects-2")
    site.uploader_with = lambda: Uploader(lambda: LocalStore(other, mkdir=True), other)
    site.objects = other
    return "s3://another"


def _same_bucket_made_anew(site: Site) -> str:
    shutil.rmtree(site.objects)
    return STORE


def _object_deleted(site: Site) -> str:
    next(site.objects.rglob("1.2.1.dcm")).unlink()
    return STORE


def _object_cut(site: Site) -> str:
    path = next(site.objects.rglob("1.2.1.dcm"))
    path.write_bytes(path.read_bytes()[:-1])
    return STORE


def _object_rotten(site: Site) -> str:
    path = next(site.objects.rglob("1.2.1.dcm"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    return STORE


def _ledger_of_an_earlier_version(site: Site) -> str:
    with contextlib.closing(sqlite3.connect(site.spool.root / LEDGER_FILE)) as connection, connection:
        connection.execute("ALTER TABLE instance DROP COLUMN store")
    return STORE


def _spoiled_key(site: Site) -> str:
    with contextlib.closing(sqlite3.connect(site.spool.root / LEDGER_FILE)) as connection, connection:
        connection.execute("UPDATE instance SET object_key = '//../\u0001'")
    return STORE


STORE = "s3://the-bucket"


@pytest.mark.parametrize("calling", ["CT1", "WORKSTATION"])
@pytest.mark.parametrize(
    "change",
    [
        _another_bucket,
        _same_bucket_made_anew,
        _object_deleted,
        _object_cut,
        _object_rotten,
        _ledger_of_an_earlier_version,
        _spoiled_key,
    ],
)
def test_resend_of_what_the_store_does_not_confirm_is_stored_again(
    site: Site, part10: Any, change: Callable[[Site], str], calling: str, caplog: pytest.LogCaptureFixture
):
    """However the store came to be without it, what is sent again is stored again, in a delivery with a manifest."""
    caplog.set_level("INFO")
    site.receive("1.2.1")
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty, store_url=STORE)
    first = {manifest.delivery for manifest in site.manifests()}
    store = change(site)
    site.receive("1.2.1", association="a2", calling=calling)
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: site.is_empty() and json.loads(_progress(site)).get("resent_stored_again"), store_url=store)
    (again,) = [manifest for manifest in site.manifests() if manifest.delivery not in first]
    (instance,) = again.instances()
    assert part10("1.2.1", calling=calling) == (site.objects / instance.key).read_bytes()
    assert {"resent_skipped": 0, "resent_stored_again": 1}.items() <= json.loads(_progress(site)).items()
    assert "resent skipped=0 stored_again=1" in caplog.text
    _deliver_again(site, store)
    assert 1 == sum(manifest.delivery not in first for manifest in site.manifests())


def _deliver_again(site: Site, store: str) -> None:
    """Once it is stored there, a further one is skipped, and that is counted."""
    site.receive("1.2.1", association="a3")
    site.spool.associations.note_end("a3", "released")
    site.run(lambda: site.is_empty() and json.loads(_progress(site)).get("resent_skipped"), store_url=store)


def _progress(site: Site) -> str:
    path = site.spool.root / PROGRESS_FILE
    return str(path.read_text()) if path.exists() else "{}"


@pytest.mark.parametrize("answer", [PermissionError(1, "forbidden"), OSError(104, "connection reset"), TimeoutError()])
def test_resend_is_stored_again_where_the_store_does_not_say(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: Exception
):
    """An edge that may not ask, or gets no answer, takes that for a no."""
    _deliver(site)

    async def _no(*_: Any, **__: Any) -> Any:
        raise answer

    monkeypatch.setattr(obstore, "head_async", _no)
    _deliver(site, association="a2")
    assert 2 == len(site.manifests())


def test_store_is_asked_of_what_is_sent_again_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A fresh object costs no question, and one that is sent again costs one."""
    asked: Counter[str] = Counter()
    original = obstore.head_async

    async def _head(store: Any, key: str) -> Any:
        asked[key.rpartition("/")[2]] += 1
        return await original(store, key)

    monkeypatch.setattr(obstore, "head_async", _head)
    for number in range(5):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert {} == asked
    _deliver(site, "1.2.3", association="a2")
    assert {"1.2.3.dcm": 1} == asked


def _manifest_key(object_key: str) -> str:
    return f"manifests/{'/'.join(object_key.split('/')[:2])}.json"


def test_resend_that_is_skipped_is_told_again_with_all_of_its_delivery(site: Site):
    """Who was told may have forgotten, as after `delete-study`: objects and manifest are told as if they were new."""
    site.receive("1.2.1")
    _deliver(site, "1.2.2")
    before = site.stored_keys()
    told = Counter(each.key for each in site.announced)
    site.announced.clear()
    _deliver(site, "1.2.2", association="a2")
    assert before == site.stored_keys()
    assert told == Counter(each.key for each in site.announced)
    assert {_manifest_key(before[-1])} < told.keys()


@pytest.mark.parametrize(
    ("state", "options"), [("open", {}), ("open", {"skip_resent": False}), ("closed", {"skip_resent": True})]
)
def test_resend_that_is_skipped_for_a_copy_in_the_spool_is_told_again(
    site: Site, flaky_store: Any, state: str, options: dict[str, bool]
):
    """An object of a delivery that is not at its end was told already; it is told again, after the resend came."""
    with pytest.MonkeyPatch.context() as patched:
        flaky_store(patched, lambda key: "1.2.1.dcm" not in key)
        site.receive("1.2.1")
        site.receive("1.2.2")
        if state == "closed":
            site.spool.associations.note_end("a1", "released")
        site.run(lambda: site.announced and (state == "open" or _closed(site)), **options)
        site.announced.clear()

        def _take_resend() -> bool:
            if not site.spool.associations.read_states().get("a2"):
                site.receive("1.2.1", association="a2")
            return not any(site.spool.scan_received())

        site.run(_take_resend, **options)
        site.announced.clear()
    for association in ("a1", "a2"):
        site.spool.associations.note_end(association, "released")
    site.run(site.is_empty, **options)
    assert 1 <= sum(each.key.endswith("/1.2.1.dcm") for each in site.announced)
    assert 1 <= sum(each.key.endswith(".json") for each in site.announced)


def test_resend_is_told_again_although_nobody_could_be_told_at_first(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A catalog that is locked, and a deliverer that is cut off meanwhile, lose no announcement."""
    _deliver(site)
    told = Counter(each.key for each in site.announced)
    refused: list[str] = []

    def _refuse(stored: Any) -> None:
        refused.extend(each.key for each in stored)
        raise OSError(5, "simulated")

    with monkeypatch.context() as patched:
        patched.setattr(site, "announce", _refuse)
        site.receive("1.2.1", association="a2")
        site.spool.associations.note_end("a2", "released")
        site.run(lambda: len(refused) > len(told))
    site.announced.clear()
    site.run(site.is_empty)
    told_now = Counter(each.key for each in site.announced)
    assert {True} == {key.endswith((".dcm", ".json")) for key in told_now}
    assert {"1.2.1.dcm"} == {key.rpartition("/")[2] for key in told_now if key.endswith(".dcm")}
    assert 1 == sum(key.endswith(".json") for key in told_now)


@pytest.mark.parametrize("damage", ["gone", "of others", "unreadable", "nobody is told"])
def test_resend_is_stored_again_where_it_cannot_be_told_of(site: Site, damage: str):
    """Without a manifest that names the object, or without anybody who is told, a skipped one would stay hidden."""
    _deliver(site)
    (path,) = site.objects.glob("manifests/*/*.json")
    if damage == "gone":
        path.unlink()
    elif damage == "of others":
        path.write_text(path.read_text().replace("1.2.1.dcm", "1.2.9.dcm"))
    elif damage == "unreadable":
        path.write_bytes(b"{")
    else:
        site.announce = None
    _deliver(site, association="a2")
    assert 2 == sum(key.endswith("/1.2.1.dcm") for key in site.stored_keys())


@pytest.mark.parametrize("options", [{"skip_resent": True}, {"skip_resent": False}])
@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("calling", ["CT1", "WORKSTATION"])
def test_good_copy_is_not_dropped_for_a_rotten_one_in_the_spool(
    site: Site, part10: Any, calling: str, state: str, options: dict[str, bool]
):
    """A file that waits is known by its name; before a good one goes for it, its bytes are looked at."""

    async def _hang(*_: Any) -> None:
        await asyncio.sleep(3600)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Uploader, "put_instance", _hang)
        site.receive("1.2.1")
        if state == "closed":
            site.spool.associations.note_end("a1", "released")
        site.run(lambda: count_files(site.spool.root)["delivering"] and (state == "open" or _closed(site)), **options)
        rotten = next(site.spool.delivering.glob("*/*.dcm"))
        rotten.write_bytes(rotten.read_bytes()[:-1] + b"!")
        site.receive("1.2.1", association="a2", calling=calling)
        site.run(lambda: not any(site.spool.scan_received()), **options)
    for association in ("a1", "a2"):
        site.spool.associations.note_end(association, "released")
    site.run(site.is_empty, **options)
    (instance,) = [each for manifest in site.manifests() for each in manifest.instances()]
    assert part10("1.2.1", calling=calling) == (site.objects / instance.key).read_bytes()
    assert 1 == count_files(site.spool.root)["quarantined"]


@pytest.mark.parametrize("is_stored", [True, False])
def test_file_that_rots_after_a_put_of_no_answer_is_asked_for(site: Site, part10: Any, *, is_stored: bool):
    """What the store took, though its answer was lost, is in the manifest as it is there; else it is quarantined."""
    original = Uploader.put_instance

    async def _take(self: Uploader, instance: Any, *arguments: Any) -> None:
        if is_stored:
            await original(self, instance, *arguments)
        raise TimeoutError

    site.receive("1.2.1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Uploader, "put_instance", _take)
        site.run(lambda: list(site.spool.delivering.glob("*/*.dcm")) and len(site.stored_keys()) == is_stored)
    (rotten,) = site.spool.delivering.glob("*/*.dcm")
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"!")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    found = [(site.objects / each.key).read_bytes() for manifest in site.manifests() for each in manifest.instances()]
    assert [part10("1.2.1")] * is_stored == found
    assert (not is_stored) == bool(list(site.spool.quarantined.glob("*.reason")))


def _closed(site: Site) -> list[Path]:
    return list(site.spool.delivering.glob("*/manifest.json"))


def test_locked_ledger_holds_up_no_delivery(site: Site):
    """Somebody who has the ledger, from before the start to the end, delays no instance; it is written afterwards."""
    _deliver(site)
    with contextlib.closing(sqlite3.connect(site.spool.root / LEDGER_FILE)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        damaged = site.receive("1.2.2", association="a2")
        damaged.path.write_bytes(b"")
        _deliver(site, "1.2.3", association="a2")
        _deliver(site, "1.2.1", association="a3")
        assert 3 == len(site.manifests())
    _deliver(site, "1.2.4", association="a4")
    assert {"1.2.1", "1.2.4"} == {entry.sop_instance_uid for entry in site.entries()}


def test_ledger_that_shows_its_damage_while_it_runs_is_filled_again(site: Site, flaky_store: Any):
    """A text that no check of the file finds stops nobody when it is met: what waits is in the new ledger too."""
    for number in range(4):
        site.receive(f"1.2.{number}")
    path = site.spool.root / LEDGER_FILE

    def _spoil() -> bool:
        if not list(path.parent.glob(f"{LEDGER_FILE}.damaged-*")) and 4 == len(site.announced):
            with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE instance SET peer = CAST(x'41FF42' AS TEXT)")
            site.receive("1.2.1", association="a2")
        return bool(list(path.parent.glob(f"{LEDGER_FILE}.damaged-*")))

    site.run(_spoil)
    for association in ("a1", "a2"):
        site.spool.associations.note_end(association, "released")
    site.run(site.is_empty)
    assert 4 <= len(site.entries())
    assert {f"1.2.{number}" for number in range(4)} == {each.sop_instance_uid for each in site.entries()}
    assert all(entry.stored_at for entry in site.entries())


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
