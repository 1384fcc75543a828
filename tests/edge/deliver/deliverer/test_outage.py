"""Outages, restarts and orders: what comes first, what is not put twice, and what changes while it runs."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore
from waiting import least_seconds

from dicomflow.bucket.feedback import Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.progress import read_progress
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SettingsFile, SpoolSettings
from dicomflow.edge.spool.view import count_files
from dicomflow.edge.stores import build_store

Site = Any  # conftest's


def _studies(puts: list[str]) -> list[str]:
    return [key.split("/")[2] for key in puts if key.endswith(".dcm")]


def _receive_at(site: Site, sop: str, at: float, **fields: Any) -> None:
    file = site.receive(sop, **fields)
    os.utime(file.path, (at, at))


def test_oldest_study_goes_first_after_an_outage(site: Site, flaky_store: Any, monkeypatch: pytest.MonkeyPatch):
    """What waited in any folder is put in the order it was received, whatever order the file system gives it in."""
    ages = {"1.5": 300, "1.1": 100, "1.9": 500, "1.3": 200, "1.7": 400}
    now = time.time()
    for study, age in ages.items():
        _receive_at(site, f"{study}.1.1", now - age, study_instance_uid=study)
    store = flaky_store(monkeypatch, lambda _key: False)
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty, concurrency=1)
    assert ["1.9", "1.7", "1.5", "1.3", "1.1"] == _studies(store.puts)


def test_oldest_study_goes_first_after_a_restart(site: Site, flaky_store: Any):
    """Deliveries of an earlier run keep their order among themselves and before what is new."""
    now = time.time()
    for study, age in {"1.5": 300, "1.9": 500, "1.7": 400}.items():
        _receive_at(site, f"{study}.1.1", now - age, study_instance_uid=study)
    with pytest.MonkeyPatch.context() as patched:
        flaky_store(patched, lambda _key: True)
        site.run(lambda: 3 == len(list(site.spool.delivering.glob("*/*.dcm"))))
    site.receive("1.6.1.1", study_instance_uid="1.6")
    site.spool.associations.note_end("a1", "released")
    with pytest.MonkeyPatch.context() as patched:
        store = flaky_store(patched, lambda _key: False)
        site.run(site.is_empty, concurrency=1)
    assert ["1.9", "1.7", "1.5", "1.6"] == _studies(store.puts)


@pytest.mark.parametrize(("rank", "expected"), [(5, ["1.8", "1.9"]), (-5, ["1.9", "1.8"])])
def test_rank_goes_before_age(
    site: Site, flaky_store: Any, monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[str]
):
    """A calling AE title with a rank above none goes before older studies, and one below none after younger ones."""
    is_first = rank > 0
    now = time.time()
    _receive_at(site, "1.9.1.1", now - (500 if is_first else 10), study_instance_uid="1.9")
    _receive_at(site, "1.8.1.1", now - (10 if is_first else 500), study_instance_uid="1.8", calling="STAT")
    store = flaky_store(monkeypatch, lambda _key: False)
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty, concurrency=1, priorities=({"calling_ae_title": "STAT", "rank": rank},))
    assert expected == _studies(store.puts)


def test_restart_does_not_put_again_what_the_store_confirms(site: Site, flaky_store: Any):
    """Objects that the ledger and the store both have are left alone; one that the store lost is put again."""
    for number in range(4):
        site.receive(f"1.2.{number}")
    site.run(lambda: site.has_noted(4))
    next(site.objects.rglob("1.2.2.dcm")).unlink()
    site.spool.associations.note_end("a1", "released")
    with pytest.MonkeyPatch.context() as patched:
        store = flaky_store(patched, lambda _key: False)
        site.run(site.is_empty)
    assert ["1.2.2.dcm"] == [key.rpartition("/")[2] for key in store.puts if key.endswith(".dcm")]
    assert 5 == len(site.stored_keys())


def test_object_cut_by_power_loss_is_put_again(site: Site):
    """A folder that lost the end of an object between its put and the manifest gets it whole."""
    file = site.receive("1.2.1")
    content = file.path.read_bytes()
    site.run(lambda: site.announced)
    stored = next(site.objects.rglob("1.2.1.dcm"))
    stored.write_bytes(content[:-1])
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert content == stored.read_bytes()


def test_permanent_error_goes_to_quarantine_and_blocks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch):
    """An object that the store will never take is set aside with the store's reason, and its delivery is completed."""
    original = obstore.put_async

    async def _put(store: Any, key: str, *arguments: Any, **keywords: Any) -> Any:
        if key.endswith("/1.2.1.dcm"):
            raise obstore.exceptions.GenericError("<Error><Code>EntityTooLarge</Code></Error>")
        return await original(store, key, *arguments, **keywords)

    monkeypatch.setattr(obstore, "put_async", _put)
    for number in range(3):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert {"1.2.0", "1.2.2"} == {each.sop_instance_uid for each in site.manifests()[0].instances()}
    (entry,) = [entry for entry in site.entries() if entry.problem]
    assert ("1.2.1", "the store refuses the object: EntityTooLarge") == (entry.sop_instance_uid, entry.problem)


