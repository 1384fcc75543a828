"""The deliverer on a real spool and a folder as store: what was acknowledged arrives, once and whole."""

import json
from pathlib import Path
from typing import Any

import obstore
import pytest

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver import gather, instances
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.progress import PROGRESS_FILE
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.spares import Spares
from dicomflow.edge.spool.view import count_files

Site = Any  # conftest's


def test_spares_go_where_space_is_short(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Below `slow_below_bytes` what is kept only to be written over is given up."""
    spare = site.spool.root / "spares" / "1_5000.spare"
    spare.write_bytes(bytes(5000))
    site.spool.spares = Spares(spare.parent, 1 << 20)
    site.run((site.spool.root / PROGRESS_FILE).exists)
    assert spare.exists()
    monkeypatch.setattr("dicomflow.edge.spool.space.free_bytes", lambda _: 0)
    site.run(lambda: not spare.exists())


def test_instances_arrive_with_their_bytes_and_the_manifest_last(site: Site, part10: Any):
    """Every object has the acknowledged bytes, the manifest names them all, and the spool is empty."""
    files = [site.receive(f"1.2.{number}") for number in range(3)]
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert {f"1.2.{number}": files[number].sha256 for number in range(3)} == {
        each.sop_instance_uid: each.sha256 for each in manifest.instances()
    }
    for each in manifest.instances():
        assert part10(each.sop_instance_uid) == (site.objects / each.key).read_bytes()
        assert each.key == f"site-1/{manifest.delivery}/1.2.3/1.2.3.1/{each.sop_instance_uid}.dcm"
    assert ["released"] == [association.ended for association in manifest.associations]
    assert f"manifests/site-1/{manifest.delivery}.json" == site.announced[-1].key
    assert sorted(site.stored_keys()) == sorted(each.key for each in site.announced)


def test_instances_of_one_study_gathered_at_once_cost_one_sync(site: Site, monkeypatch: pytest.MonkeyPatch):
    """The delivery's folder is synced once before all of them are put: senders wait for the same disk."""
    synced: list[list[str]] = []
    sync = site.spool.sync_deliveries

    def _sync(delivery_ids: list[str]) -> None:
        synced.append(delivery_ids)
        sync(delivery_ids)

    monkeypatch.setattr(site.spool, "sync_deliveries", _sync)
    for number in range(20):
        site.receive(f"1.2.{number}")
    site.run(lambda: len(site.announced) == 20)
    assert 1 == len(synced)


def test_open_association_keeps_its_delivery_open(site: Site):
    """Objects are stored while the association goes on; the manifest waits for its end."""
    site.receive("1.2.1")
    site.run(lambda: site.announced)
    assert [] == site.manifests()
    site.spool.associations.note_end("a1", "aborted")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert ["aborted"] == [association.ended for association in manifest.associations]


def test_aborted_association_still_delivers_every_acknowledged_object(site: Site):
    """How an association ended says nothing of what it stored before."""
    for number in range(5):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_lost()
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert (5, "lost") == (len(list(manifest.instances())), manifest.associations[0].ended)


def test_restart_with_an_open_delivery_gives_the_same_keys(site: Site):
    """A deliverer cut off while a delivery was open goes on with it, and later instances join it."""
    site.receive("1.2.1")
    site.run(lambda: site.announced)
    before = site.stored_keys()
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert set(before) < set(site.stored_keys())
    assert 2 == len(list(manifest.instances()))
    assert 3 == len(site.stored_keys())


def test_restart_with_a_closed_delivery_gives_the_same_keys(
    site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any
):
    """Cut off before the manifest was put, the next run puts it for the same delivery, as it was closed."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        flaky_store(patched, lambda key: key.startswith("manifests/"))
        site.run(lambda: list(site.spool.delivering.glob("*/manifest.json")))
    closed = Manifest.from_json(next(site.spool.delivering.glob("*/manifest.json")).read_bytes())
    site.receive("1.2.2", association="a2")
    site.spool.associations.note_end("a2", "released")
    site.run(site.is_empty)
    assert 2 == len(site.manifests())
    assert closed in site.manifests()


@pytest.mark.parametrize("left", ["instances", "manifest"])
def test_cut_off_removal_does_not_change_the_stored_manifest(site: Site, monkeypatch: pytest.MonkeyPatch, left: str):
    """A run that ends while it removes a stored delivery leaves nothing that is delivered again in part."""
    for number in range(3):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    original = Path.unlink
    removed: list[Path] = []
    failed: list[Path] = []

    def _unlink(path: Path, *arguments: Any, **keywords: Any) -> None:
        if path.is_relative_to(site.spool.delivering) and path.suffix != ".tmp":  # of a note: nothing is removed yet
            if removed or (path.suffix == ".json") == (left == "manifest"):
                failed.append(path)
                raise OSError(5, "the power is off")
            removed.append(path)
        original(path, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", _unlink)
        site.run(lambda: failed)
    (before,) = site.manifests()
    site.run(site.is_empty)
    assert [before] == site.manifests()
    assert 3 == len(list(before.instances()))


def test_damaged_file_is_quarantined_and_blocks_nobody(site: Site):
    """A spooled file whose bytes changed is set aside with its reason; the delivery goes on without it."""
    damaged = site.receive("1.2.1")
    site.receive("1.2.2")
    damaged.path.write_bytes(damaged.path.read_bytes()[:-1] + b"!")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert ["1.2.2"] == [each.sop_instance_uid for each in manifest.instances()]
    (reason,) = site.spool.quarantined.glob("*.reason")
    assert "SHA-256 of the spooled file is" in reason.read_text()
    assert 1 == count_files(site.spool.root)["quarantined"]


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", b"\0" * 128 + b"DICM" + b"\xff" * 50])
def test_unreadable_file_is_quarantined_and_blocks_nobody(site: Site, content: bytes):
    """A file that is named like an instance and is none goes to quarantine, and others are delivered."""
    site.receive("1.2.1").path.write_bytes(content)
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert ["1.2.2"] == [each.sop_instance_uid for each in site.manifests()[0].instances()]
    assert 1 == count_files(site.spool.root)["quarantined"]


def test_delivery_whose_only_file_is_damaged_leaves_no_manifest(site: Site):
    """When nothing of a delivery can be stored there is no manifest of it, and the deliverer goes on."""
    damaged = site.receive("1.2.1")
    damaged.path.write_bytes(damaged.path.read_bytes() + b"!")
    site.run(lambda: count_files(site.spool.root)["quarantined"])
    site.spool.associations.note_end("a1", "released")
    site.receive("1.9.1", association="a2", study_instance_uid="1.9")
    site.spool.associations.note_end("a2", "released")
    site.run(site.is_empty)
    assert ["1.9"] == [each.studies[0].study_instance_uid for each in site.manifests()]


def test_vanished_file_is_noted_and_blocks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch):
    """An acknowledged file that somebody removed is shown with a reason instead of being waited for."""
    site.receive("1.2.1")
    original = Uploader.put_instance

    async def _gone(uploader: Uploader, instance: Any, *rest: Any) -> None:
        if instance.sop_instance_uid == "1.2.1":
            instance.file.path.unlink(missing_ok=True)
        await original(uploader, instance, *rest)

    monkeypatch.setattr(Uploader, "put_instance", _gone)
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert ["1.2.2"] == [each.sop_instance_uid for each in site.manifests()[0].instances()]
    (reason,) = site.spool.quarantined.glob("*.reason")
    assert "the spooled file is gone" == reason.read_text()


def test_unreadable_note_of_a_closed_delivery_is_written_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any
):
    """A manifest note that cannot be read does not stop the deliverer: the delivery is closed again."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        flaky_store(patched, lambda key: key.startswith("manifests/"))
        site.run(lambda: list(site.spool.delivering.glob("*/manifest.json")))
    next(site.spool.delivering.glob("*/manifest.json")).write_bytes(b"{}")
    site.run(site.is_empty)
    assert 1 == len(list(site.manifests()[0].instances()))


def test_identical_resend_within_a_delivery_is_stored_once(site: Site):
    """The same bytes again give one object and one entry of the manifest, and nothing stays in the spool."""
    site.receive("1.2.1")
    site.run(lambda: site.announced)
    site.receive("1.2.1", association="a2")
    site.spool.associations.note_lost()
    site.run(site.is_empty)
    assert 1 == len(list(site.manifests()[0].instances()))
    assert 2 == len(site.stored_keys())


def test_other_bytes_under_one_uid_are_both_stored(site: Site, part10: Any):
    """Two versions of one SOP instance end in two deliveries under two keys."""
    site.receive("1.2.1", pixels=b"first ")
    site.receive("1.2.1", pixels=b"second")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    stored = [(site.objects / each.key).read_bytes() for m in site.manifests() for each in m.instances()]
    assert {part10("1.2.1", pixels=b"first "), part10("1.2.1", pixels=b"second")} == set(stored)
    assert 2 == len(site.manifests())


def test_two_sources_with_one_uid_do_not_overwrite_each_other(site: Site, site_with: Any, part10: Any, tmp_path: Path):
    """One SOP Instance UID at two edges of one store, and of two devices at one edge, is an object for each."""
    other = site_with("site-2", Spool(tmp_path / "spool-2"))
    contents = {"first ": site, "second": site, "third ": other}
    for number, (pixels, at) in enumerate(contents.items()):
        at.receive("1.2.1", association=f"a{number}", calling=f"CT{number}", pixels=pixels.encode())
        at.spool.associations.note_end(f"a{number}", "released")
    for each in (site, other):
        each.run(each.is_empty)
    wanted = {part10("1.2.1", calling=f"CT{n}", pixels=pixels.encode()) for n, pixels in enumerate(contents)}
    keys = [key for key in site.stored_keys() if key.endswith("/1.2.1.dcm")]
    assert wanted == {(site.objects / key).read_bytes() for key in keys}
    assert 3 == len(keys) == len(site.manifests())


def test_failed_upload_keeps_the_file_and_is_repeated(site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any):
    """While the store fails every file stays; when it works again each object is stored under its first key."""
    for number in range(5):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        store = flaky_store(patched, lambda _key: True)
        site.run(lambda: len(store.puts) > 20)
    assert 5 == len(list(site.spool.delivering.glob("*/*.dcm")))
    assert [] == site.stored_keys()
    site.run(site.is_empty)
    assert set(store.puts) == {key for key in site.stored_keys() if key.endswith(".dcm")}


def test_manifest_is_put_after_its_last_object(site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any):
    """With one object failing again and again, the manifest waits for it while other studies go on."""
    site.receive("1.2.1")
    site.receive("1.2.2")
    site.receive("1.9.1", study_instance_uid="1.9")
    site.spool.associations.note_end("a1", "released")
    store = flaky_store(monkeypatch, lambda key: key.endswith("/1.2.1.dcm") and len(store.puts) < 9)
    site.run(site.is_empty)
    of_study = [key for key in store.puts if "/1.2.3/" in key or key.startswith("manifests/")]
    assert of_study[-1].startswith("manifests/")
    assert 2 == sum(key.startswith("manifests/") for key in store.puts)
    first_manifest = next(n for n, key in enumerate(store.puts) if key.startswith("manifests/"))
    assert any(key.endswith("/1.2.1.dcm") for key in store.puts[first_manifest:])


def test_lost_manifest_is_put_again(site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any):
    """A manifest whose put fails is put again until it is there; only then the files go."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        store = flaky_store(patched, lambda key: key.startswith("manifests/"))
        site.run(lambda: sum(key.startswith("manifests/") for key in store.puts) > 3)
    assert 1 == len(list(site.spool.delivering.glob("*/*.dcm")))
    site.run(site.is_empty)
    assert 1 == len(site.manifests())


def test_file_is_removed_only_after_a_verified_put(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A put that leaves a shorter object is no success: the file stays and is put again."""
    original, cut, kept = obstore.put_async, [True], []

    async def _put(store: Any, key: str, content: Any, **keywords: Any) -> Any:
        if cut and key.endswith(".dcm"):
            cut.clear()
            content = content[:-1]
        elif key.endswith(".dcm"):
            kept.append(len(list(site.spool.delivering.glob("*/*.dcm"))))
        return await original(store, key, content, **keywords)

    monkeypatch.setattr(obstore, "put_async", _put)
    file = site.receive("1.2.1")
    size = file.path.stat().st_size
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (instance,) = site.manifests()[0].instances()
    assert (size, size) == (instance.bytes, (site.objects / instance.key).stat().st_size)
    assert [1] == kept


def test_failed_uploads_are_cleaned_up_after_success(site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any):
    """What failed at first and is stored now leaves neither files nor notes in the spool."""
    for number in range(4):
        site.receive(f"1.2.{number}")
    site.spool.associations.note_end("a1", "released")
    store = flaky_store(monkeypatch, lambda _key: len(store.puts) < 12)
    site.run(site.is_empty)
    folders = (site.spool.received, site.spool.delivering, site.spool.quarantined)
    assert [] == [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert 5 == len(site.stored_keys())


def test_foreign_files_in_the_spool_are_left_alone(site: Site):
    """Files and folders of others, wherever they lie, are neither delivered nor removed, and stop nothing."""
    foreign = [site.spool.received / "notes.txt", site.spool.delivering / ".DS_Store"]
    foreign.append(site.spool.delivering / "somebody" / "image.dcm")
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not ours")
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    site.run(lambda: site.manifests() and 1 == len(list(site.spool.delivering.glob("*/*"))))
    assert ["not ours"] * 3 == [path.read_text() for path in foreign]


def test_notes_of_associations_go_when_nobody_needs_them(site: Site, monkeypatch: pytest.MonkeyPatch):
    """The note of an ended association is kept until its delivery is closed, then forgotten."""
    monkeypatch.setattr("dicomflow.edge.deliver.closing._FORGET_AFTER_SECONDS", -60.0)
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    site.spool.associations.note_open("a2")
    site.run(lambda: site.spool.associations.read_states() == {"a2": "open"})
    site.run(site.is_empty)
    assert "released" == site.manifests()[0].associations[0].ended


def test_closed_delivery_of_many_instances_has_them_all(site: Site):
    """More instances than a batch holds are one delivery, each stored once."""
    for number in range(520):
        site.receive(f"1.2.{number}", pixels=b"x")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    (manifest,) = site.manifests()
    assert 520 == len(list(manifest.instances()))
    assert json.loads(manifest.to_json())["edge"] == "site-1"


def test_limits_close_deliveries_while_more_arrives_than_is_gathered(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A receiver may be faster than the deliverer for hours; quiet closes none then, since more may be waiting."""
    monkeypatch.setattr(gather, "_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(site.spool, "unpack", lambda _: True)
    site.receive("1.2.1")
    site.receive("1.3.1", study_instance_uid="1.3")
    site.receive("1.3.2", study_instance_uid="1.3")
    site.spool.associations.note_end("a1", "released")
    site.run(site.manifests, max_files=2)
    (manifest,) = site.manifests()
    assert {"1.3.1", "1.3.2"} == {each.sop_instance_uid for each in manifest.instances()}


def test_head_that_takes_long_to_read_holds_up_nothing_else(site: Any, monkeypatch: pytest.MonkeyPatch, until: Any):
    """It is read in a thread: puts, limits and the heartbeat have their turns meanwhile."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    turns = 0
    original = instances.read_instance

    def read_slowly(file: Any) -> Any:
        before = turns
        until(lambda: turns > before + 2)
        return original(file)

    def is_done() -> Any:
        nonlocal turns
        turns += 1
        return site.manifests()

    monkeypatch.setattr(instances, "read_instance", read_slowly)
    site.run(is_done)
    assert 1 == len(site.manifests())
