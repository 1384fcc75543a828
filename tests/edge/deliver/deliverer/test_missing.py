"""A file that is gone when the edge starts, of an acknowledged image: it is stored all the same, or told."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dicomflow.dicom.references import Reference
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.requests import CommitmentRequest, make_report
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.edge.spool.view import count_files, quarantined_files

Site = Any  # conftest's
GONE = "the spooled file is gone"


def _files(site: Site) -> list[Path]:
    return sorted(site.spool.delivering.glob("*/*.dcm"))


def _end(site: Site, until: Any = None) -> None:
    for association in site.spool.associations.read_states():
        site.spool.associations.note_end(association, "released")
    site.run(until or site.is_empty)


def _stored(site: Site) -> list[str]:
    return sorted(each.sop_instance_uid for manifest in site.manifests() for each in manifest.instances())


def _problems(site: Site) -> dict[str, str | None]:
    return {each.sop_instance_uid: each.problem for each in site.entries()}


def _told(site: Site) -> list[str]:
    return [reason for _, reason in quarantined_files(site.spool.root)]


def test_file_that_goes_between_two_runs_is_told(left_behind: Site, caplog: Any):
    """The others are delivered; the one is in the list, counted, in the log and in the ledger, and no commitment."""
    site = left_behind
    _files(site)[1].unlink()
    _end(site)
    assert ["1.2.1"] == _stored(site)
    assert [GONE] == _told(site)
    assert 1 == count_files(site.spool.root)["quarantined"]
    assert {"1.2.1": None, "1.2.2": GONE} == _problems(site)
    assert "instance_missing delivery=" in caplog.text
    ledger = Ledger(site.spool.root / LEDGER_FILE, read_only=True)
    (entry,) = ledger.find("1.2.2")
    lost = Reference(entry.sop_class_uid, "1.2.2")
    report = make_report(
        CommitmentRequest("1.9", "A", "B", (lost,), requested_at=0.0), ledger, CommitmentSettings(), 1e9, None, 1e9
    )
    ledger.close()
    assert report is not None
    assert ((lost, int(Status.PROCESSING_FAILURE)),) == report.failed


@pytest.mark.parametrize("what", ["files", "folder"])
def test_delivery_whose_files_are_all_gone_is_told(left_behind: Site, what: str):
    """With the note in the folder or with no folder any more: each instance is told, and nothing is put."""
    site = left_behind
    (folder,) = site.spool.delivering.iterdir()
    if what == "folder":
        shutil.rmtree(folder)
    for path in _files(site):
        path.unlink()
    _end(site, lambda: len(_told(site)) == 2 and site.is_empty())
    assert [GONE, GONE] == _told(site)
    assert [] == site.manifests()
    site.run(lambda: set(_problems(site).values()) == {GONE})


@pytest.mark.parametrize("left_behind", [True], indirect=True, ids=["closed"])
def test_note_alone_tells_what_is_gone(left_behind: Site):
    """The ledger is a memory that may be lost: the manifest in the folder says what was received too."""
    site = left_behind
    for path in site.spool.root.glob("ledger.db*"):
        path.unlink()
    _files(site)[0].unlink()
    _end(site)
    assert ["1.2.2"] == _stored(site)
    assert [GONE] == _told(site)
    assert {"1.2.1": GONE, "1.2.2": None} == _problems(site)
    ((path, _),) = quarantined_files(site.spool.root)
    assert path.name.startswith("a1_00000000_10.0.0.1_")


def test_sent_again_what_was_gone_is_stored(left_behind: Site):
    """Nothing takes the lost file for a copy."""
    site = left_behind
    _files(site)[1].unlink()
    site.receive("1.2.2", association="a2")
    _end(site)
    assert ["1.2.1", "1.2.2"] == _stored(site)


def test_lost_file_of_a_stored_object_is_named_by_the_manifest(
    site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any
):
    """What was put before its file went is found: the store is asked, not the folder, and nothing is told."""
    site.receive("1.2.1")
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        flaky_store(patched, lambda key: key.startswith("manifests/"))
        site.run(lambda: len(site.stored_keys()) == 2 and list(site.spool.delivering.glob("*/manifest.json")))
    for path in _files(site):
        path.unlink()
    site.run(site.is_empty)
    assert ["1.2.1", "1.2.2"] == _stored(site)
    assert [] == _told(site)


def test_store_that_is_away_is_waited_for_before_a_file_is_told_as_gone(
    left_behind: Site, monkeypatch: pytest.MonkeyPatch
):
    """It may have the object; while it says nothing nobody knows."""
    site = left_behind
    folder = site.objects / "site-1"
    assert not folder.exists()
    _files(site)[1].unlink()
    asked: list[str] = []

    async def _away(_store: Any, key: str) -> Any:
        asked.append(key)
        raise OSError(104, "connection reset")

    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        patched.setattr("obstore.head_async", _away)
        site.run(lambda: len(asked) > 2)
        assert [] == _told(site)
    site.run(site.is_empty)
    assert [GONE] == _told(site)


def test_delivery_that_only_the_ledger_takes_for_waiting_keeps_its_manifest(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    """A run that ended before the ledger was written has stored it all: nothing is told, and nothing put again."""
    site.receive("1.2.1")
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "note_stored", lambda *_: None)
        site.run(site.is_empty)
    before = {key: (site.objects / key).stat().st_mtime_ns for key in site.stored_keys()}
    site.run(lambda: all(each.stored_at for each in site.entries()))
    assert before == {key: (site.objects / key).stat().st_mtime_ns for key in site.stored_keys()}
    assert [] == _told(site)


def test_file_that_lies_elsewhere_in_the_spool_is_not_told_as_gone(left_behind: Site):
    """Somebody has moved it back to be received: it is delivered from there."""
    site = left_behind
    path = _files(site)[1]
    path.rename(site.spool.unpacked / path.name)
    _end(site)
    assert ["1.2.1", "1.2.2"] == _stored(site)
    assert [] == _told(site)
    assert [None, None] == [each.problem for each in site.entries()]


def test_reason_in_quarantine_is_the_one_that_is_told(left_behind: Site):
    """A run that ended between quarantine and ledger: the file is not gone, and its reason stays."""
    site = left_behind
    file = next(each for each in site.spool.scan_delivery(_files(site)[0].parent.name) if each.number == 1)
    site.spool.quarantine(file, "some reason")
    _end(site)
    assert ["some reason"] == _told(site)
    assert {"1.2.1": None, "1.2.2": "some reason"} == _problems(site)


@pytest.mark.parametrize("kind", ["extra", "no note"])
def test_image_in_what_is_left_of_a_stored_delivery_is_not_dropped(left_behind: Site, kind: str):
    """Only what the note names is stored for sure: any other is received again before the folder goes."""
    site = left_behind
    (folder,) = site.spool.delivering.iterdir()
    other = site.receive("1.2.9", association="a2").path
    other.rename(folder / other.name)
    if kind == "no note":
        (folder / "manifest.json").unlink(missing_ok=True)
    folder.rename(folder.with_name(f"{folder.name}.stored"))
    _end(site, lambda: "1.2.9" in _stored(site) and site.is_empty())
    assert not list(site.spool.delivering.iterdir())


@pytest.mark.parametrize("left_behind", [True], indirect=True, ids=["closed"])
def test_damaged_note_leads_nowhere_else(left_behind: Site):
    """Names and digests that are none of ours make no file outside of the spool, and stop nothing."""
    site = left_behind
    (folder,) = site.spool.delivering.iterdir()
    note = folder / "manifest.json"
    text = note.read_text()
    note.write_text(text.replace('"association_id":"a1"', '"association_id":"../../../a/b_c"'))
    _files(site)[1].unlink()
    for path in site.spool.root.glob("ledger.db*"):
        path.unlink()
    _end(site)
    assert ["1.2.1"] == _stored(site)
    ((path, reason),) = quarantined_files(site.spool.root)
    assert (GONE, site.spool.quarantined) == (reason, path.parent)
