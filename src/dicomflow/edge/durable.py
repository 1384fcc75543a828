"""What makes names durable: syncs of folders, and whether a file system needs them."""

import os
import sys
import threading
from pathlib import Path
from typing import Final

__all__ = ["FolderSync", "is_named_by_fsync", "sync_directory"]

# fsync of a renamed file commits the rename with it: one journal or log (ext4, xfs), or the name is logged (btrfs).
_NAMED_BY_FSYNC: Final = frozenset({"ext4", "xfs", "btrfs"})


class FolderSync:
    """Syncs one folder for many threads at once: an fsync that begins after a request serves it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._requested = self._done = 0
        self._failed: dict[int, Exception] = {}  # by ticket, until it is waited for
        self._thread: threading.Thread | None = None

    def request(self) -> int:
        """Ask for a sync and return the ticket to wait with; the caller must wait, also after an error of its own."""
        with self._changed:
            self._requested += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="folder-sync", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._requested

    def wait(self, ticket: int) -> None:
        """Return when the folder is synced; raises what the sync that was to do it raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._done >= ticket)
            error = self._failed.pop(ticket, None)
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requested > self._done)
                first, last = self._done + 1, self._requested
            error: Exception | None = None
            try:
                sync_directory(self._folder)
            except Exception as caught:  # noqa: BLE001  # it is raised in the threads that wait
                error = caught
            with self._changed:
                if error is not None:
                    self._failed.update(dict.fromkeys(range(first, last + 1), error))
                self._done = last
                self._changed.notify_all()


def sync_directory(folder: Path) -> None:
    """Make a folder's entries durable; a platform that cannot open folders (Windows) journals them itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_named_by_fsync(path: Path) -> bool:
    """Tell whether an fsync of a renamed file makes its new name durable too."""
    kind, device = _mount_of(path)
    if kind != "ext4":
        return kind in _NAMED_BY_FSYNC
    # ext4 can be made without a journal; then a file's fsync does not reach the folder.
    try:
        journal = Path(f"/sys/fs/ext4/{Path(device).resolve().name}/journal_task").read_text(encoding="ascii")
    except OSError:
        return False
    return journal.strip().isdecimal()


def _mount_of(path: Path) -> tuple[str, str]:
    """Return the kind of file system that a path is on, and its device; empty where that cannot be found out."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    here = f"{path.resolve()}/"
    points = [fields for fields in map(str.split, mounts) if here.startswith(fields[1].rstrip("/") + "/")]
    found = max(points, key=lambda fields: len(fields[1]), default=["", "", ""])
    return found[2], found[0]
