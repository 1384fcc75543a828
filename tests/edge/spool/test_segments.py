"""Segments: small instances one behind the other, durable at once, and files once the deliverer has unpacked them."""

import errno
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS

from dicomflow.edge.spool import segments, unpacker
from dicomflow.edge.spool.folders import Spool, count_files, oldest_seconds
from dicomflow.edge.spool.segments import MAX_RECORD_BYTES, count_records, read_records, segments_of
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.view import quarantined_files

pytestmark = pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")
SIZE = 64 << 10
ASSOCIATION = "a" * 32


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Give the spool of a worker that has small segments."""
    return Spool(tmp_path / "spool", segment_bytes=SIZE)


@pytest.fixture
def deliverers(spool: Spool) -> Spool:
    """Give the same spool as the deliverer has it."""
    return Spool(spool.root)


def put(spool: Spool, content: bytes = b"content", number: int = 0) -> str:
    """Receive an instance, and return its digest."""
    file = spool.create(ASSOCIATION, number)
    file.write([content])
    return file.commit("10.0.0.1").sha256


def received(spool: Spool) -> list[bytes]:
    """Return the files that are received, by number."""
    return [file.path.read_bytes() for file in sorted(spool.scan_received(), key=lambda each: each.number)]


def restarted(spool: Spool, **settings: Any) -> Spool:
    """Return the spool as the next process has it, after this one has died: its locks are gone."""
    spool.segments = None
    return Spool(spool.root, **settings)


def test_small_instance_is_in_a_segment_until_it_is_unpacked(spool: Spool, deliverers: Spool):
    """No file is made for it; the deliverer makes one, under the name that any received file has."""
    digest = put(spool, b"small", 7)
    assert [] == list(spool.scan_received())
    assert 1 == len(segments_of(spool.lane))
    assert not deliverers.unpack(100)
    (file,) = deliverers.scan_received()
    assert (b"small", digest, ASSOCIATION, 7, "10.0.0.1") == (
        file.path.read_bytes(),
        file.sha256,
        file.association_id,
        file.number,
        file.peer,
    )


def test_unpacked_file_has_the_time_it_was_received_at(spool: Spool, deliverers: Spool):
    """Not the time it was unpacked at: the manifest tells when an instance came."""
    before = time.time()
    put(spool)
    after = time.time()
    time.sleep(0.05)
    deliverers.unpack(100)
    (file,) = deliverers.scan_received()
    assert before - 0.01 <= file.path.stat().st_mtime <= after + 0.01


@pytest.mark.parametrize("size", [0, 1, 3900, 4096, 5000, MAX_RECORD_BYTES - 1, MAX_RECORD_BYTES])
def test_any_small_size_comes_back_as_it_was(spool: Spool, deliverers: Spool, size: int):
    """Shorter than a page, longer, and to the last byte that fits."""
    contents = [
        os.urandom(size) + bytes([number]) if size < MAX_RECORD_BYTES else os.urandom(size) for number in range(3)
    ]
    for number, content in enumerate(contents):
        put(spool, content, number)
    deliverers.unpack(100)
    assert contents == received(deliverers)


def test_instance_that_grows_gets_a_file(spool: Spool):
    """What exceeds a record goes on in a file, with what came before."""
    file = spool.create(ASSOCIATION, 0)
    file.write([b"a" * 1000, b"b" * (MAX_RECORD_BYTES - 1000)])
    assert [] == list(spool.lane.glob("*.part"))
    file.write([b"c"])
    assert 1 == len(list(spool.lane.glob("*.part")))
    file.write([b"d" * 100_000])
    file.commit("10.0.0.1")
    (content,) = received(spool)
    assert b"a" * 1000 + b"b" * (MAX_RECORD_BYTES - 1000) + b"c" + b"d" * 100_000 == content
    assert MAX_RECORD_BYTES + 100_001 == file.size_bytes


def test_instance_like_a_large_one_before_it_has_a_file_at_once(spool: Spool):
    """After a large one the next is not copied to memory first."""
    put(spool, bytes(MAX_RECORD_BYTES + 1))
    spool.create(ASSOCIATION, 1)
    assert 1 == len(list(spool.lane.glob("*.part")))


def test_discarded_instance_leaves_nothing(spool: Spool, deliverers: Spool):
    """What was not committed is nowhere."""
    file = spool.create(ASSOCIATION, 0)
    file.write([b"half"])
    file.discard()
    file.discard()
    deliverers.unpack(100)
    assert [] == received(deliverers)


def test_segments_follow_each_other_and_are_used_again(spool: Spool, deliverers: Spool):
    """More than a segment holds goes on in the next; one that is unpacked is written over, and shows nothing old."""
    inodes = set()
    expected: list[bytes] = []
    for round_number in range(6):
        for number in range(20):
            expected.append(f"{round_number}.{number}".encode() * 1000)
            put(spool, expected[-1], 20 * round_number + number)
        deliverers.unpack(1000)
        inodes |= {path.stat().st_ino for path in spool.lane.iterdir() if path.suffix in {".segment", ".free"}}
    assert expected == received(deliverers)
    assert 1 == len(segments_of(spool.lane))
    assert len(inodes) <= 4
    assert len(list(spool.lane.glob("*.free"))) <= 2  # what one deliverer that keeps up leaves


def test_limit_leaves_the_rest_for_the_next_time(spool: Spool, deliverers: Spool):
    """The deliverer unpacks some, does other work, and goes on where it was."""
    for number in range(10):
        put(spool, bytes([number]) * 100, number)
    assert deliverers.unpack(4)
    assert 4 == len(received(deliverers))
    assert (6, 4) == (count_records(spool.lane)[0], len(list(deliverers.scan_received())))
    assert deliverers.unpack(6)
    assert not deliverers.unpack(4)
    assert [bytes([number]) * 100 for number in range(10)] == received(deliverers)


def test_what_is_not_unpacked_counts_as_received(spool: Spool, deliverers: Spool):
    """Status and metrics tell of it, and of its age."""
    put(spool)
    put(spool, b"other", 1)
    time.sleep(0.05)
    assert 2 == count_files(spool.root)["received"]
    assert 0.05 <= oldest_seconds(spool.root) < 60
    deliverers.unpack(1)
    assert 2 == count_files(spool.root)["received"]


def test_files_whose_sync_failed_are_made_anew(spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch):
    """They can be read back although the kernel dropped their pages, and the next sync succeeds all the same."""
    deliverers.unpack(100)
    for number in range(2):
        put(spool, bytes([number]) * 100, number)
    restarted(spool)
    with monkeypatch.context() as patched:
        patched.setattr("dicomflow.edge.spool.unpacker.sync_file_system", fails)
        with pytest.raises(OSError, match="Input/output"):
            deliverers.unpack(100)
    before = {file.number: file.path.stat().st_ino for file in spool.scan_received()}
    kept = [file.path.open("rb") for file in spool.scan_received()]  # so that no inode is used again
    Spool(spool.root).unpack(100)
    after = {file.number: file.path.stat().st_ino for file in spool.scan_received()}
    assert set(before) == set(after) == {0, 1}
    assert set(before.values()).isdisjoint(after.values())
    assert [] == segments_of(spool.lane)
    for file in kept:
        file.close()


def test_damage_is_not_forgotten_over_a_restart(spool: Spool):
    """The next deliverer comes past it again."""
    for number in range(3):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    damage(segment, 1, 20)
    restarted(spool)
    for _ in range(2):
        Spool(spool.root).unpack(1)
    while Spool(spool.root).unpack(100):
        pass
    assert [] == list(spool.lane.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in spool.quarantined.glob("*.damaged")]


def test_note_of_another_segment_is_not_believed(spool: Spool, deliverers: Spool):
    """After power loss a note's block may be one that another note had."""
    put(spool, b"one", 1)
    deliverers.unpack(100)
    (segment,) = segments_of(spool.lane)
    assert segments.read_offset(segment) > 0
    note = segment.with_suffix(".at")
    note.write_bytes(b"0" * 16 + note.read_bytes()[16:])
    assert 0 == segments.read_offset(segment)


