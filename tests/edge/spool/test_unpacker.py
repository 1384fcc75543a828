"""From segments to files: what is whole in a segment is delivered, and damage is told."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from segmented import ASSOCIATION, SIZE, damage, end, fails, put, received, restarted

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool import segments, unpacker
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.notes import read_offset
from dicomflow.edge.spool.room import Room
from dicomflow.edge.spool.rotation import segments_of
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.space import Space
from dicomflow.edge.spool.view import count_files, count_records, quarantined_files

pytestmark = pytest.mark.skipif(not segments.is_supported, reason="segments need pwrite and fdatasync (not on Windows)")


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    """Give the lane of a worker that has small segments."""
    return Lane(tmp_path / "spool", segment_bytes=SIZE)


@pytest.fixture
def spool(lane: Lane) -> Spool:
    """Give its spool as the deliverer has it."""
    return Spool(lane.root)


def test_unpacked_file_has_the_time_it_was_received_at(lane: Lane, spool: Spool):
    """Not the time it was unpacked at: the manifest tells when an instance came."""
    before = time.time()
    put(lane)
    after = time.time()
    time.sleep(0.05)
    spool.unpack(100)
    (file,) = spool.scan_received()
    assert before - 0.01 <= file.path.stat().st_mtime <= after + 0.01


def test_limit_leaves_the_rest_for_the_next_time(lane: Lane, spool: Spool):
    """The deliverer unpacks some, does other work, and goes on where it was."""
    for number in range(10):
        put(lane, bytes([number]) * 100, number)
    assert spool.unpack(4)
    assert 4 == len(received(spool))
    assert (6, 4) == (count_records(lane.folder)[0], len(list(spool.scan_received())))
    assert spool.unpack(6)
    assert not spool.unpack(4)
    assert [bytes([number]) * 100 for number in range(10)] == received(spool)


def test_files_whose_sync_failed_are_made_anew(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """They can be read back although the kernel dropped their pages, and the next sync succeeds all the same."""
    spool.unpack(100)
    for number in range(2):
        put(lane, bytes([number]) * 100, number)
    end(lane)
    with monkeypatch.context() as patched:
        patched.setattr("dicomflow.edge.spool.unpacker.sync_file_system", fails)
        with pytest.raises(OSError, match="Input/output"):
            spool.unpack(100)
    again = Spool(lane.root)
    before = {file.number: file.path.stat().st_ino for file in again.scan_received()}
    kept = [file.path.open("rb") for file in again.scan_received()]  # so that no inode is used again
    again.unpack(100)
    after = {file.number: file.path.stat().st_ino for file in again.scan_received()}
    assert set(before) == set(after) == {0, 1}
    assert set(before.values()).isdisjoint(after.values())
    assert [] == segments_of(lane.folder)
    for file in kept:
        file.close()


def test_damage_is_not_forgotten_over_a_restart(lane: Lane):
    """The next deliverer comes past it again."""
    for number in range(3):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    damage(segment, 1, 20)
    end(lane)
    for _ in range(2):
        Spool(lane.root).unpack(1)
    while Spool(lane.root).unpack(100):
        pass
    assert [] == list(lane.folder.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in lane.quarantined.glob("*.damaged")]


def test_note_of_another_segment_is_not_believed(lane: Lane, spool: Spool):
    """After power loss a note's block may be one that another note had."""
    put(lane, b"one", 1)
    spool.unpack(100)
    (segment,) = segments_of(lane.folder)
    assert read_offset(segment) > 0
    note = segment.with_suffix(".at")
    note.write_bytes(b"0" * 16 + note.read_bytes()[16:])
    assert 0 == read_offset(segment)


