"""The spool's files: committed or gone, found again by their names alone."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane, discard_incoming
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.view import count_files
from dicomflow.errors import PermanentError

DELIVERY = "0b8f0f6e-0d5c-4c1e-9d43-2f4f3f5a6b7c"


def put(spool: Spool, content: bytes = b"content", *, number: int = 0, peer: str = "10.0.0.1") -> Any:
    """Commit one file."""
    return ReceivedFile.of(Lane(spool.root).create("a1", number).write([content]).commit(peer))


def test_committed_file_is_in_received_under_a_name_that_tells_all(spool: Spool, lane: Lane):
    """Name and content of a committed file agree, and no half received file is left."""
    committed = put(spool, b"abc", number=7)
    assert b"abc" == committed.path.read_bytes()
    assert hashlib.sha256(b"abc").hexdigest() == committed.sha256
    assert [committed] == list(spool.scan_received())
    assert [committed.path] == list(lane.folder.iterdir())


@pytest.mark.parametrize("peer", ["10.0.0.1", "fd00::1:2", "::ffff:10.0.0.1", "2001:db8:0:0:0:0:0:1"])
def test_peer_is_parsed_back_from_the_name(spool: Spool, peer: str):
    """Addresses of both families survive the way through a file's name."""
    put(spool, peer=peer)
    assert [peer] == [file.peer for file in spool.scan_received()]


def test_file_is_not_received_before_its_commit(spool: Spool, lane: Lane):
    """Until the commit a file is no received one; a discard removes it."""
    file = lane.create("a1", 0)
    file.write([b"half"])
    assert [] == list(spool.scan_received())
    file.discard()
    file.discard()
    assert [] == list(lane.folder.iterdir())


def test_write_of_many_buffers_keeps_their_order(lane: Lane):
    """More buffers than a gathered write takes arrive in order, empty ones too."""
    buffers = [os.urandom(number % 5) for number in range(5000)]
    file = lane.create("a1", 0)
    file.write(buffers)
    committed = file.commit("10.0.0.1")
    assert b"".join(buffers) == committed.read_bytes()
    assert file.size_bytes == sum(map(len, buffers))


def test_existing_incoming_file_is_not_overwritten(lane: Lane):
    """Two files of one number are a bug, not an overwrite."""
    lane.create("a1", 0).write([b"first"])
    with pytest.raises(FileExistsError):
        lane.create("a1", 0)


def test_spool_is_understood_without_any_memory_of_the_last_run(spool: Spool):
    """Another process finds the same files by the folder alone."""
    put(spool, b"one"), put(spool, b"two", number=1)
    code = (
        "import sys; from pathlib import Path; from dicomflow.edge.spool.folders import Spool\n"
        "for file in sorted(Spool(Path(sys.argv[1])).scan_received(), key=lambda each: each.number):\n"
        "    print(file.association_id, file.number, file.peer, file.path.read_text())"
    )
    found = subprocess.run([sys.executable, "-c", code, spool.root], check=True, capture_output=True, text=True)
    assert "a1 0 10.0.0.1 one\na1 1 10.0.0.1 two\n" == found.stdout


def test_restart_resumes_the_spool_and_deletes_nothing(spool: Spool):
    """Opening an existing spool keeps every acknowledged file, delivered or quarantined."""
    put(spool, b"1")
    spool.assign(put(spool, b"2", number=1), DELIVERY)
    spool.sync_deliveries([DELIVERY])
    spool.quarantine(put(spool, b"3", number=2), "reason")
    before = count_files(spool.root)
    again = Spool(spool.root)
    assert 0 == discard_incoming(again)
    assert before == count_files(again.root) == {"received": 1, "delivering": 1, "quarantined": 1}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "image.dcm",
        ".DS_Store",
        "a_0_10.0.0.1_abc.dcm",
        f"a_x_10.0.0.1_{'0' * 64}.dcm",
        f"a_1_10.0.0.1_{'0' * 64}.part",
        f"a_b_1_10.0.0.1_{'0' * 64}.dcm",
    ],
)
def test_foreign_file_is_left_alone(spool: Spool, lane: Lane, name: str):
    """What is not named like an instance is neither taken for one nor removed."""
    (spool.received / name).write_text("x")
    (lane.folder / name.replace(".part", ".txt")).write_text("x")
    assert [] == list(spool.scan_received())
    discard_incoming(spool)
    assert (spool.received / name).exists()
    assert (lane.folder / name.replace(".part", ".txt")).exists()


def test_discard_incoming_of_one_process_leaves_the_others(spool: Spool, lane: Lane):
    """What a dead worker left half received goes; that of a living one stays."""
    lane.create("a1", 0).write([b"mine"])
    other = lane.folder / "a2_00000000_1.part"
    other.write_text("another's")
    assert 1 == discard_incoming(spool, 1)
    assert [f"a1_00000000_{os.getpid()}.part"] == [path.name for path in lane.folder.iterdir()]
    assert 1 == discard_incoming(spool)


def test_assigned_file_keeps_name_and_content(spool: Spool):
    """A file moves into its delivery whole and is found there."""
    committed = put(spool)
    assigned = spool.assign(committed, DELIVERY)
    spool.sync_deliveries([DELIVERY])
    assert [] == list(spool.scan_received())
    assert [assigned] == list(spool.scan_delivery(DELIVERY))
    assert (committed.path.name, b"content") == (assigned.path.name, assigned.path.read_bytes())


def test_quarantined_file_has_its_reason_beside_it(spool: Spool):
    """Nothing is deleted: the file moves, and a text says why."""
    committed = put(spool)
    spool.quarantine(committed, "no such study")
    (file,) = spool.quarantined.glob("*.dcm")
    assert (b"content", "no such study") == (file.read_bytes(), file.with_suffix(".reason").read_text())
    assert {"received": 0, "delivering": 0, "quarantined": 1} == count_files(spool.root)


def test_note_is_replaced_whole(spool: Spool):
    """A note is written beside its name and renamed over it; no temporary file stays."""
    path = spool.root / "note.json"
    spool.write_note(path, b"one")
    spool.write_note(path, b"two")
    assert b"two" == path.read_bytes()
    assert [] == list(spool.root.glob("*.tmp"))


def test_removed_delivery_leaves_nothing(spool: Spool):
    """A stored delivery's folder goes with all its files."""
    spool.assign(put(spool), DELIVERY)
    spool.write_note(spool.delivering / DELIVERY / "manifest.json", b"{}")
    spool.remove_delivery(DELIVERY)
    assert [] == list(spool.delivering.iterdir())


def test_spool_that_cannot_be_made_is_named(tmp_path: Path):
    """A file in the place of the folder stops the program with the folder's name."""
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(PermanentError, match="cannot create the spool in"):
        Spool(tmp_path / "spool")


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_setting_decides_whether_the_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any
):
    """With `fsync` off no commit waits for the disk; with it on each does."""
    lane = Lane(tmp_path / "spool", fsync=fsync)
    original, calls = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), original(descriptor)))
    lane.create("a1", 0).write([b"content"]).commit("10.0.0.1")
    assert fsync == bool(calls)
