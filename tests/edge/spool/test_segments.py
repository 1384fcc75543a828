"""Segments: small instances one behind the other, durable at once."""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from segmented import ASSOCIATION, SIZE, fails, put, received
from waiting import WAIT_SECONDS

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.records import MAX_RECORD_BYTES
from dicomflow.edge.spool.rotation import segments_of
from dicomflow.edge.spool.view import count_files, look

pytestmark = pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    """Give the lane of a worker that has small segments."""
    return Lane(tmp_path / "spool", segment_bytes=SIZE)


@pytest.fixture
def spool(lane: Lane) -> Spool:
    """Give its spool as the deliverer has it."""
    return Spool(lane.root)


def test_small_instance_is_in_a_segment_until_it_is_unpacked(lane: Lane, spool: Spool):
    """No file is made for it; the deliverer makes one, under the name that any received file has."""
    digest = put(lane, b"small", 7)
    assert [] == received(lane)
    assert 1 == len(segments_of(lane.folder))
    assert not spool.unpack(100)
    (file,) = spool.scan_received()
    assert (b"small", digest, ASSOCIATION, 7, "10.0.0.1") == (
        file.path.read_bytes(),
        file.sha256,
        file.association_id,
        file.number,
        file.peer,
    )


def test_clock_before_the_epoch_loses_no_small_instance(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """A record has no time before 1970: it is kept as of the epoch, and unpacked like any other."""
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: -86_400 * 10**9)
        digest = put(lane, b"small", 7)
    assert not spool.unpack(100)
    (file,) = spool.scan_received()
    assert (b"small", digest, 0.0) == (file.path.read_bytes(), file.sha256, file.path.stat().st_mtime)


@pytest.mark.parametrize("size", [0, 1, 3900, 4096, 5000, MAX_RECORD_BYTES - 1, MAX_RECORD_BYTES])
def test_any_small_size_comes_back_as_it_was(lane: Lane, spool: Spool, size: int):
    """Shorter than a page, longer, and to the last byte that fits."""
    contents = [
        os.urandom(size) + bytes([number]) if size < MAX_RECORD_BYTES else os.urandom(size) for number in range(3)
    ]
    for number, content in enumerate(contents):
        put(lane, content, number)
    spool.unpack(100)
    assert contents == received(spool)


def test_instance_that_grows_gets_a_file(lane: Lane):
    """What exceeds a record goes on in a file, with what came before."""
    file = lane.create(ASSOCIATION, 0)
    file.write([b"a" * 1000, b"b" * (MAX_RECORD_BYTES - 1000)])
    assert [] == list(lane.folder.glob("*.part"))
    file = file.write([b"c"])
    assert 1 == len(list(lane.folder.glob("*.part")))
    file.write([b"d" * 100_000])
    file.commit("10.0.0.1")
    (content,) = received(lane)
    assert b"a" * 1000 + b"b" * (MAX_RECORD_BYTES - 1000) + b"c" + b"d" * 100_000 == content
    assert MAX_RECORD_BYTES + 100_001 == file.size_bytes


def test_instance_like_a_large_one_before_it_has_a_file_at_once(lane: Lane):
    """After a large one the next is not copied to memory first."""
    lane.create(ASSOCIATION, 1, MAX_RECORD_BYTES + 1)
    assert 1 == len(list(lane.folder.glob("*.part")))


def test_discarded_instance_leaves_nothing(lane: Lane, spool: Spool):
    """What was not committed is nowhere."""
    file = lane.create(ASSOCIATION, 0)
    file.write([b"half"])
    file.discard()
    file.discard()
    spool.unpack(100)
    assert [] == received(spool)


def test_segments_follow_each_other_and_are_used_again(lane: Lane, spool: Spool):
    """More than a segment holds goes on in the next; one that is unpacked is written over, and shows nothing old."""
    inodes = set()
    expected: list[bytes] = []
    for round_number in range(6):
        for number in range(20):
            expected.append(f"{round_number}.{number}".encode() * 1000)
            put(lane, expected[-1], 20 * round_number + number)
        spool.unpack(1000)
        inodes |= {path.stat().st_ino for path in lane.folder.iterdir() if path.suffix in {".segment", ".free"}}
    assert expected == received(spool)
    assert 1 == len(segments_of(lane.folder))
    assert len(inodes) <= 4
    assert len(list(lane.folder.glob("*.free"))) <= 2  # what one deliverer that keeps up leaves


