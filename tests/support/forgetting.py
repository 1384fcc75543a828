"""Names that a disk may have forgotten after power loss: on a file system with a journal all from some change on.

Changes of names reach the disk in the order in which they are made, at least up to the last one of a folder that was
synced, and on some file systems also up to the last new name of a file that was. `tests/crash` asks for every state
that is left; the simulation draws one and goes on from it. `tests/crash/test_file_systems.py` asks real ones.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["CALLS", "Change", "NamesJournal", "inode_of"]

Change = tuple[int, str, int | None]
"""In the folder of this inode the name stands for an inode, or for none."""
_NEW = 0  # a new file has its inode only after the call


class NamesJournal:
    """The changes that are not certain yet, each call's together. `counts` tells which names matter."""

    def __init__(self, *, is_named_by_fsync: bool, counts: Callable[[str], bool] = lambda _name: True) -> None:
        self.uncertain: list[list[Change]] = []
        self._is_named_by_fsync = is_named_by_fsync
        self._counts = counts

    def follow(self, name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        """Make a call of `CALLS`, and keep what it changes."""
        made = CALLS[name](*args)
        answer = call()
        changes = [(folder, each, inode_of(args[0]) if inode == _NEW else inode) for folder, each, inode in made]
        if changes := [each for each in changes if self._counts(each[1])]:
            self.uncertain.append(changes)
        return answer

    def synced(self, descriptor: int) -> list[list[Change]]:
        """Return the changes that are certain by the sync of a file or a folder, and keep the others."""
        status = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(status.st_mode)
        folders = {status.st_ino} if is_folder else self._folders_of(status.st_ino)
        touched = [{folder for folder, _, _ in changes} & folders for changes in self.uncertain]
        length = max((number for number, found in enumerate(touched, 1) if found), default=0)
        certain, self.uncertain = self.uncertain[:length], self.uncertain[length:]
        return certain

    def _folders_of(self, synced: int) -> set[int]:
        """Return the folders that are written with a file: those in which its name is new."""
        if not self._is_named_by_fsync:
            return set()
        return {folder for changes in self.uncertain for folder, _, inode in changes if inode == synced}


def inode_of(path: Any) -> int:
    """Return the inode of a path."""
    return Path(path).stat().st_ino


def _place(path: Any) -> tuple[int, str]:
    return inode_of(Path(path).parent), Path(path).name


def _opened(path: Any, flags: int, *_: Any) -> list[Change]:
    return [(*_place(path), _NEW)] if flags & os.O_CREAT else []


def _made(path: Any, *_: Any) -> list[Change]:
    return [(*_place(path), _NEW)]


def _renamed(source: Any, target: Any) -> list[Change]:
    return [(*_place(source), None), (*_place(target), inode_of(source))]


def _linked(source: Any, target: Any) -> list[Change]:
    return [(*_place(target), inode_of(source))]


def _unlinked(path: Any, *_: Any) -> list[Change]:
    return [(*_place(path), None)]


CALLS: dict[str, Callable[..., list[Change]]] = {
    "open": _opened,
    "rename": _renamed,
    "replace": _renamed,
    "link": _linked,
    "unlink": _unlinked,
    "mkdir": _made,
    "rmdir": _unlinked,
}