def test_objects_that_the_store_always_fails_hold_back_no_other_study(
    site: Site, flaky_store: Any, monkeypatch: pytest.MonkeyPatch
):
    """However many old objects fail at every try, the studies behind them arrive."""
    now = time.time()
    for number in range(6):
        _receive_at(site, f"1.1.{number}", now - 900, study_instance_uid="1.1")
    for number in range(15):
        site.receive(f"1.9.{number}", study_instance_uid="1.9")
    site.spool.associations.note_end("a1", "released")
    flaky_store(monkeypatch, lambda key: "/1.1/" in key)
    site.run(
        lambda: 6 == count_files(site.spool.root)["delivering"] and not any(site.spool.scan_received()), concurrency=2
    )
    assert ["1.9"] == [each.studies[0].study_instance_uid for each in site.manifests()]


def test_cancelled_deliverer_leaves_promptly_and_keeps_what_it_stored(site: Site):
    """Told to end while its workers wait, it ends within seconds, and its ledger knows what is stored."""
    site.receive("1.2.1")
    site.run(lambda: site.has_noted(1))
    assert least_seconds(lambda: site.run(lambda: True), 5) < 5
    assert [True] == [entry.stored_at is not None for entry in site.entries()]


def test_full_volume_for_the_ledger_holds_up_no_delivery(site: Site, monkeypatch: pytest.MonkeyPatch):
    """While the ledger cannot be written instances are stored all the same; it is written when it can be."""
    import sqlite3

    from dicomflow.edge.ledger import Ledger

    original, fails = Ledger.record_received, [True]

    def _record(ledger: Ledger, entries: Any) -> None:
        if fails:
            raise sqlite3.OperationalError("database or disk is full")
        original(ledger, entries)

    monkeypatch.setattr(Ledger, "record_received", _record)
    site.receive("1.2.1")
    site.run(lambda: site.announced and (fails.clear() or site.entries()))
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert [("1.2.1", True)] == [(entry.sop_instance_uid, entry.stored_at is not None) for entry in site.entries()]


def test_changed_settings_file_is_in_force_within_a_second(site: Site, tmp_path: Path):
    """A limit that holds everything back is lifted in the file, and what waited goes at once.

    The best of some tries is judged: what a busy machine adds is not in all of them.
    """
    for number in range(5):
        seconds = _seconds_from_change_to_delivery(site, tmp_path, f"1.2.{number}")
        if seconds < 1.5:
            break
    assert seconds < 1.5


