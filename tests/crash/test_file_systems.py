"""Power loss on real file systems: an image is copied under a mounted spool, and the copy is mounted and read.

The copy holds what the file system has written and nothing that is only in memory. Needs root and a loop device, so it
runs where `DICOMFLOW_TEST_FILE_SYSTEMS=1`; elsewhere it is not collected.
"""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomflow.edge.spool import spares
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane, discard_incoming
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.spares import Spares

IMAGE_BYTES = 400 << 20  # btrfs and xfs make nothing smaller than 300 MB
COMMANDS = {
    "ext4": ["mkfs.ext4", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
THREADS = 4
INSTANCES = 400

pytestmark = pytest.mark.slow


class Disk:
    """An image with a file system, mounted in `root`; `cut` goes back to what is on it, as a power cut does."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._image, self.root = folder / "disk", folder / "mounted"
        self.root.mkdir()
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        run([*COMMANDS[kind], str(self._image)])
        run(["mount", "-o", "loop", str(self._image), str(self.root)])

    def cut(self) -> None:
        """Copy the image under the mounted file system, and mount the copy in its place, repaired as at a boot."""
        copy = self._image.with_name("copy")
        # It holds the pages that were written, and none that the kernel still keeps for the mounted one.
        shutil.copyfile(self._image, copy)
        self.close()
        subprocess.run(
            ["e2fsck", "-fy", str(copy)], check=False, capture_output=True
        )  # other kinds repair when mounted
        run(["mount", "-o", "loop", str(copy), str(self.root)])
        copy.replace(self._image)

    def close(self) -> None:
        """Unmount it."""
        run(["umount", str(self.root)])


def run(command: list[str]) -> str:
    """Run a command that must succeed, and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=list(COMMANDS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Give a disk of each kind."""
    made = Disk(request.param, tmp_path)
    yield made
    made.close()


def receive(lane: Lane, numbers: range, acknowledged: set[str]) -> list[ReceivedFile]:
    """Receive instances of some kilobytes, add their digests, and return the files that they are in."""
    files = []
    for number in numbers:
        content = f"instance {number}".encode() * 700
        file = lane.create(f"{number % 7:032}", number, len(content))
        files.append(ReceivedFile.of(file.write([content]).commit("10.0.0.1")))
        acknowledged.add(hashlib.sha256(content).hexdigest())
    return [file for file in files if file is not None]


def surviving(disk: Disk) -> set[str]:
    """Cut the power, and return the digests of the instances that a start finds whole."""
    disk.cut()
    spool = Spool(disk.root / "spool")
    discard_incoming(spool)
    spool.discard_stored()
    while spool.unpack(1000):
        pass
    spool._unpacker.close()  # or the file system could not be unmounted
    files = [*spool.scan_received(), *(file for file, _ in spool.scan_quarantined())]
    for folder in spool.delivering.iterdir():
        files += spool.scan_delivery(folder.name)
    return {file.sha256 for file in files if file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("segment_bytes", [0, 1 << 20])
def test_power_loss_after_the_answer_keeps_bytes_and_name(disk: Disk, segment_bytes: int) -> None:
    """Four associations have their answers, nothing else was synced, and the power goes: every instance is there."""
    lane = Lane(disk.root / "spool", segment_bytes=segment_bytes)
    acknowledged: set[str] = set()
    threads = [
        threading.Thread(target=receive, args=(lane, range(each, INSTANCES, THREADS), acknowledged))
        for each in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lane.segments = None  # or the file system could not be unmounted
    assert INSTANCES == len(acknowledged)
    assert acknowledged <= surviving(disk)


def test_power_loss_while_a_delivery_is_gathered_keeps_every_instance(disk: Disk) -> None:
    """Some have moved to their delivery, one to the quarantine, some nowhere yet."""
    spool = Spool(disk.root / "spool")
    acknowledged: set[str] = set()
    files = receive(Lane(spool.root), range(60), acknowledged)
    for file in files[:40]:
        spool.assign(file, f"d{file.number % 3}")
    spool.sync_deliveries(["d0", "d1", "d2"])
    for file in files[40:50]:
        spool.assign(file, "d0")
    spool.quarantine(files[50], "refused")
    assert acknowledged <= surviving(disk)


def test_power_loss_while_segments_are_unpacked_and_used_again_keeps_every_instance(disk: Disk) -> None:
    """Some were unpacked, some of those are in a delivery, their segments hold others, and some wait in the last."""
    lane, spool = Lane(disk.root / "spool", segment_bytes=1 << 20), Spool(disk.root / "spool")
    acknowledged: set[str] = set()
    receive(lane, range(300), acknowledged)
    while spool.unpack(100):
        pass
    for file in list(spool.scan_received())[:100]:
        spool.assign(file, "d1")
    spool.sync_deliveries(["d1"])
    receive(lane, range(300, 500), acknowledged)
    spool.unpack(50)
    spool._unpacker.close()
    receive(lane, range(500, 600), acknowledged)
    lane.segments = None
    assert acknowledged <= surviving(disk)


def test_power_loss_while_spares_are_written_over_keeps_every_instance(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a stored delivery were written over, some to their end, and one is being written."""
    monkeypatch.setattr(spares, "LEAST_BYTES", 1)
    lane, spool = (kind(disk.root / "spool", spare_bytes=16 << 20) for kind in (Lane, Spool))
    stored: set[str] = set()
    acknowledged: set[str] = set()
    for file in receive(lane, range(10, 60), stored):
        spool.assign(file, "d1")
    spool.sync_deliveries(["d1"])
    spool.remove_delivery("d1")
    reused = {path.stat().st_ino for path in (spool.root / "spares").iterdir()}
    lane.spares = Spares(lane.spares_folder, 16 << 20)  # which has not looked yet
    files = receive(lane, range(60, 99), acknowledged)
    assert {file.path.stat().st_ino for file in files} < reused
    unfinished = lane.create("a" * 32, 2000, 7500)
    unfinished.write([b"unfinished" * 750])
    unfinished._close()  # or the file system could not be unmounted
    found = surviving(disk)
    assert acknowledged <= found
    assert found.isdisjoint(stored)

    # The next run takes no file for a spare that power loss has left to an instance.
    receive(Lane(disk.root / "spool", spare_bytes=16 << 20), range(100, 170), acknowledged)
    assert acknowledged <= surviving(disk)


def test_power_loss_takes_what_was_not_synced(disk: Disk) -> None:
    """The test itself: without fsync the instances are gone, so that the other tests can fail."""
    acknowledged: set[str] = set()
    receive(Lane(disk.root / "spool", fsync=False), range(10), acknowledged)
    assert set() == surviving(disk)