def test_unreadable_file_stops_no_others(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    """A bad page under a file that was unpacked before: it stays, and the log names it."""
    put(lane, b"one", 1)
    end(lane)
    spool.unpack(100)
    (bad,) = spool.scan_received()
    original = unpacker.open_regular
    monkeypatch.setattr(unpacker, "open_regular", lambda path: fails() if path == bad.path else original(path))
    put(Lane(lane.root, segment_bytes=SIZE), b"two", 2)
    Spool(lane.root).unpack(100)
    assert 2 == len(list(spool.scan_received()))
    assert f"set_aside path=unpacked/{bad.path.name} reason=Input/output error" in caplog.text


def test_deliverer_that_starts_again_makes_nothing_twice(lane: Lane, spool: Spool):
    """It goes on where the last one was, also where that was killed before it noted how far it had come."""
    for number in range(3):
        put(lane, bytes([number]) * 100, number)
    spool.unpack(100)
    (segment,) = segments_of(lane.folder)
    files = sorted(spool.scan_received(), key=lambda each: each.number)
    for file in files[:2]:
        spool.assign(file, "d1")
    spool.sync_deliveries(["d1"])
    again = Spool(lane.root)
    assert not again.unpack(100)
    assert [files[2]] == list(again.scan_received())
    segment.with_suffix(".at").unlink()
    again = Spool(lane.root)
    assert not again.unpack(100)
    assert [files[2]] == list(again.scan_received())
    assert 2 == len(list(again.scan_delivery("d1")))


@pytest.mark.parametrize("limit", [1, 100])
def test_half_made_file_of_an_earlier_run_is_never_taken(lane: Lane, limit: int):
    """Power loss leaves a file whose head can be read and whose tail is not there: it is made again before all else."""
    contents = [os.urandom(20_000) for _ in range(3)]
    digests = [put(lane, content, number) for number, content in enumerate(contents)]
    for number in (0, 2):
        name = f"{ASSOCIATION}_{number:08}_10.0.0.1_{digests[number]}.dcm"
        (lane.received / "unpacked" / name).write_bytes(contents[number][:5000])
    deliverer = Spool(lane.root)
    found: dict[int, bytes] = {}
    for _ in range(10):
        deliverer.unpack(limit)
        for file in list(deliverer.scan_received()):
            found[file.number] = file.path.read_bytes()
            deliverer.assign(file, "d1")
        deliverer.sync_deliveries(["d1"])
    assert dict(enumerate(contents)) == found
    assert [] == list(deliverer.scan_quarantined())


def test_half_made_file_that_no_segment_has_is_quarantined(lane: Lane):
    """It is not deleted: it is all there is."""
    name = f"{ASSOCIATION}_00000001_10.0.0.1_{'0' * 64}.dcm"
    (lane.received / "unpacked" / name).write_bytes(b"half")
    deliverer = Spool(lane.root)
    deliverer.unpack(100)
    ((file, reason),) = deliverer.scan_quarantined()
    assert (1, "its bytes are not those that were received, and no segment has them") == (file.number, reason)


def test_segment_of_a_dead_worker_is_unpacked_and_given_back(lane: Lane, spool: Spool):
    """The next worker of the lane begins another segment, and the old one is free when all of it is unpacked."""
    put(lane, b"one", 1)
    (old,) = segments_of(lane.folder)
    inode = old.stat().st_ino
    again = restarted(lane)
    put(again, b"two", 2)
    assert 2 == len(segments_of(lane.folder))
    spool.unpack(100)
    assert [b"one", b"two"] == received(spool)
    (free,) = lane.folder.glob("*.free")
    assert inode == free.stat().st_ino
    assert [] == list(lane.folder.glob(f"{old.stem}*"))


def test_hole_in_front_of_a_struck_record_is_damage(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """A record may have been there whose head the disk has lost: the segment is kept."""
    put(lane, b"lost", 0)
    (segment,) = segments_of(lane.folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            put(lane, b"struck", 1)
    damage(segment, 0, 5)
    end(lane)
    spool.unpack(100)
    assert [] == list(lane.folder.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in lane.quarantined.glob("*.damaged")]
    assert "segment_damaged" in caplog.text


def test_file_that_is_there_is_not_replaced_by_a_damaged_record(lane: Lane, spool: Spool):
    """It was made of the record while that was whole, and only the note of it was lost."""
    put(lane, b"a" * 5000, 1)
    (segment,) = segments_of(lane.folder)
    spool.unpack(100)
    segment.with_suffix(".at").unlink()
    damage(segment, 0, 4000)
    end(lane)
    again = Spool(lane.root)
    again.unpack(100)
    assert [b"a" * 5000] == received(again)
    assert [] == list(again.scan_quarantined())


def denies() -> Any:
    """Refuse as the system does what belongs to another user."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_record_whose_bytes_changed_is_quarantined(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """It is kept with its reason, durably, and those around it are delivered."""
    synced: list[int] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda each: [synced.append(os.fstat(each).st_ino), original(each)][1])
    for number in range(3):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    damage(segment, 1, 4000)
    end(lane)
    spool.unpack(100)
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(spool)
    ((file, reason),) = spool.scan_quarantined()
    assert (1, "the bytes in its segment are not those that were received") == (file.number, reason)
    assert file.path.stat().st_ino in synced


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("offset", [0, 5, 20, 26, 40])
def test_record_whose_head_is_gone_hides_none_behind_it(lane: Lane, spool: Spool, caplog: Any, offset: int, limit: int):
    """The records behind are delivered, and the segment is kept for an operator."""
    for number in range(3):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    damage(segment, 1, offset)
    end(lane)
    while spool.unpack(limit):
        pass
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(spool)
    assert [] == list(lane.folder.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in lane.quarantined.glob("*.damaged")]
    assert "segment_damaged" in caplog.text


@pytest.mark.parametrize("offset", [20, 26, 40])
def test_last_record_whose_head_is_gone_keeps_the_segment(lane: Lane, spool: Spool, offset: int):
    """Nothing behind it tells of the hole, but the page does."""
    for number in range(2):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    damage(segment, 1, offset)
    end(lane)
    spool.unpack(100)
    assert [bytes([1]) * 5000] == received(spool)
    assert [] == list(lane.folder.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in lane.quarantined.glob("*.damaged")]


def test_page_that_the_disk_does_not_give_hides_none_behind_it(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    """One bad page in one segment stops neither this segment nor the others."""
    for number in range(3):
        put(lane, bytes([number + 1]) * 100, number)
    (segment,) = segments_of(lane.folder)
    end(lane)
    original = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, size, at: fails() if at == 4096 else original(descriptor, size, at)
    )
    spool.unpack(100)
    assert [bytes([1]) * 100, bytes([3]) * 100] == received(spool)
    assert [] == list(lane.folder.iterdir())
    assert [f"0-{segment.stem}.damaged"] == [path.name for path in lane.quarantined.glob("*.damaged")]


def test_full_volume_leaves_records_where_they_are(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """What cannot be unpacked waits; what was unpacked before it is there, and nothing is there in part."""
    for number in range(4):
        put(lane, bytes([number]) * 100, number)
    original = os.write
    written: list[int] = []

    def _write(descriptor: int, data: Any) -> int:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", _write)
        assert not spool.unpack(100)
    assert [bytes([0]) * 100, bytes([1]) * 100] == received(spool)
    assert f"set_aside path=0/{segments_of(lane.folder)[0].name} reason=No space left on device" in caplog.text
    assert not spool.unpack(100)
    assert 4 == len(received(spool))


def test_note_that_cannot_be_kept_stops_nothing(lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch):
    """On a full volume the deliverer goes on, or nothing would make room."""
    put(lane, b"one", 1)
    with monkeypatch.context() as patched:
        patched.setattr(unpacker, "write_offset", fails)
        assert not spool.unpack(100)
        assert not spool.unpack(100)
    assert [b"one"] == received(spool)
    put(lane, b"two", 2)
    assert not spool.unpack(100)
    assert [b"one", b"two"] == received(spool)


def test_segment_is_given_back_only_when_its_files_are_durable(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    """A sync that fails leaves the segment to be unpacked again, and what was made of it is not taken before."""
    put(lane, b"one", 1)
    end(lane)
    with monkeypatch.context() as patched:
        patched.setattr("dicomflow.edge.spool.unpacker.sync_file_system", fails)
        with pytest.raises(OSError, match="Input/output"):
            spool.unpack(100)
    assert 1 == len(segments_of(lane.folder))
    assert [] == received(spool)
    spool.unpack(100)
    assert [b"one"] == received(spool)
    assert [] == segments_of(lane.folder)


def test_files_are_synced_one_by_one_where_there_is_no_call_for_all(
    lane: Lane, spool: Spool, monkeypatch: pytest.MonkeyPatch
):
    """As on macOS."""
    put(lane, b"one", 1)
    put(lane, b"two", 2)
    synced: list[Path] = []
    monkeypatch.setattr("dicomflow.edge.spool.unpacker.can_sync_file_system", lambda _: False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    spool.unpack(100)
    assert {file.path for file in spool.scan_received()} <= set(synced)
    assert lane.received / "unpacked" in synced


@pytest.mark.parametrize("left", [0, 1, 4096, 8192, 8193, 12_000, 16_384, 20_000])
@pytest.mark.parametrize("kind", ["cut", "zeroed"])
def test_segment_that_is_cut_or_zeroed_leaves_a_trace(lane: Lane, spool: Spool, caplog: Any, kind: str, left: int):
    """Whatever is gone of its end, where nothing behind tells of it: log, quarantine and count do."""
    for number in range(3):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    if kind == "cut":
        os.truncate(segment, left)
    else:
        with segment.open("r+b") as file:
            file.seek(left)
            file.write(bytes(SIZE - left))
    end(lane)
    spool.unpack(100)
    whole = min(3, left // 8192)
    assert [bytes([number + 1]) * 5000 for number in range(whole)] == received(spool)
    names = [path.name for path, _ in quarantined_files(lane.root)]
    assert names
    assert len(names) == count_files(lane.root)["quarantined"]
    if f"0-{segment.stem}.damaged" in names:
        assert f"segment_damaged segment={segment.name}" in caplog.text
    else:  # it is there in part
        assert f"instance_quarantined file={names[0]}" in caplog.text


def test_records_behind_a_damaged_one_are_counted_and_unpacked_while_the_worker_lives(lane: Lane, spool: Spool):
    """They are known to be written, so nobody has to wait until the segment is complete."""
    for number in range(3):
        put(lane, bytes([number + 1]) * 5000, number)
    (segment,) = segments_of(lane.folder)
    damage(segment, 1, 20)
    assert 3 == count_files(lane.root)["received"]  # the damaged one too: nobody knows what it was
    spool.unpack(100)
    assert [bytes([1]) * 5000, bytes([3]) * 5000] == received(spool)
    put(lane, b"four", 4)
    spool.unpack(100)
    assert 3 == len(received(spool))


def test_note_of_how_far_a_segment_is_unpacked_is_not_believed_where_it_has_changed(lane: Lane, spool: Spool):
    """A digit that the disk has changed would leave out what was acknowledged."""
    put(lane, b"one", 1)
    spool.unpack(100)
    (segment,) = segments_of(lane.folder)
    note = segment.with_suffix(".at")
    good = note.read_bytes()
    for position in range(len(good)):
        for other in (b"9", b"\0", b" "):
            note.write_bytes(good[:position] + other + good[position + 1 :])
            assert read_offset(segment) == (4096 if note.read_bytes() == good else 0)


def test_segment_of_another_user_stops_no_other(lane: Lane, spool: Spool, monkeypatch: Any, caplog: Any):
    """It is set aside, and unpacked when it can be read."""
    put(lane, b"one", 1)
    (bad,) = segments_of(lane.folder)
    again = restarted(lane)
    put(again, b"two", 2)
    original = unpacker.open_regular
    with monkeypatch.context() as patched:
        patched.setattr(unpacker, "open_regular", lambda path: denies() if path == bad else original(path))
        spool.unpack(100)
    assert [b"two"] == received(spool)
    assert f"set_aside path=0/{bad.name} reason=Permission denied" in caplog.text
    spool.aside = spool._unpacker._aside = SetAside()
    spool.unpack(100)
    assert [b"one", b"two"] == received(spool)


def test_free_segments_are_given_up_where_space_is_short(lane: Lane, spool: Spool):
    """They are only kept to be fast; the worker makes new ones."""
    put(lane, b"one", 1)
    end(lane)
    spool.unpack(100)
    assert 1 == len(list(lane.folder.glob("*.free")))
    settings = SpoolSettings(dir=lane.root)
    Space(spool, spool.spares, settings, Room(settings)).make()
    assert [] == list(lane.folder.iterdir())
    put(restarted(lane), b"two", 2)
