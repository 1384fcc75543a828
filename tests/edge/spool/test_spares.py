"""Spares: files of stored deliveries are written over, hold nothing of before, and are never an instance's."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool import spares as spares_module
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.spares import Spares

LIMIT_BYTES = 1 << 20


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """Give a spool that keeps spares, and looks for them each time."""
    monkeypatch.setattr(spares_module, "_LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(spares_module, "LEAST_BYTES", 1000)
    return Spool(tmp_path / "spool", spare_bytes=LIMIT_BYTES)


@pytest.fixture
def lane(spool: Spool) -> Lane:
    """Give a worker's lane in it."""
    return Lane(spool.root, spare_bytes=LIMIT_BYTES)


@pytest.fixture
def deliver(spool: Spool) -> Callable[[list[ReceivedFile]], None]:
    """Take received files through a delivery, to the removal of what is stored."""

    def _deliver(files: list[ReceivedFile]) -> None:
        for file in files:
            spool.assign(file, "d1")
        spool.sync_deliveries(["d1"])
        spool.remove_delivery("d1")

    return _deliver


def receive(lane: Lane, number: int, content: bytes) -> ReceivedFile:
    """Receive an instance."""
    file = lane.create("a1", number, len(content))
    file.write([content])
    received = ReceivedFile.of(file.commit("10.0.0.1"))
    assert received is not None
    return received


def inodes(folder: Path) -> set[int]:
    """Return which files lie in a folder."""
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def spares(spool: Spool) -> list[Path]:
    """Return the spares, oldest first."""
    return sorted((spool.root / "spares").iterdir())


@pytest.mark.parametrize("length", [4500, 5000, 5500])
def test_new_instance_is_written_over_a_spare_and_holds_nothing_of_it(
    spool: Spool, lane: Lane, deliver: Callable, length: int
):
    """Shorter, as long or longer: the same file on the disk, and exactly the bytes that came."""
    deliver([receive(lane, 0, b"old" * 1666 + b"ol")])
    (inode,) = inodes(spool.root / "spares")
    content = os.urandom(length)
    received = receive(lane, 1, content)
    assert content == received.path.read_bytes()
    assert inode == received.path.stat().st_ino
    assert [] == spares(spool)
    assert hashlib.sha256(content).hexdigest() == received.sha256


def test_spare_of_another_size_is_left_for_others(spool: Spool, lane: Lane, deliver: Callable):
    """An instance that is many times as long, or a fraction, gets a new file."""
    deliver([receive(lane, 0, bytes(5000))])
    for length in (500, 50_000):
        receive(lane, length, bytes(length))
    assert 1 == len(spares(spool))


def test_instance_that_is_discarded_takes_its_spare_along(spool: Spool, lane: Lane, deliver: Callable):
    """What was half received over a spare leaves nothing."""
    deliver([receive(lane, 0, bytes(5000))])
    file = lane.create("a1", 1, 5000)
    file.write([b"half"])
    file.discard()
    assert set() == inodes(spool.received) | inodes(spool.root / "spares")


def test_oldest_spares_go_when_there_are_too_many_bytes(spool: Spool, lane: Lane, deliver: Callable):
    """What was delivered last stays, up to the limit."""
    lengths = [LIMIT_BYTES // 3 - 10_000 * number for number in range(4)]
    for file in [receive(lane, number, bytes(length)) for number, length in enumerate(lengths)]:
        deliver([file])
    assert lengths[1:] == [path.stat().st_size for path in spares(spool)]


def test_without_a_limit_no_file_stays(spool: Spool, lane: Lane, deliver: Callable):
    """With `spare_bytes = 0` a stored delivery leaves nothing, and a start removes what a longer limit left."""
    deliver([receive(lane, 0, bytes(5000))])
    assert 1 == len(spares(spool))
    frugal = Spool(spool.root)
    frugal.spares.trim()
    assert [] == spares(spool)
    deliver_to = frugal.assign(receive(Lane(spool.root), 1, bytes(5000)), "d2")
    frugal.sync_deliveries(["d2"])
    frugal.remove_delivery("d2")
    assert not deliver_to.path.exists()
    assert [] == spares(spool)


def test_spare_with_a_second_name_is_never_written_over(spool: Spool, lane: Lane, deliver: Callable, tmp_path: Path):
    """Where power loss left a file two names, of which the other may be an instance's, it keeps its bytes."""
    deliver([receive(lane, 0, b"x" * 5000)])
    other = tmp_path / "other"
    other.hardlink_to(spares(spool)[0])
    receive(lane, 1, b"y" * 5000)
    assert b"x" * 5000 == other.read_bytes()
    assert [] == spares(spool)


@pytest.mark.parametrize("name", ["open", "rename"])
def test_spare_that_cannot_be_had_is_done_without(
    spool: Spool, lane: Lane, deliver: Callable, monkeypatch: pytest.MonkeyPatch, name: str
):
    """A spare whose rename or opening fails costs nothing but the new file that the instance then takes."""
    deliver([receive(lane, 0, bytes(5000))])
    original = getattr(os, name)
    with monkeypatch.context() as patched:
        patched.setattr(os, name, _failing_once(original))
        received = receive(lane, 1, b"x" * 5000)
    assert b"x" * 5000 == received.path.read_bytes()
    assert [received.path] == [path for path in spool.received.rglob("*") if path.is_file()]


def test_file_that_cannot_be_kept_is_removed(
    spool: Spool, lane: Lane, deliver: Callable, monkeypatch: pytest.MonkeyPatch
):
    """On a full disk a stored delivery goes all the same."""
    file = receive(lane, 0, bytes(5000))
    spool.assign(file, "d1")
    spool.sync_deliveries(["d1"])
    rename = Path.rename

    def _rename(path: Path, target: Path) -> Path:
        if "spares" in str(target):
            raise OSError(errno.ENOSPC, "")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", _rename)
    spool.remove_delivery("d1")
    assert [] == spares(spool) == list(spool.delivering.iterdir())


def test_small_files_are_no_spares(spool: Spool, lane: Lane, deliver: Callable):
    """What gains nothing is removed at once."""
    deliver([receive(lane, 0, bytes(999)), receive(lane, 1, bytes(1000))])
    assert [1000] == [path.stat().st_size for path in spares(spool)]


def test_threads_and_processes_never_share_a_spare(spool: Spool, tmp_path: Path):
    """Two processes' lists of the same spares, used by four threads each: every spare is had once, none is missed."""
    folder = spool.root / "spares"
    Spares(folder, LIMIT_BYTES).keep(_files(tmp_path, 200))
    taken: list[int] = []

    def _take(spares: Spares, name: str) -> None:
        number = 0
        while (found := spares.take(1000, str(tmp_path / f"{name}-{number}"))) is not None:
            os.close(found[0])
            taken.append((tmp_path / f"{name}-{number}").stat().st_ino)
            number += 1

    processes = [Spares(folder, LIMIT_BYTES) for _ in range(2)]
    threads = [
        threading.Thread(target=_take, args=(each, f"{p}-{t}")) for p, each in enumerate(processes) for t in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 == len(set(taken)) == len(taken)


def _failing_once(call: Callable) -> Callable:
    failures = [OSError(errno.EACCES, "")]

    def _call(*arguments: Any, **keywords: Any) -> Any:
        if failures:
            raise failures.pop()
        return call(*arguments, **keywords)

    return _call


def _files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"file-{number}" for number in range(count)]
    for path in paths:
        path.write_bytes(bytes(1000))
    return paths
