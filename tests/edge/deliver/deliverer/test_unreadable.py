"""What the disk does not give, or is not ours: a bad page is quarantine, what may pass comes again, nothing waits."""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver import instances as gather
from dicomflow.edge.deliver import resent, uploader
from dicomflow.edge.progress import read_progress
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.view import look

Site = Any  # conftest's


def _fail(number: int = errno.EIO) -> Any:
    raise OSError(number, os.strerror(number))


def test_file_with_a_bad_page_stops_no_other(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """It is quarantined with its reason, and the others are stored; sent again, it is stored too."""
    bad = site.receive("1.2.1")
    site.receive("1.2.2")
    site.spool.associations.note_end("a1", "released")
    original = gather.read_instance
    monkeypatch.setattr(gather, "read_instance", lambda file: _fail() if file == bad else original(file))
    site.run(site.manifests)
    (manifest,) = site.manifests()
    assert ["1.2.2"] == [each.sop_instance_uid for each in manifest.instances()]
    ((file, reason),) = site.spool.scan_quarantined()
    assert (bad.path.name, "the disk does not give its bytes") == (file.path.name, reason)
    assert f"file_not_read file={bad.path.name}" in caplog.text
    site.receive("1.2.1", association="a2")
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: len(site.manifests()) == 2)


def test_delivery_whose_file_has_a_bad_page_at_the_start_goes_on_without_it(
    left_behind: Site, monkeypatch: pytest.MonkeyPatch
):
    """The file is in quarantine, not gone with the delivery's folder; sent again, it is stored."""
    site = left_behind
    original = gather.read_instance
    with monkeypatch.context() as patched:
        patched.setattr(gather, "read_instance", lambda file: _fail() if file.number == 1 else original(file))
        site.spool.associations.note_end("a1", "released")
        site.run(lambda: site.manifests() and not list(site.spool.delivering.iterdir()))
        site.receive("1.2.2", association="a2")
        site.spool.associations.note_end("a2", "released")
        site.run(lambda: len(site.manifests()) == 2)
    assert [1] == [file.number for file, _ in site.spool.scan_quarantined()]
    assert ["1.2.1", "1.2.2"] == sorted(
        each.sop_instance_uid for manifest in site.manifests() for each in manifest.instances()
    )


