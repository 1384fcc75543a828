"""Power loss at each system call, by a model of what a file system may have forgotten: nothing acknowledged is lost.

The calls are made for real; the model follows them and is asked, before and after each, for every state that the disk
could be in. A file's bytes are certain after its fsync. Changes of names are on disk in the order they were made, up to
some point: at least to the last change of a folder that was synced, and on some file systems to the last new name of a
file that was. `test_file_systems.py` asks real ones.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forgetting import CALLS, Change, NamesJournal, inode_of

from dicomflow.edge.spool import lane as lane_module
from dicomflow.edge.spool import spares, unpacker
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.records import read_records
from dicomflow.edge.spool.segments import Segments

ASSOCIATION = "a" * 32
# Whether an fsync of a file makes its new name durable.
KINDS = {"named by fsync": True, "named by its folder": False}
SUFFIXES = {"", ".dcm", ".segment", ".stored"}
Names = dict[tuple[int, str], int]


class Disk:
    """What may have survived. One owner: the test; it patches `os` for as long as the fixture lives."""

    def __init__(self, lane: Lane, spool: Spool, patch: pytest.MonkeyPatch, *, has_syncfs: bool = True) -> None:
        self.lane, self.spool = lane, spool
        self.acknowledged: set[str] = set()
        self.stored: set[str] = set()
        self.states = 0
        self._roots = {inode_of(each) for each in (spool.received, spool.delivering, spool.quarantined)}
        # Of names that no instance can have, and none be in, all that happens is the same.
        counts = lambda name: Path(name).suffix in SUFFIXES  # noqa: E731
        self._journal = NamesJournal(is_named_by_fsync=lane.is_named_by_fsync, counts=counts)
        self._certain: Names = {}
        self._synced: dict[int, str] = {}
        unpacked = spool.unpacked
        for folder in (
            spool.received,
            lane.folder,
            unpacked,
            spool.delivering,
            spool.quarantined,
            spool.root / "spares",
        ):
            self._certain[inode_of(folder.parent), folder.name] = inode_of(folder)
        for name in CALLS:
            patch.setattr(os, name, self._named(name, getattr(os, name)))
        for name in ("write", "writev", "ftruncate"):
            patch.setattr(os, name, self._followed(getattr(os, name), self._written))
        patch.setattr(os, "pwrite", self._followed(os.pwrite, self._written_at))
        patch.setattr(os, "fsync", self._followed(os.fsync, self._fsynced))
        patch.setattr(os, "fdatasync", self._followed(os.fdatasync, self._records_synced))
        patch.setattr(unpacker, "can_sync_file_system", lambda _: has_syncfs)
        patch.setattr(unpacker, "sync_file_system", self._followed(lambda _: None, self._all_synced))
        # Of each segment the records that were in it when it was last synced and are not written over since.
        self._records: dict[int, dict[str, tuple[int, int]]] = {}

    def check(self) -> None:
        """Assert that whatever survived, each instance that was acknowledged is there or in the store."""
        for names in self._possible():
            self.states += 1
            whole = set(self._whole(names))
            lost = self.acknowledged - self.stored - whole
            assert not lost, f"{len(lost)} lost; uncertain: {self._journal.uncertain}"

    def _possible(self) -> Iterator[Names]:
        uncertain = self._journal.uncertain
        for length in range(len(uncertain) + 1):
            yield _changed(self._certain, itertools.chain(*uncertain[:length]))

    def _whole(self, names: Names) -> Iterator[str]:
        """Yield the digests of the instances that a start would find, by their names, and whose bytes are certain."""
        folders = set(self._roots)
        while True:  # folders within folders that are there
            inner = {ino for (folder, _), ino in names.items() if folder in folders} | folders
            if inner == folders:
                break
            folders = inner
        for (folder, name), ino in names.items():
            digest = name.removesuffix(".dcm").rpartition("_")[2]
            if folder in folders and name.endswith(".dcm") and self._synced.get(ino) == digest:
                yield digest
            if folder in folders and name.endswith(".segment"):
                yield from self._records.get(ino, ())

    def _named(self, name: str, call: Callable[..., Any]) -> Any:
        def _call(*arguments: Any, **keywords: Any) -> Any:
            self.check()
            answer = self._journal.follow(name, lambda: call(*arguments, **keywords), arguments)
            self.check()
            return answer

        return _call

    def _followed(self, call: Callable[..., Any], then: Callable[..., None]) -> Any:
        def _call(*arguments: Any, **keywords: Any) -> Any:
            self.check()
            answer = call(*arguments, **keywords)
            then(*arguments)
            self.check()
            return answer

        return _call

    def _written(self, descriptor: int, *_: Any) -> None:
        self._synced.pop(os.fstat(descriptor).st_ino, None)

    def _written_at(self, descriptor: int, data: bytes, offset: int) -> None:
        self._written(descriptor)
        kept = self._records.get(os.fstat(descriptor).st_ino, {})
        for digest, (start, end) in list(kept.items()):
            if start < offset + len(data) and offset < end:
                del kept[digest]

    def _records_synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.suffix == ".segment":
            with path.open("rb", buffering=0) as file:
                records = [each for each in read_records(file) if each.is_whole]
            self._records[os.fstat(descriptor).st_ino] = {
                each.name.rpartition("_")[2]: (each.start, each.end) for each in records
            }

    def _all_synced(self, _descriptor: int) -> None:
        # Names are left to the sync of their folder.
        for path in self.spool.root.rglob("*.dcm"):
            self._synced[inode_of(path)] = hashlib.sha256(path.read_bytes()).hexdigest()

    def _fsynced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            self._records_synced(descriptor)
            content = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self._synced[status.st_ino] = hashlib.sha256(content).hexdigest()
        self._certain = _changed(self._certain, itertools.chain(*self._journal.synced(descriptor)))


def _changed(names: Names, changes: Iterable[Change]) -> Names:
    changed = dict(names)
    for folder, name, ino in changes:
        if ino is None:
            changed.pop((folder, name), None)
        else:
            changed[folder, name] = ino
    return changed


@pytest.fixture
def disk_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Disk]:
    """Give a spool on a disk that forgets."""

    def _disk_of(kind: str, *, fsync: bool = True, segment_bytes: int = 0, has_syncfs: bool = True) -> Disk:
        monkeypatch.setattr(lane_module, "is_named_by_fsync", lambda _: KINDS[kind])
        lane = Lane(tmp_path / "spool", spare_bytes=1 << 20, fsync=fsync)
        spool = Spool(lane.root, spare_bytes=1 << 20, fsync=fsync)
        disk = Disk(lane, spool, monkeypatch, has_syncfs=has_syncfs)
        if segment_bytes:
            # Begun under the eyes of the model.
            lane.segments = Segments(lane.folder, segment_bytes, fsync=fsync, rename_durably=lane.rename_durably)
        return disk

    return _disk_of


def receive(disk: Disk, number: int) -> Any:
    """Receive an instance; when this returns it is acknowledged. Returns its file, if it has one."""
    content = f"instance {number}".encode()
    file = disk.lane.create(ASSOCIATION, number, len(content))
    received = file.write([content]).commit("10.0.0.1")
    disk.acknowledged.add(hashlib.sha256(content).hexdigest())
    disk.check()
    return ReceivedFile.of(received)


def deliver(disk: Disk, files: list[ReceivedFile]) -> None:
    """Take instances through a delivery, to the removal of what is stored."""
    assigned = [disk.spool.assign(file, "d1") for file in files]
    disk.spool.sync_deliveries(["d1"])
    disk.stored |= {file.sha256 for file in assigned}
    disk.spool.remove_delivery("d1")


@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_at_any_call_of_a_delivery_loses_no_acknowledged_object(disk_of: Callable[..., Disk], kind: str):
    """From the first byte to the removal of what is stored, in every state that a disk may be left in."""
    disk = disk_of(kind)
    deliver(disk, [receive(disk, number) for number in range(3)])
    assert disk.states > 100
    assert 3 == len(disk.acknowledged)


@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_while_spares_are_written_over_loses_no_acknowledged_object(
    disk_of: Callable[..., Disk], kind: str, monkeypatch: pytest.MonkeyPatch
):
    """A second delivery arrives over the files of the first, while others wait."""
    monkeypatch.setattr(spares, "_LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(spares, "LEAST_BYTES", 1)
    disk = disk_of(kind)
    waiting = receive(disk, 0)
    deliver(disk, [receive(disk, 1)])
    reused = [path.stat().st_ino for path in (disk.spool.root / "spares").iterdir()]
    again = [receive(disk, number) for number in (2, 3)]
    assert set(reused) < {file.path.stat().st_ino for file in again}
    deliver(disk, [waiting, *again])


def test_power_loss_is_found_where_a_file_is_written_over_too_early(
    disk_of: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
):
    """The model itself: a file that is still wanted and is kept as a spare is lost."""
    monkeypatch.setattr(spares, "LEAST_BYTES", 1)
    disk = disk_of("named by fsync")
    file = receive(disk, 0)
    with pytest.raises(AssertionError, match="1 lost"):
        disk.spool.spares.keep([file.path])


@pytest.mark.parametrize("has_syncfs", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_at_any_call_of_a_segment_loses_no_acknowledged_object(
    disk_of: Callable[..., Disk], kind: str, *, has_syncfs: bool
):
    """Small instances are appended, unpacked and delivered, and later ones are written over them."""
    disk = disk_of(kind, segment_bytes=2 * 4096, has_syncfs=has_syncfs)
    numbers = itertools.count()
    for _ in range(4):
        for _ in range(2):
            receive(disk, next(numbers))
        disk.spool.unpack(1)
        disk.spool.unpack(100)
        deliver(disk, list(disk.spool.scan_received()))
    receive(disk, next(numbers))
    assert disk.states > 200
    assert [] != list(disk.lane.folder.glob("*.segment"))
    assert 3 >= len({path.stat().st_ino for path in disk.lane.folder.iterdir() if path.suffix not in {".at", ".end"}})


def test_power_loss_is_found_where_a_segment_is_given_back_too_early(
    disk_of: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
):
    """The model itself: a segment that is free before its files are durable takes its instances with it."""
    disk = disk_of("named by fsync", segment_bytes=4 * 4096)
    receive(disk, 0)
    monkeypatch.setattr(disk.spool._unpacker, "_fsync", False)
    disk.lane.segments = None
    with pytest.raises(AssertionError, match="1 lost"):
        disk.spool.unpack(100)


def test_power_loss_is_found_where_a_record_is_not_synced(
    disk_of: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
):
    """The model itself: a record that is answered before its sync is lost."""
    disk = disk_of("named by fsync", segment_bytes=4 * 4096)
    assert disk.lane.segments is not None
    monkeypatch.setattr(disk.lane.segments, "_fsync", False)
    with pytest.raises(AssertionError, match="1 lost"):
        receive(disk, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_at_any_call_of_a_quarantine_loses_no_acknowledged_object(disk_of: Callable[..., Disk], kind: str):
    """Into quarantine, back to the received ones, and to its delivery."""
    disk = disk_of(kind)
    spool = disk.spool
    spool.quarantine(receive(disk, 0), "refused")
    ((file, reason),) = spool.scan_quarantined()
    assert "refused" == reason
    spool.release(file)
    (released,) = spool.scan_received()
    deliver(disk, [released])


@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_is_found_where_nothing_is_synced(disk_of: Callable[..., Disk], kind: str):
    """The model itself: without fsync the first acknowledged instance can be lost."""
    disk = disk_of(kind, fsync=False)
    with pytest.raises(AssertionError, match="1 lost"):
        receive(disk, 0)


def test_power_loss_is_found_where_a_name_is_not_synced(disk_of: Callable[..., Disk]):
    """The model itself: taken for one that names by fsync, another file system can lose the name of a synced file."""
    disk = disk_of("named by its folder")
    disk.lane.is_named_by_fsync = True
    with pytest.raises(AssertionError, match="1 lost"):
        receive(disk, 0)