def test_what_is_not_unpacked_counts_as_received(lane: Lane, spool: Spool):
    """Status and metrics tell of it, and of its age."""
    put(lane)
    put(lane, b"other", 1)
    time.sleep(0.05)
    assert 2 == count_files(lane.root)["received"]
    assert 0.05 <= look(lane.root).oldest_seconds() < 60
    spool.unpack(1)
    assert 2 == count_files(lane.root)["received"]


def test_worker_that_lives_on_keeps_its_segment(lane: Lane, spool: Spool):
    """A worker whose supervisor was killed still ends what is under way, beside the one that took its lane."""
    put(lane, b"one", 1)
    successor = Lane(lane.root, segment_bytes=SIZE)
    put(successor, b"two", 2)
    spool.unpack(100)
    put(lane, b"three", 3)
    put(successor, b"four", 4)
    spool.unpack(100)
    assert [b"one", b"two", b"three", b"four"] == received(spool)


@pytest.mark.parametrize("call", ["open", "pwrite", "fdatasync"])
def test_failed_append_is_no_instance(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str):
    """Nothing of it counts, those before it do, and those after it go on, behind a failed write in another segment."""
    assert lane.segments is not None
    put(lane, b"before", 0)
    segment = lane.segments._segment
    assert segment is not None
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        if call == "open":
            patched.setattr(segment, "_idle", [])
        with pytest.raises(OSError, match="Input/output"):
            put(lane, b"failed", 1)
    del segment
    put(lane, b"after", 2)
    assert (1 if call == "open" else 2) == len(segments_of(lane.folder))
    for _ in range(2):
        spool.unpack(100)
    assert [b"before", b"after"] == received(spool)
    assert [] == list(lane.folder.glob("*.damaged"))


@pytest.mark.parametrize("failing", [1, 2])
def test_record_behind_a_failed_one_is_not_hidden(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, failing: int
):
    """Whichever of its two writes failed: those of others around it are unpacked, as soon as they have come."""
    calls: list[int] = []
    original = os.pwrite

    def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(descriptor)
        return fails() if len(calls) == failing else original(descriptor, data, offset)

    put(lane, b"before", 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _pwrite)
        with pytest.raises(OSError, match="Input/output"):
            put(lane, b"failed", 1)
    spool.unpack(100)
    put(lane, b"after", 2)
    for _ in range(2):
        spool.unpack(100)
    assert [b"before", b"after"] == received(spool)
    assert [] == list(lane.folder.glob("*.damaged"))