def _seconds_from_change_to_delivery(site: Site, tmp_path: Path, study: str) -> float:
    path = tmp_path / "edge.toml"

    def _write(limit: int) -> None:
        path.write_text(
            f'name = "site-1"\n[spool]\ndir = "{site.spool.root}"\n[delivery]\nstore_url = "file:///unused"\n'
            f"quiet_seconds = 0\nmax_bytes_per_second = {limit}\n"
        )

    _write(10)
    for number in range(5):
        site.receive(f"{study}.{number}", association=f"of-{study[-1]}", study_instance_uid=study)
    site.spool.associations.note_end(f"of-{study[-1]}", "released")
    before = len(site.announced)
    changed_at: list[float] = []

    def _lift_when_held() -> bool:
        announced = len(site.announced) - before
        if not changed_at and announced and not any(site.spool.scan_received()):
            assert 1 == announced
            _write(0)
            changed_at.append(time.monotonic())
        return announced >= 5

    settings = EdgeSettings(
        name="site-1",
        spool=SpoolSettings(dir=site.spool.root),
        delivery=DeliverySettings(store_url="file:///unused", quiet_seconds=0, max_bytes_per_second=10),
    )
    site.run(_lift_when_held, reload=SettingsFile(path, settings).read, max_bytes_per_second=10)
    seconds = time.monotonic() - changed_at[0]
    site.run(site.is_empty)
    return seconds


def test_feedback_of_the_pipeline_is_kept_in_the_ledger(site: Site, monkeypatch: pytest.MonkeyPatch):
    """What the pipeline says is imported has its time in the ledger, without a restart."""
    monkeypatch.setattr("dicomflow.edge.deliver.deliverer._FEEDBACK_SECONDS", {False: 0.05, True: 0.05})
    for number in range(2):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    keys = [each.key for each in manifest.instances()]
    settled_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    feedback = Feedback("site-1", manifest.delivery, settled_at, (keys[0],), ())
    obstore.put(LocalStore(site.objects), feedback_key("site-1", manifest.delivery), feedback.to_json())
    site.run(lambda: any(entry.imported_at for entry in site.entries()))
    assert {keys[0]: settled_at.isoformat(), keys[1]: None} == {
        entry.object_key: entry.imported_at for entry in site.entries()
    }


@pytest.mark.parametrize("is_at_start", [True, False])
def test_store_folder_that_is_away_ends_no_deliverer(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any, *, is_at_start: bool
):
    """With a file in the folder's place, at the start or later, it gathers, says so, and stores all when it is back."""
    monkeypatch.setattr("dicomflow.edge.deliver.deliverer._OPEN_SECONDS", 0.0)
    monkeypatch.setattr("dicomflow.edge.progress._WRITE_SECONDS", 0.02)
    caplog.set_level("INFO")
    settings = DeliverySettings(store_url=site.objects.as_uri())
    site.uploader_with = lambda: Uploader(lambda: build_store(settings), site.objects)
    away = site.objects.with_name("away")

    def _take_away() -> None:
        site.objects.mkdir(exist_ok=True)
        site.objects.rename(away)
        site.objects.write_text("in the folder's place")

    def _run() -> bool:
        """Let the store be away once the first is stored, until both are gathered and the failure is told."""
        if len(site.announced) == 1 and not away.exists() and not received:
            _take_away()
            received.append(site.receive("1.2.2"))
        told = read_progress(site.spool.root) or {}
        is_told = told.get("store") == "failing" and told["last_error"]
        if away.exists() and is_told and len(list(site.spool.delivering.glob("*/*.dcm"))) == 2:
            site.objects.unlink()
            away.rename(site.objects)
            site.spool.associations.note_end("a1", "released")
        return site.is_empty()

    site.receive("1.2.1")
    received: list[Any] = []
    if is_at_start:
        _take_away()
        received.append(site.receive("1.2.2"))
    site.run(_run)
    assert {"1.2.1", "1.2.2"} == {each.sop_instance_uid for each in site.manifests()[0].instances()}
    assert int(is_at_start) == caplog.text.count("store_not_opened")


def test_start_with_the_store_away_gathers_at_once(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A start that cannot ask the store what it has already goes on with what is received."""
    for number in range(20):
        site.receive(f"1.2.{number}")
    site.run(lambda: len(site.announced) == 20)

    async def _hang(*_arguments: Any, **_keywords: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(obstore, "head_async", _hang)
    site.receive("1.9.1", study_instance_uid="1.9")
    site.run(lambda: not any(site.spool.scan_received()))
    assert 21 == count_files(site.spool.root)["delivering"]