def test_failure_that_may_pass_leaves_nothing_out(left_behind: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """The delivery is set aside, others go on, and it is taken up whole when it can be read."""
    site = left_behind
    original = gather.read_instance
    fails = [True]

    def _read(file: Any) -> Any:
        return _fail(errno.EMFILE) if fails and file.number == 1 else original(file)

    monkeypatch.setattr(gather, "read_instance", _read)
    monkeypatch.setattr("dicomflow.edge.spool.setaside._FIRST_PAUSE_SECONDS", 0.01)
    site.spool.aside = SetAside()
    site.spool.associations.note_end("a1", "released")
    site.receive("1.9.1", association="a2", study_instance_uid="1.9")
    site.spool.associations.note_end("a2", "released")

    def _is_over() -> bool:
        if fails and site.manifests():
            assert ["1.9.1"] == [each.sop_instance_uid for each in site.manifests()[0].instances()]
            assert 1 == read_progress(site.spool.root)["set_aside"]
            fails.clear()
        return bool(site.is_empty())

    site.run(_is_over)
    assert [1, 2] == sorted(len(list(each.instances())) for each in site.manifests())
    assert "reason=Too many open files" in caplog.text


def _progress(site: Site) -> dict[str, Any]:
    return read_progress(site.spool.root) or {}


def _stored(site: Site) -> list[list[str]]:
    return sorted(sorted(each.sop_instance_uid for each in manifest.instances()) for manifest in site.manifests())


def test_file_of_another_user_is_left_out_at_the_start_and_follows(left_behind: Site, monkeypatch: pytest.MonkeyPatch):
    """Its neighbours and their manifest are put; it is set aside, shown and tried until it can be read."""
    site = left_behind
    original = gather.read_instance
    fails = [True]

    def _read(file: Any) -> Any:
        return _fail(errno.EACCES) if fails and file.number == 1 else original(file)

    monkeypatch.setattr(gather, "read_instance", _read)
    monkeypatch.setattr("dicomflow.edge.spool.setaside._FIRST_PAUSE_SECONDS", 0.01)
    site.spool.associations.note_end("a1", "released")

    def _is_told() -> bool:
        return bool(site.manifests()) and _progress(site).get("set_aside") == 1

    site.run(_is_told)
    assert [["1.2.1"]] == _stored(site)
    ((path, reason),) = _progress(site)["set_aside_reasons"].items()
    assert ("Permission denied", site.spool.unpacked) == (reason, Path(path).parent)
    problems = {each.sop_instance_uid: each.problem for each in site.entries()}
    assert (None, "its file cannot be read, and is tried again: Permission denied") == tuple(problems.values())
    fails.clear()
    site.run(site.is_empty)
    assert [["1.2.1"], ["1.2.2"]] == _stored(site)
    assert [None, None] == [each.problem for each in site.entries()]


def test_file_of_another_user_is_left_out_while_the_edge_runs_and_follows(site: Site, monkeypatch: pytest.MonkeyPatch):
    """What can be read no more when it is put delays no manifest: it is set aside, and follows in its own delivery."""
    original = uploader.open_regular
    original_head = gather.open_regular
    fails = [True]
    site.receive("1.2.1")
    bad = site.receive("1.2.2").path.name

    def _open(path: Path, *arguments: Any, **keywords: Any) -> Any:
        return _fail(errno.EACCES) if fails and path.name == bad else original(path, *arguments, **keywords)

    def _open_again(path: Path, *arguments: Any, **keywords: Any) -> Any:
        is_bad = fails and path.name == bad and site.manifests()
        return _fail(errno.EACCES) if is_bad else original_head(path, *arguments, **keywords)

    monkeypatch.setattr(uploader, "open_regular", _open)
    monkeypatch.setattr(gather, "open_regular", _open_again)
    monkeypatch.setattr("dicomflow.edge.spool.setaside._FIRST_PAUSE_SECONDS", 0.01)
    site.spool.associations.note_end("a1", "released")

    def _is_over() -> bool:
        if fails and site.manifests() and _progress(site).get("set_aside") == 1:
            assert [["1.2.1"]] == _stored(site)
            fails.clear()
        return not fails and bool(site.is_empty())

    site.run(_is_over)
    assert [["1.2.1"], ["1.2.2"]] == _stored(site)
    assert [None, None] == [each.problem for each in site.entries()]


def test_bad_page_behind_the_head_is_quarantined(site: Site, monkeypatch: pytest.MonkeyPatch):
    """It is met when the file is put: the disk will not give it however often it is asked."""
    original = uploader.open_regular
    site.receive("1.2.1")
    bad = site.receive("1.2.2").path.name
    monkeypatch.setattr(uploader, "open_regular", lambda path: _fail() if path.name == bad else original(path))
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    assert [["1.2.1"]] == _stored(site)
    ((file, reason),) = site.spool.scan_quarantined()
    assert (bad, "the disk does not give its bytes") == (file.path.name, reason)


MANIFESTS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "another JSON": b"[[]]",
    "another delivery's": Manifest("site-1", "other", datetime.now(UTC), datetime.now(UTC), (), ()).to_json(),
    "another edge's": Manifest("site-2", "{id}", datetime.now(UTC), datetime.now(UTC), (), ()).to_json(),
    "one without its instances": Manifest("site-1", "{id}", datetime.now(UTC), datetime.now(UTC), (), ()).to_json(),
    "a folder": None,
    "bad page": errno.EIO,
    "another user's": errno.EACCES,
}


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("left_behind", [True], indirect=True, ids=["closed"])
def test_manifest_that_cannot_be_read_is_made_anew(
    left_behind: Site, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: Any
):
    """Whatever is in its place, the delivery is stored with all its instances, and no other waits."""
    site = left_behind
    (path,) = site.spool.delivering.glob("*/manifest.json")
    content = MANIFESTS[kind]
    original = gather.read_regular
    if content is None:
        path.unlink()
        (path / "folder").mkdir(parents=True)
    elif isinstance(content, bytes):
        path.write_bytes(content.replace(b"{id}", path.parent.name.encode()))
    else:
        inode = path.stat().st_ino
        monkeypatch.setattr(
            gather,
            "read_regular",
            lambda each: _fail(content) if each.exists() and each.stat().st_ino == inode else original(each),
        )
    site.receive("1.9.1", association="a2", study_instance_uid="1.9")
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: len(site.manifests()) == 2)
    studies = {each.studies[0].study_instance_uid: each for each in site.manifests()}
    assert ["1.2.1", "1.2.2"] == sorted(each.sop_instance_uid for each in studies["1.2.3"].instances())
    assert all((site.objects / each.key).is_file() for each in studies["1.2.3"].instances())
    assert kind == "one without its instances" or "manifest_set_aside" in caplog.text


