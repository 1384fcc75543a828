"""Syncs for many threads: each change is served by a sync that began after it, and failures reach all."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS

from dicomflow.edge.spool import durable
from dicomflow.edge.spool.durable import SharedSync, is_named_by_fsync, start_writeback


def test_changes_made_while_a_sync_runs_share_the_next_one() -> None:
    """Threads that come while one syncs wait for one more sync, not for one each, and for no earlier one."""
    is_syncing, go_on, syncs = threading.Event(), threading.Event(), []

    def sync() -> None:
        syncs.append(1)
        is_syncing.set()
        assert go_on.wait(WAIT_SECONDS)

    shared = SharedSync(sync)
    threads = [threading.Thread(target=lambda: shared.wait(shared.note())) for _ in range(6)]
    threads[0].start()
    assert is_syncing.wait(WAIT_SECONDS)
    for thread in threads[1:]:
        thread.start()
    while shared._changes < len(threads):  # the threads are counted before they wait
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2


def test_failed_sync_fails_every_change_it_was_to_serve() -> None:
    """No thread takes a failed fsync for its own, nor repeats it, and the next change is served again."""
    is_syncing, go_on, calls, errors = threading.Event(), threading.Event(), [], []

    def sync() -> None:
        calls.append(1)
        is_syncing.set()
        assert go_on.wait(WAIT_SECONDS)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")

    def change() -> None:
        try:
            shared.wait(shared.note())
        except OSError as error:
            errors.append(error.errno)

    shared = SharedSync(sync)
    threads = [threading.Thread(target=change) for _ in range(4)]
    threads[0].start()
    assert is_syncing.wait(WAIT_SECONDS)
    for thread in threads[1:]:
        thread.start()
    while shared._changes < len(threads):  # the threads are counted before they wait
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert (errors, len(calls)) == ([5, 5, 5], 2)
    shared.wait(shared.note())
    assert len(calls) == 3


def test_started_writeback_leaves_bytes_as_they_are(tmp_path: Path) -> None:
    """Asking the disk to begin changes nothing that is read, and a bad descriptor raises nothing."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        start_writeback(file.fileno(), 0, 100_000)
        os.fsync(file.fileno())
    start_writeback(-1, 0, 1)
    assert path.read_bytes() == b"x" * 100_000


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/share /mnt/my\\040share nfs4 rw 0 0
/dev/vdb /data ext4 rw 0 0
tmpfs /data tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", True), ("/mnt/my share/spool", False), ("/mnt/mine", True), ("/data/spool", False), ("/database", True)],
)
def test_file_system_is_that_of_the_innermost_mount(monkeypatch: pytest.MonkeyPatch, path: str, *, expected: bool):
    """Whatever its mount point is called, and whatever it hides."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: MOUNTS)
    assert expected == is_named_by_fsync(Path(path))


def test_rename_is_written_through_where_a_folder_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On Windows an instance's name must not stay in memory when it is acknowledged; a failure is an `OSError`."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    flags: list[int] = []

    def _move(path: str, target: str, flag: int) -> int:
        flags.append(flag)
        return Path(path).replace(target) is not None

    monkeypatch.setattr(durable, "_move_file_ex", _move)
    durable.replace_file(tmp_path / "a", tmp_path / "b")
    assert "new" == (tmp_path / "b").read_text()
    assert [0x1 | 0x8] == flags  # MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH
    monkeypatch.setattr(durable, "_windows_error", lambda path: OSError(13, "denied", path))
    monkeypatch.setattr(durable, "_move_file_ex", lambda *_: 0)
    with pytest.raises(OSError, match="denied"):
        durable.replace_file(tmp_path / "b", tmp_path / "c")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EDQUOT, ""), True),
        (OSError(errno.EIO, ""), False),
        (RuntimeError("Unable to copy data to file: No space left on device (os error 28)"), True),
        (ValueError("28"), False),
    ],
)
def test_full_volume_is_known_by_whoever_tells_of_it(error: Exception, expected: Any):
    """The system's errors by their number, obstore's by their text."""
    assert expected == durable.is_full(error)