def test_record_behind_one_whose_sync_failed_is_not_hidden(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """It was written while the other waited for the disk, and its own sync tells that it is there."""
    original, entered, may_fail = os.fdatasync, threading.Event(), threading.Event()
    first: list[int] = []

    def _fdatasync(descriptor: int) -> None:
        if not first:
            first.append(descriptor)
            entered.set()
            assert may_fail.wait(WAIT_SECONDS)
            fails()
        original(descriptor)

    def _put_first() -> None:
        with pytest.raises(OSError, match="Input/output"):
            put(lane, b"failed", 1)

    monkeypatch.setattr(os, "fdatasync", _fdatasync)
    thread = threading.Thread(target=_put_first)
    thread.start()
    assert entered.wait(WAIT_SECONDS)
    put(lane, b"behind", 2)
    may_fail.set()
    thread.join()
    spool.unpack(100)
    assert 0 == count_files(lane.root)["quarantined"]
    assert [b"behind"] == received(spool)
    assert [] == list(lane.folder.glob("*.damaged"))


def test_descriptor_of_a_record_is_open_before_it_is_written(lane: Lane, monkeypatch: pytest.MonkeyPatch):
    """One that is opened later is not told of the pages that another's sync has dropped in between."""
    assert lane.segments is not None
    segment = lane.segments._segment
    assert segment is not None
    calls: list[tuple[str, Any]] = []
    for name in ("open", "pwrite", "fdatasync"):
        original = getattr(os, name)

        def _call(*arguments: Any, name: str = name, original: Any = original) -> Any:
            answer = original(*arguments)
            calls.append((name, answer if name == "open" else arguments[0]))
            return answer

        monkeypatch.setattr(os, name, _call)
    monkeypatch.setattr(segment, "_idle", [])
    put(lane)
    names, descriptors = zip(*calls, strict=True)
    # The last one is the note of how far the segment is written, which is another file.
    assert ("open", "pwrite", "pwrite", "fdatasync", "pwrite") == names
    assert 1 == len(set(descriptors[:-1]))


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "rename"])
def test_segment_that_cannot_be_begun_refuses_one_instance(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Whichever call of its making fails, the next instance tries again and nothing is left of the attempt."""
    assert lane.segments is not None
    lane.segments._segment = None
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(OSError, match="Input/output"):
            put(lane, b"refused", 0)
    put(lane, b"stored", 1)
    for _ in range(2):
        spool.unpack(100)
    assert [b"stored"] == received(spool)
    assert lane.segments._segment is not None
    assert [lane.segments._segment.path] == segments_of(lane.folder)


def test_spool_without_segments_has_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """Where a segment cannot be made, or locked, each instance has a file of its own, and the log says so."""
    monkeypatch.setattr("fcntl.flock", fails)
    lane = Lane(tmp_path / "spool", segment_bytes=SIZE)
    put(lane, b"small")
    assert [b"small"] == received(lane)
    assert "segments_not_used" in caplog.text
    assert [] == [path for path in lane.folder.iterdir() if path.suffix != ".dcm"]


def test_associations_wait_for_the_disk_at_once_each_on_a_descriptor_of_its_own(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, until: Any
):
    """While the disk writes for one, others do not wait; the kernel tells each of its own failure, and only once."""
    original, may_go_on = os.fdatasync, threading.Event()
    descriptors: list[int] = []

    def _fdatasync(descriptor: int) -> None:
        descriptors.append(descriptor)
        assert may_go_on.wait(WAIT_SECONDS)
        original(descriptor)

    monkeypatch.setattr(os, "fdatasync", _fdatasync)
    threads = [threading.Thread(target=put, args=(lane, bytes([number]) * 100, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(descriptors) == 8)
    assert 8 == len(set(descriptors))
    may_go_on.set()
    for thread in threads:
        thread.join()
    spool.unpack(100)
    assert [bytes([number]) * 100 for number in range(8)] == received(spool)


def test_descriptors_of_a_segment_go_with_it(lane: Lane):
    """And are used again until then."""
    for number in range(3):
        put(lane, bytes([number]), number)
    assert lane.segments is not None
    segment = lane.segments._segment
    assert segment is not None
    (descriptor,) = segment._idle
    assert segment.path == Path(f"/proc/self/fd/{descriptor}").readlink()
    del segment
    lane.segments = None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_associations_at_once_lose_nothing(lane: Lane, spool: Spool):
    """Many threads append while the deliverer unpacks: each instance is there once, whole."""
    digests: list[str] = []

    def _receive(thread: int) -> None:
        digests.extend(put(lane, os.urandom(1000 + 37 * each), 1000 * thread + each) for each in range(100))

    threads = [threading.Thread(target=_receive, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        spool.unpack(50)
    for thread in threads:
        thread.join()
    spool.unpack(1000)
    files = list(spool.scan_received())
    assert sorted(digests) == sorted(file.sha256 for file in files)
    assert all(hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256 for file in files)


def test_worker_receives_small_instances_into_segments(
    receiver: Any, scu: Any, data_set: Any, part10: Any, monkeypatch: pytest.MonkeyPatch
):
    """Over an association, with data sets that pydicom has to read too."""
    receiver.lane.segments = receiver.lane._prepared(SIZE)
    uids = [f"1.2.3.{number}" for number in range(30)]
    for uid in uids:
        assert 0 == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
    monkeypatch.setattr("dicomflow.edge.receive.storage.scan", lambda *_, **__: None)
    assert 0 == scu.store(data_set("1.2.4"), affected_sop_instance_uid=b"1.2.4").status
    receiver.spool.unpack(100)
    assert [part10(uid) for uid in [*uids, "1.2.4"]] == receiver.stored()