NAME = f"a9_00000009_10.0.0.1_{'0' * 64}.dcm"
# Not of a delivery that is to be stored.
ELSEWHERE = (
    *("received/foreign", "received/0/foreign", "received/retried", f"received/0/{NAME}", f"received/unpacked/{NAME}"),
    *("delivering/foreign", "delivering/foreign.stored", "quarantined/foreign", "quarantined/foreign.reason"),
    *("spares/foreign.spare", "associations/9-00000001.log", "received/0/00000001-0011223344556677.segment", "ballast"),
    *("received/0/00000001-0011223344556677.at", "received/0/0011223344556677.free", "progress.json", "progress.tmp"),
    *("ledger.db-wal", "ledger.db-journal", "commitments/1.2_0.json", "ballast.tmp", "metrics/counter_1.db"),
)
FOREIGN: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: path.write_bytes(b"not ours"),
    "folder": lambda path: (path / "folder").mkdir(parents=True),
    "link to itself": lambda path: path.symlink_to(path.name),  # nobody can read it, root neither
    "link to a device": lambda path: path.symlink_to("/dev/zero"),  # it has no end
    "FIFO": os.mkfifo,  # nobody writes to it
}
PLACES = (ELSEWHERE, ("delivering/{id}/foreign",), ("delivering/{id}/manifest.json",), (f"delivering/{{id}}/{NAME}",))


@pytest.mark.parametrize("places", PLACES, ids=["elsewhere", "beside", "manifest", "instance"])
@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("left_behind", [True], indirect=True, ids=["closed"])
def test_nothing_foreign_in_the_spool_stops_a_delivery(left_behind: Site, places: tuple[str, ...], kind: str):
    """Whatever lies wherever: both studies are stored whole, and nothing that is not ours is lost."""
    site = left_behind
    (folder,) = (each for each in site.spool.delivering.iterdir() if each.is_dir())
    for place in places:
        path = site.spool.root / place.format(id=folder.name)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        FOREIGN[kind](path)
    site.receive("1.9.1", association="a2", study_instance_uid="1.9")
    site.spool.associations.note_end("a2", "released")
    # The one delivery that has something unreadable in it may wait for that; every other is stored.
    waits = NAME in places[0] and kind == "folder"
    wanted = {"1.9"} if waits else {"1.2.3", "1.9"}
    site.run(lambda: wanted <= {each.studies[0].study_instance_uid for each in site.manifests()})
    if not waits:
        (manifest,) = (each for each in site.manifests() if each.studies[0].study_instance_uid == "1.2.3")
        assert 2 == len(list(manifest.instances()))


def test_comparison_with_a_stored_file_that_cannot_be_read_stops_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """A bad page behind the head is met only where the data set is compared."""
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_empty)
    monkeypatch.setattr(resent, "has_same_data_set", lambda *_: _fail())
    bad = site.receive("1.2.1", association="a2", calling="OTHER")
    site.receive("1.2.2", association="a2")
    site.spool.associations.note_end("a2", "released")
    site.run(lambda: len(site.manifests()) == 2)
    assert [bad.path.name] == [file.path.name for file, _ in site.spool.scan_quarantined()]
    assert f"file_not_read file={bad.path.name}" in caplog.text


def test_instance_of_another_study_in_a_delivery_is_received_again(left_behind: Site):
    """A file that somebody moved there is stored, and no manifest tells of it under a study that is not its own."""
    site = left_behind
    (folder,) = (each for each in site.spool.delivering.iterdir() if each.is_dir())
    moved = site.receive("1.9.1", association="a2", study_instance_uid="1.9").path
    moved.rename(folder / f"00{moved.name[2:]}")  # the first by name
    for association in ("a1", "a2"):
        site.spool.associations.note_end(association, "released")
    site.run(lambda: len(site.manifests()) == 2)
    found = {
        study.study_instance_uid: sorted(each.sop_instance_uid for series in study.series for each in series.instances)
        for manifest in site.manifests()
        for study in manifest.studies
    }
    assert {"1.2.3": ["1.2.1", "1.2.2"], "1.9": ["1.9.1"]} == found