def test_unreadable_file_stops_no_others(spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """A bad page under a file that was unpacked before: it stays, and the log names it."""
    put(spool, b"one", 1)
    restarted(spool)
    deliverers.unpack(100)
    (bad,) = deliverers.scan_received()
    original = unpacker.open_regular
    monkeypatch.setattr(unpacker, "open_regular", lambda path: fails() if path == bad.path else original(path))
    put(Spool(spool.root, segment_bytes=SIZE), b"two", 2)
    Spool(spool.root).unpack(100)
    assert 2 == len(list(deliverers.scan_received()))
    assert f"set_aside path=unpacked/{bad.path.name} reason=Input/output error" in caplog.text


def test_deliverer_that_starts_again_makes_nothing_twice(spool: Spool, deliverers: Spool):
    """It goes on where the last one was, also where that was killed before it noted how far it had come."""
    for number in range(3):
        put(spool, bytes([number]) * 100, number)
    deliverers.unpack(100)
    (segment,) = segments_of(spool.lane)
    files = sorted(deliverers.scan_received(), key=lambda each: each.number)
    for file in files[:2]:
        deliverers.assign(file, "d1")
    deliverers.sync_deliveries(["d1"])
    again = Spool(spool.root)
    assert not again.unpack(100)
    assert [files[2]] == list(again.scan_received())
    segment.with_suffix(".at").unlink()
    again = Spool(spool.root)
    assert not again.unpack(100)
    assert [files[2]] == list(again.scan_received())
    assert 2 == len(list(again.scan_delivery("d1")))


@pytest.mark.parametrize("limit", [1, 100])
def test_half_made_file_of_an_earlier_run_is_never_taken(spool: Spool, limit: int):
    """Power loss leaves a file whose head can be read and whose tail is not there: it is made again before all else."""
    contents = [os.urandom(20_000) for _ in range(3)]
    digests = [put(spool, content, number) for number, content in enumerate(contents)]
    for number in (0, 2):
        name = f"{ASSOCIATION}_{number:08}_10.0.0.1_{digests[number]}.dcm"
        (spool.received / "unpacked" / name).write_bytes(contents[number][:5000])
    deliverer = Spool(spool.root)
    found: dict[int, bytes] = {}
    for _ in range(10):
        deliverer.unpack(limit)
        for file in list(deliverer.scan_received()):
            found[file.number] = file.path.read_bytes()
            deliverer.assign(file, "d1")
        deliverer.sync_deliveries(["d1"])
    assert dict(enumerate(contents)) == found
    assert [] == list(deliverer.scan_quarantined())


def test_half_made_file_that_no_segment_has_is_quarantined(spool: Spool):
    """It is not deleted: it is all there is."""
    name = f"{ASSOCIATION}_00000001_10.0.0.1_{'0' * 64}.dcm"
    (spool.received / "unpacked" / name).write_bytes(b"half")
    deliverer = Spool(spool.root)
    deliverer.unpack(100)
    ((file, reason),) = deliverer.scan_quarantined()
    assert (1, "its bytes are not those that were received, and no segment has them") == (file.number, reason)


def test_segment_of_a_dead_worker_is_unpacked_and_given_back(spool: Spool, deliverers: Spool):
    """The next worker of the lane begins another segment, and the old one is free when all of it is unpacked."""
    put(spool, b"one", 1)
    (old,) = segments_of(spool.lane)
    inode = old.stat().st_ino
    again = restarted(spool, segment_bytes=SIZE)
    put(again, b"two", 2)
    assert 2 == len(segments_of(spool.lane))
    deliverers.unpack(100)
    assert [b"one", b"two"] == received(deliverers)
    (free,) = spool.lane.glob("*.free")
    assert inode == free.stat().st_ino
    assert [] == list(spool.lane.glob(f"{old.stem}*"))


def test_worker_that_lives_on_keeps_its_segment(spool: Spool, deliverers: Spool):
    """A worker whose supervisor was killed still ends what is under way, beside the one that took its lane."""
    put(spool, b"one", 1)
    successor = Spool(spool.root, segment_bytes=SIZE)
    put(successor, b"two", 2)
    deliverers.unpack(100)
    put(spool, b"three", 3)
    put(successor, b"four", 4)
    deliverers.unpack(100)
    assert [b"one", b"two", b"three", b"four"] == received(deliverers)


@pytest.mark.parametrize("call", ["open", "pwrite", "fdatasync"])
def test_failed_append_is_no_instance(spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, call: str):
    """Nothing of it counts, those before it do, and those after it go on, behind a failed write in another segment."""
    assert spool.segments is not None
    put(spool, b"before", 0)
    segment = spool.segments._segment
    assert segment is not None
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        if call == "open":
            patched.setattr(segment, "_idle", [])
        with pytest.raises(OSError, match="Input/output"):
            put(spool, b"failed", 1)
    del segment
    put(spool, b"after", 2)
    assert (1 if call == "open" else 2) == len(segments_of(spool.lane))
    for _ in range(2):
        deliverers.unpack(100)
    assert [b"before", b"after"] == received(deliverers)
    assert [] == list(spool.lane.glob("*.damaged"))


@pytest.mark.parametrize("failing", [1, 2])
def test_record_behind_a_failed_one_is_not_hidden(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, failing: int
):
    """Whichever of its two writes failed: those of others around it are unpacked, as soon as they have come."""
    calls: list[int] = []
    original = os.pwrite

    def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(descriptor)
        return fails() if len(calls) == failing else original(descriptor, data, offset)

    put(spool, b"before", 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _pwrite)
        with pytest.raises(OSError, match="Input/output"):
            put(spool, b"failed", 1)
    deliverers.unpack(100)
    put(spool, b"after", 2)
    for _ in range(2):
        deliverers.unpack(100)
    assert [b"before", b"after"] == received(deliverers)
    assert [] == list(spool.lane.glob("*.damaged"))


def test_hole_in_front_of_a_struck_record_is_damage(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """A record may have been there whose head the disk has lost: the segment is kept."""
    put(spool, b"lost", 0)
    (segment,) = segments_of(spool.lane)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            put(spool, b"struck", 1)
    damage(segment, 0, 5)
    restarted(spool)
    deliverers.unpack(100)
    assert [] == list(spool.lane.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in spool.quarantined.glob("*.damaged")]
    assert "segment_damaged" in caplog.text


def test_file_that_is_there_is_not_replaced_by_a_damaged_record(spool: Spool, deliverers: Spool):
    """It was made of the record while that was whole, and only the note of it was lost."""
    put(spool, b"a" * 5000, 1)
    (segment,) = segments_of(spool.lane)
    deliverers.unpack(100)
    segment.with_suffix(".at").unlink()
    damage(segment, 0, 4000)
    restarted(spool)
    again = Spool(spool.root)
    again.unpack(100)
    assert [b"a" * 5000] == received(again)
    assert [] == list(again.scan_quarantined())


def test_record_behind_one_whose_sync_failed_is_not_hidden(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch
):
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
            put(spool, b"failed", 1)

    monkeypatch.setattr(os, "fdatasync", _fdatasync)
    thread = threading.Thread(target=_put_first)
    thread.start()
    assert entered.wait(WAIT_SECONDS)
    put(spool, b"behind", 2)
    may_fail.set()
    thread.join()
    deliverers.unpack(100)
    assert 0 == count_files(spool.root)["quarantined"]
    assert [b"behind"] == received(deliverers)
    assert [] == list(spool.lane.glob("*.damaged"))


def test_descriptor_of_a_record_is_open_before_it_is_written(spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """One that is opened later is not told of the pages that another's sync has dropped in between."""
    assert spool.segments is not None
    segment = spool.segments._segment
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
    put(spool)
    names, descriptors = zip(*calls, strict=True)
    # The last one is the note of how far the segment is written, which is another file.
    assert ("open", "pwrite", "pwrite", "fdatasync", "pwrite") == names
    assert 1 == len(set(descriptors[:-1]))


def denies() -> Any:
    """Refuse as the system does what belongs to another user."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def fails(*_: Any) -> int:
    """Fail as a bad disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "rename"])
def test_segment_that_cannot_be_begun_refuses_one_instance(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Whichever call of its making fails, the next instance tries again and nothing is left of the attempt."""
    assert spool.segments is not None
    spool.segments._segment = None
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(OSError, match="Input/output"):
            put(spool, b"refused", 0)
    put(spool, b"stored", 1)
    for _ in range(2):
        deliverers.unpack(100)
    assert [b"stored"] == received(deliverers)
    assert spool.segments._segment is not None
    assert [spool.segments._segment.path] == segments_of(spool.lane)


def test_spool_without_segments_has_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """Where a segment cannot be made, or locked, each instance has a file of its own, and the log says so."""
    monkeypatch.setattr("fcntl.flock", fails)
    spool = Spool(tmp_path / "spool", segment_bytes=SIZE)
    put(spool, b"small")
    assert [b"small"] == received(spool)
    assert "segments_not_used" in caplog.text
    assert [] == [path for path in spool.lane.iterdir() if path.suffix != ".dcm"]


def test_associations_wait_for_the_disk_at_once_each_on_a_descriptor_of_its_own(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, until: Any
):
    """While the disk writes for one, others do not wait; the kernel tells each of its own failure, and only once."""
    original, may_go_on = os.fdatasync, threading.Event()
    descriptors: list[int] = []

    def _fdatasync(descriptor: int) -> None:
        descriptors.append(descriptor)
        assert may_go_on.wait(WAIT_SECONDS)
        original(descriptor)

    monkeypatch.setattr(os, "fdatasync", _fdatasync)
    threads = [threading.Thread(target=put, args=(spool, bytes([number]) * 100, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(descriptors) == 8)
    assert 8 == len(set(descriptors))
    may_go_on.set()
    for thread in threads:
        thread.join()
    deliverers.unpack(100)
    assert [bytes([number]) * 100 for number in range(8)] == received(deliverers)


def test_descriptors_of_a_segment_go_with_it(spool: Spool):
    """And are used again until then."""
    for number in range(3):
        put(spool, bytes([number]), number)
    assert spool.segments is not None
    segment = spool.segments._segment
    assert segment is not None
    (descriptor,) = segment._idle
    assert segment.path == Path(f"/proc/self/fd/{descriptor}").readlink()
    del segment
    spool.segments = None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def damage(segment: Path, record: int, offset: int) -> None:
    """Change a byte of a record, counted from its beginning, as a bad disk does."""
    with segment.open("r+b", buffering=0) as file:
        start = [each.start for each in read_records(file)][record]
        byte = os.pread(file.fileno(), 1, start + offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0xFF]), start + offset)


def test_record_whose_bytes_changed_is_quarantined(spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch):
    """It is kept with its reason, durably, and those around it are delivered."""
    synced: list[int] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda each: [synced.append(os.fstat(each).st_ino), original(each)][1])
    for number in range(3):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    damage(segment, 1, 4000)
    restarted(spool)
    deliverers.unpack(100)
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(deliverers)
    ((file, reason),) = deliverers.scan_quarantined()
    assert (1, "the bytes in its segment are not those that were received") == (file.number, reason)
    assert file.path.stat().st_ino in synced


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("offset", [0, 5, 20, 26, 40])
def test_record_whose_head_is_gone_hides_none_behind_it(
    spool: Spool, deliverers: Spool, caplog: Any, offset: int, limit: int
):
    """The records behind are delivered, and the segment is kept for an operator."""
    for number in range(3):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    damage(segment, 1, offset)
    restarted(spool)
    while deliverers.unpack(limit):
        pass
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(deliverers)
    assert [] == list(spool.lane.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in spool.quarantined.glob("*.damaged")]
    assert "segment_damaged" in caplog.text


@pytest.mark.parametrize("offset", [20, 26, 40])
def test_last_record_whose_head_is_gone_keeps_the_segment(spool: Spool, deliverers: Spool, offset: int):
    """Nothing behind it tells of the hole, but the page does."""
    for number in range(2):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    damage(segment, 1, offset)
    restarted(spool)
    deliverers.unpack(100)
    assert [bytes([1]) * 5000] == received(deliverers)
    assert [] == list(spool.lane.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in spool.quarantined.glob("*.damaged")]


def test_page_that_the_disk_does_not_give_hides_none_behind_it(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch
):
    """One bad page in one segment stops neither this segment nor the others."""
    for number in range(3):
        put(spool, bytes([number + 1]) * 100, number)
    (segment,) = segments_of(spool.lane)
    restarted(spool)
    original = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, size, at: fails() if at == 4096 else original(descriptor, size, at)
    )
    deliverers.unpack(100)
    assert [bytes([1]) * 100, bytes([3]) * 100] == received(deliverers)
    assert [] == list(spool.lane.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in spool.quarantined.glob("*.damaged")]


def test_full_volume_leaves_records_where_they_are(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """What cannot be unpacked waits; what was unpacked before it is there, and nothing is there in part."""
    for number in range(4):
        put(spool, bytes([number]) * 100, number)
    original = os.write
    written: list[int] = []

    def _write(descriptor: int, data: Any) -> int:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", _write)
        assert not deliverers.unpack(100)
    assert [bytes([0]) * 100, bytes([1]) * 100] == received(deliverers)
    assert f"set_aside path=0/{segments_of(spool.lane)[0].name} reason=No space left on device" in caplog.text
    assert not deliverers.unpack(100)
    assert 4 == len(received(deliverers))


def test_note_that_cannot_be_kept_stops_nothing(spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch):
    """On a full volume the deliverer goes on, or nothing would make room."""
    put(spool, b"one", 1)
    with monkeypatch.context() as patched:
        patched.setattr(segments, "write_offset", fails)
        assert not deliverers.unpack(100)
        assert not deliverers.unpack(100)
    assert [b"one"] == received(deliverers)
    put(spool, b"two", 2)
    assert not deliverers.unpack(100)
    assert [b"one", b"two"] == received(deliverers)


def test_segment_is_given_back_only_when_its_files_are_durable(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch
):
    """A sync that fails leaves the segment to be unpacked again, and what was made of it is not taken before."""
    put(spool, b"one", 1)
    restarted(spool)
    with monkeypatch.context() as patched:
        patched.setattr("dicomflow.edge.spool.unpacker.sync_file_system", fails)
        with pytest.raises(OSError, match="Input/output"):
            deliverers.unpack(100)
    assert 1 == len(segments_of(spool.lane))
    assert [] == received(deliverers)
    deliverers.unpack(100)
    assert [b"one"] == received(deliverers)
    assert [] == segments_of(spool.lane)


def test_files_are_synced_one_by_one_where_there_is_no_call_for_all(
    spool: Spool, deliverers: Spool, monkeypatch: pytest.MonkeyPatch
):
    """As on macOS."""
    put(spool, b"one", 1)
    put(spool, b"two", 2)
    synced: list[Path] = []
    monkeypatch.setattr("dicomflow.edge.spool.unpacker.can_sync_file_system", lambda _: False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    deliverers.unpack(100)
    assert {file.path for file in deliverers.scan_received()} <= set(synced)
    assert spool.received / "unpacked" in synced


@pytest.mark.parametrize("left", [0, 1, 4096, 8192, 8193, 12_000, 16_384, 20_000])
@pytest.mark.parametrize("kind", ["cut", "zeroed"])
def test_segment_that_is_cut_or_zeroed_leaves_a_trace(
    spool: Spool, deliverers: Spool, caplog: Any, kind: str, left: int
):
    """Whatever is gone of its end, where nothing behind tells of it: log, quarantine and count do."""
    for number in range(3):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    if kind == "cut":
        os.truncate(segment, left)
    else:
        with segment.open("r+b") as file:
            file.seek(left)
            file.write(bytes(SIZE - left))
    restarted(spool)
    deliverers.unpack(100)
    whole = min(3, left // 8192)
    assert [bytes([number + 1]) * 5000 for number in range(whole)] == received(deliverers)
    names = [path.name for path, _ in quarantined_files(spool.root)]
    assert names
    assert len(names) == count_files(spool.root)["quarantined"]
    if f"0-{segment.stem}.damaged" in names:
        assert f"segment_damaged segment={segment.name}" in caplog.text
    else:  # it is there in part
        assert f"instance_quarantined file={names[0]}" in caplog.text


def test_records_behind_a_damaged_one_are_counted_and_unpacked_while_the_worker_lives(spool: Spool, deliverers: Spool):
    """They are known to be written, so nobody has to wait until the segment is complete."""
    for number in range(3):
        put(spool, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(spool.lane)
    damage(segment, 1, 20)
    assert 3 == count_files(spool.root)["received"]  # the damaged one too: nobody knows what it was
    deliverers.unpack(100)
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(deliverers)
    put(spool, b"four", 4)
    deliverers.unpack(100)
    assert 3 == len(received(deliverers))


def test_note_of_how_far_a_segment_is_unpacked_is_not_believed_where_it_has_changed(spool: Spool, deliverers: Spool):
    """A digit that the disk has changed would leave out what was acknowledged."""
    put(spool, b"one", 1)
    deliverers.unpack(100)
    (segment,) = segments_of(spool.lane)
    note = segment.with_suffix(".at")
    good = note.read_bytes()
    for position in range(len(good)):
        for other in (b"9", b"\0", b" "):
            note.write_bytes(good[:position] + other + good[position + 1 :])
            assert segments.read_offset(segment) == (4096 if note.read_bytes() == good else 0)


def test_segment_of_another_user_stops_no_other(spool: Spool, deliverers: Spool, monkeypatch: Any, caplog: Any):
    """It is set aside, and unpacked when it can be read."""
    put(spool, b"one", 1)
    (bad,) = segments_of(spool.lane)
    again = restarted(spool, segment_bytes=SIZE)
    put(again, b"two", 2)
    original = unpacker.open_regular
    with monkeypatch.context() as patched:
        patched.setattr(unpacker, "open_regular", lambda path: denies() if path == bad else original(path))
        deliverers.unpack(100)
    assert [b"two"] == received(deliverers)
    assert f"set_aside path=0/{bad.name} reason=Permission denied" in caplog.text
    deliverers.aside = deliverers._unpacker._aside = SetAside()
    deliverers.unpack(100)
    assert [b"one", b"two"] == received(deliverers)


def test_free_segments_are_given_up_where_space_is_short(spool: Spool, deliverers: Spool):
    """They are only kept to be fast; the worker makes new ones."""
    put(spool, b"one", 1)
    restarted(spool)
    deliverers.unpack(100)
    assert 1 == len(list(spool.lane.glob("*.free")))
    deliverers.make_room()
    assert [] == list(spool.lane.iterdir())
    put(restarted(spool, segment_bytes=SIZE), b"two", 2)


def test_associations_at_once_lose_nothing(spool: Spool, deliverers: Spool):
    """Many threads append while the deliverer unpacks: each instance is there once, whole."""
    digests: list[str] = []

    def _receive(thread: int) -> None:
        digests.extend(put(spool, os.urandom(1000 + 37 * each), 1000 * thread + each) for each in range(100))

    threads = [threading.Thread(target=_receive, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        deliverers.unpack(50)
    for thread in threads:
        thread.join()
    deliverers.unpack(1000)
    files = list(deliverers.scan_received())
    assert sorted(digests) == sorted(file.sha256 for file in files)
    assert all(hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256 for file in files)


def test_worker_receives_small_instances_into_segments(
    receiver: Any, scu: Any, data_set: Any, part10: Any, monkeypatch: pytest.MonkeyPatch
):
    """Over an association, with data sets that pydicom has to read too."""
    receiver.spool.segments = receiver.spool._prepared(SIZE)
    uids = [f"1.2.3.{number}" for number in range(30)]
    for uid in uids:
        assert 0 == scu.store(data_set(uid), affected_sop_instance_uid=uid.encode()).status
    monkeypatch.setattr("dicomflow.edge.receive.storage.scan", lambda *_, **__: None)
    assert 0 == scu.store(data_set("1.2.4"), affected_sop_instance_uid=b"1.2.4").status
    Spool(receiver.spool.root).unpack(100)
    assert [part10(uid) for uid in [*uids, "1.2.4"]] == receiver.stored()
