"""What makes names durable: syncs of folders, and whether a file system needs them."""

import contextlib
import ctypes
import errno
import logging
import os
import platform
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from dicomflow.regularfiles import create_regular, free_name, write_all

__all__ = [
    "LOCK_MODE",
    "can_sync_file_system",
    "close_to_others",
    "give_to_owner_of",
    "is_full",
    "is_named_by_fsync",
    "lacks_journal",
    "replace_file",
    "start_writeback",
    "sync_directory",
    "sync_file_system",
    "write_note",
]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC})
# fsync of a renamed file writes the name with it, in one journal or log.
_NAMED_BY_FSYNC: Final = frozenset({"ext4", "xfs", "btrfs"})
_WITHOUT_JOURNAL: Final = frozenset({"ext2", "exfat", "msdos", "vfat"})

LOCK_MODE: Final = 0o600

_logger = logging.getLogger(__name__)


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that the volume has no room left, or that its owner may have no more of it."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    # obstore, where the store is a folder, tells the number in its text only.
    return f"(os error {errno.ENOSPC})" in str(error)


def give_to_owner_of(folder: Path, path: Path) -> None:
    """Have a file or folder that root has made belong to whom another one belongs; any other user's is its own.

    Raises `OSError`.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def close_to_others(root: Path) -> None:
    """Take a spool from users who are neither its owner nor of its group, and its locks from all but the owner.

    To hold a lock one need only be able to open it: any user of the machine could stop an edge.
    """
    for path, kept in ((root, 0o770), *((each, LOCK_MODE) for each in root.glob("*.lock"))):
        mode = path.lstat().st_mode
        if os.name == "nt" or stat.S_ISLNK(mode) or not stat.S_IMODE(mode) & ~kept:
            continue
        try:
            path.chmod(mode & kept)
        except OSError as error:  # it is another user's
            _logger.warning("spool_open_to_others path=%s mode=%o errno=%s", path, stat.S_IMODE(mode), error.errno)


def replace_file(path: str | Path, target: str | Path) -> None:
    """Rename a file, over another one if need be. Raises `OSError`.

    Durable on Windows, where a folder cannot be synced; elsewhere `sync_directory` makes it so.
    """
    if _move_file_ex is None:
        os.replace(path, target)  # noqa: PTH105  # done for each instance
    elif not _move_file_ex(str(path), str(target), _MOVE_REPLACE_AND_WRITE_THROUGH):
        raise _windows_error(str(path))


def sync_directory(folder: Path) -> None:
    """Make a folder's entries durable; a platform that cannot open folders (Windows) journals them itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_note(path: Path, content: bytes, *, fsync: bool = True) -> None:
    """Durable: write a small file whole under a temporary name, sync, rename, sync the folder. Raises `OSError`."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(OSError):  # none, or a folder
        temporary.unlink()
    temporary = free_name(temporary)
    try:
        with create_regular(temporary) as file:
            write_all(file, content)
            if fsync:
                os.fsync(file.fileno())
        replace_file(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if fsync:
        sync_directory(path.parent)


def _find(name: str, *arguments: type) -> Callable[..., int] | None:
    """Return a system call of Linux that Python has no function for."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes = arguments
    return cast("Callable[..., int] | None", function)


def _find_in_windows(name: str, *arguments: type) -> Callable[..., int] | None:
    """Return a call of Windows that Python has no function for."""
    if sys.platform != "win32":
        return None
    function = getattr(ctypes.WinDLL("kernel32", use_last_error=True), name)
    function.argtypes = arguments
    return cast("Callable[..., int]", function)


# Python's rename leaves the new name in memory there, and a folder cannot be synced.
_move_file_ex: Final = _find_in_windows("MoveFileExW", ctypes.c_wchar_p, ctypes.c_wchar_p, ctypes.c_uint)
_MOVE_REPLACE_AND_WRITE_THROUGH: Final = 1 | 8
_sync_file_range: Final = _find("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_syncfs: Final = _find("syncfs", ctypes.c_int)
_SYNC_FILE_RANGE_WRITE: Final = 2


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin to write a range of a file, and do not wait; makes nothing durable, only a later fsync short.

    An error is left for that fsync to raise. Where the system has no such call, nothing happens.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def _windows_error(path: str) -> OSError:
    error = ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined,unused-ignore]  # there only
    error.filename = path
    return cast("OSError", error)


def can_sync_file_system(path: Path) -> bool:
    """Tell whether `sync_file_system` can be relied on: before Linux 5.8 it told of no page that was not written."""
    if _syncfs is None or not is_named_by_fsync(path):
        return False
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return release is not None and (int(release[1]), int(release[2])) >= (5, 8)


def sync_file_system(descriptor: int) -> None:
    """Make durable what was written to the file system of an open folder, names excepted.

    Raises `OSError`, for any page that could not be written since the folder was opened.
    """
    assert _syncfs is not None
    if _syncfs(descriptor):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def is_named_by_fsync(path: Path) -> bool:
    """Tell whether an fsync of a renamed file makes its new name durable too."""
    return _mount_of(path)[0] in _NAMED_BY_FSYNC


def lacks_journal(path: Path) -> bool:
    """Tell whether a file system is known to have no journal: power loss can take both names of a renamed file."""
    kind, device = _mount_of(path)
    if kind != "ext4":
        return kind in _WITHOUT_JOURNAL
    try:  # ext4 can be made without one
        journal = Path(f"/sys/fs/ext4/{Path(device).resolve().name}/journal_task").read_text(encoding="ascii")
    except OSError:
        return False
    return journal.strip() == "<none>"


def _mount_of(path: Path) -> tuple[str, str]:
    """Return the kind of file system that a path is on, and its device; empty where that cannot be found out."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    here = f"{path.resolve()}/"
    points = [fields for fields in map(str.split, mounts) if here.startswith(_unescaped(fields[1]).rstrip("/") + "/")]
    # Of several at one point the last one hides the others.
    found = max(reversed(points), key=lambda fields: len(_unescaped(fields[1])), default=["", "", ""])
    return found[2], found[0]


def _unescaped(path: str) -> str:
    r"""Return a path of the mount table as it is: a blank in it stands there as \040 (proc_mounts(5))."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