@pytest.mark.parametrize(
    "name", ["copy of it", "it.stored", "\udcff", "\u00fc" * 120], ids=["copy", "stored", "bytes", "long"]
)
def test_folder_that_is_called_as_no_delivery_has_its_images_received_again(left_behind: Site, name: str, caplog: Any):
    """Not every name makes a key; the images are stored under a delivery of ours, and the folder goes."""
    caplog.set_level("CRITICAL")  # the tests' processes cannot tell each other of lines with such a name
    site = left_behind
    (folder,) = site.spool.delivering.iterdir()
    folder.rename(folder.with_name(name))
    site.spool.associations.note_end("a1", "released")
    site.run(lambda: site.manifests() and site.is_empty())
    (manifest,) = site.manifests()
    assert ["1.2.1", "1.2.2"] == sorted(each.sop_instance_uid for each in manifest.instances())


@pytest.mark.parametrize("name", ["copy of it.dcm", "\udcff.dcm", "note.txt"], ids=["copy", "bytes", "note"])
def test_file_that_is_called_as_none_of_ours_stays_when_its_delivery_is_stored(left_behind: Site, name: str):
    """Nobody knows what it is: it is shown with its folder as set aside, at the next start too."""
    site = left_behind
    (folder,) = site.spool.delivering.iterdir()
    (folder / name).write_bytes(b"somebody's")
    site.spool.associations.note_end("a1", "released")
    for _ in range(2):
        site.run(lambda: folder in site.spool.aside.reasons())
        assert {folder: "Directory not empty"} == site.spool.aside.reasons()
        site.spool.aside.settle(folder)
    assert [b"somebody's"] == [path.read_bytes() for path in site.spool.delivering.glob("*/*")]
    (manifest,) = site.manifests()
    assert ["1.2.1", "1.2.2"] == sorted(each.sop_instance_uid for each in manifest.instances())


NAMES = ["rescued.dcm", "rescued", "b\udcffd.dcm", "a\nb", "0001.segment", "folder/"]


@pytest.mark.parametrize("name", NAMES, ids=["dcm", "any", "bytes", "line break", "segment", "folder"])
@pytest.mark.parametrize("place", ["received", "received/unpacked"])
def test_file_that_is_called_as_none_of_ours_is_set_aside_where_it_was_put(
    site: Site, name: str, place: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """Nobody takes it, so it is told once with what to do, and does not count as waiting; images go on."""
    if place == "received" and name == "folder/":
        place = "received/0"  # any folder in `received/` is a lane
    monkeypatch.setattr("dicomflow.edge.spool.setaside._FIRST_PAUSE_SECONDS", 0.01)
    path = site.spool.root / place / name
    if name == "folder/":
        path.mkdir()
    else:
        path.write_bytes(b"somebody's")
    site.receive("1.2.1")
    site.spool.associations.note_end("a1", "released")
    site.run(
        lambda: (
            site.manifests()
            and site.is_empty()
            and _progress(site).get("set_aside") == 1
            and _progress(site)["gathered_until"]
        )
    )
    assert [["1.2.1"]] == _stored(site)
    ((told, reason),) = _progress(site)["set_aside_reasons"].items()
    assert str(path) == told
    assert "dicomflow send" in reason
    assert path.exists()
    view = look(site.spool.root)
    assert {"received": 0, "delivering": 0, "quarantined": 0} == view.counts()
    assert (0.0, [path]) == (view.oldest_seconds(), view.foreign)
    lines = [each.getMessage() for each in caplog.records if "none of the edge's" in each.getMessage()]
    assert [True] == [line.startswith(f"set_aside path={path.parent.name}/... ") for line in lines]


@pytest.mark.parametrize("folder", ["0b0ac1a5-5b0f-4f0c-9d0c-1f0a7d1f8e11", "foreign"])
def test_folder_of_deliveries_with_nothing_of_ours_is_set_aside(site: Site, folder: str):
    """It holds up nothing, and is told as long as it is there."""
    path = site.spool.delivering / folder
    path.mkdir()
    (path / "rescued.dcm").write_bytes(b"somebody's")
    site.run(lambda: _progress(site).get("set_aside") == 1)
    assert [str(path)] == list(_progress(site)["set_aside_reasons"])
    assert 0 == look(site.spool.root).delivering
