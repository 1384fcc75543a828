"""What is told of a file system, and calls that Python has no function for."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool import durable
from dicomflow.edge.spool.durable import close_to_others, is_named_by_fsync, lacks_journal, start_writeback
from dicomflow.edge.spool.locks import lock_of


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


@pytest.mark.parametrize(
    ("path", "journal", "expected"),
    [
        ("/", "<none>\n", True),
        ("/", "812\n", False),
        ("/", None, False),
        ("/usb/spool", None, True),
        ("/data/spool", "<none>\n", False),
    ],
)
def test_file_system_lacks_a_journal_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch, path: str, journal: str | None, *, expected: bool
):
    """ext4 tells, a stick's never has one, and of what cannot be told nothing is said."""

    def _read(file: Path, **_: object) -> str:
        if file.name == "mounts":
            return f"{MOUNTS}/dev/sdb1 /usb vfat rw 0 0\n"
        if journal is None:
            raise FileNotFoundError
        return journal

    monkeypatch.setattr(Path, "read_text", _read)
    assert expected == lacks_journal(Path(path))


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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_spool_that_is_open_to_others_is_closed(tmp_path: Path):
    """Nobody but its owner opens its locks, so that nobody else holds them; its group may look at the rest."""
    lock = tmp_path / "supervisor.lock"
    lock.touch()
    lock.chmod(0o644)
    tmp_path.chmod(0o777)
    (tmp_path / "away.lock").symlink_to(tmp_path / "nothing")
    close_to_others(tmp_path)
    assert (0o770, 0o600) == (stat.S_IMODE(tmp_path.stat().st_mode), stat.S_IMODE(lock.stat().st_mode))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_lock_of_a_spool_is_its_owners_alone(tmp_path: Path):
    """Each of an edge's processes has one, whatever the umask."""
    with lock_of(tmp_path, "transfers"):
        assert 0o600 == stat.S_IMODE((tmp_path / "transfers.lock").stat().st_mode)
