"""Power loss of the edge's host: what was not synced is forgotten, in a state that the seed draws, and life goes on.

Of names, all from some uncertain change on are undone. Of a file's bytes, those since its last sync are there, not
there, or in part. What is undone is kept by second names in a folder beside the spool.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.support.forgetting import CALLS, NamesJournal, inode_of

WRITES = {"write", "writev", "pwrite", "ftruncate"}
SYNCS = {"fsync", "fdatasync"}


class Memory:
    """What of one spool's volume is not certain yet. Owner: the box's disk."""

    def __init__(self, root: Path, *, is_named_by_fsync: bool) -> None:
        self._root = root
        self._limbo = root.with_name("limbo")
        self._limbo.mkdir(exist_ok=True)
        self._names = NamesJournal(is_named_by_fsync=is_named_by_fsync)
        self._undo: list[Callable[[], None]] = []  # of each of the journal's changes
        self._before: dict[int, bytes] = {}  # by inode: a file as it was when it was synced last
        self._number = 0
        self._ledger: dict[Path, bytes] = {}  # as it was when its log was synced last

    def follow(self, name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        """Make a call of a process, and keep what of it power loss may take."""
        if name in CALLS and self._is_ours(args[0]):
            return self._follow_name(name, call, args)
        if name in WRITES:
            self._keep(args[0])
        answer = call()
        if name in SYNCS:
            self._synced(args[0], has_names=name == "fsync")
        return answer

    def all_synced(self, _descriptor: int = -1) -> None:
        """Know that the bytes of all files are on the disk; names are left to the sync of their folder."""
        self._before.clear()

    def lose(self, rng: Random) -> int:
        """Forget; return how many changes of names are undone."""
        kept = rng.randrange(len(self._undo) + 1)
        for undo in reversed(self._undo[kept:]):
            with suppress(OSError):  # the box itself has taken a name away
                undo()
        lost = len(self._undo) - kept
        paths = {inode_of(path): path for path in self._root.rglob("*") if path.is_file()}
        for inode, before in sorted(self._before.items()):
            if inode in paths:
                now = paths[inode].read_bytes()
                torn = now[: rng.randrange(len(now) + 1)]
                content = rng.choice((now, before, torn + before[len(torn) :], torn))
                status = paths[inode].stat()
                paths[inode].write_bytes(content)
                os.utime(paths[inode], (status.st_mtime, status.st_mtime))
        self._forget(len(self._undo))
        self._names.uncertain.clear()
        self._before.clear()
        return lost

    def _is_ours(self, path: Any) -> bool:
        # The ledger's files are SQLite's, which writes and syncs past `os`.
        return Path(path).is_relative_to(self._root) and not Path(path).name.startswith("ledger.db")

    def _follow_name(self, name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return call()
        target = Path(args[1] if name in {"rename", "replace", "link"} else args[0])
        kept = self._kept(target) if name in {"rename", "replace", "unlink", "open"} else None
        before = len(self._names.uncertain)
        answer = self._names.follow(name, call, args)
        if name == "open":
            self._before.setdefault(inode_of(target), b"")
            if kept is not None:  # it was there before
                del self._names.uncertain[before:]
                return answer
        source = Path(args[0])

        def undo() -> None:
            if name in {"rename", "replace"}:
                target.rename(source)
            elif name in {"link", "open"}:
                target.unlink()
            elif name == "mkdir":
                target.rmdir()
            elif name == "rmdir":
                target.mkdir()
            if kept is not None:
                kept.rename(target)

        if len(self._names.uncertain) > before:
            self._undo.append(undo)
        return answer

    def _kept(self, path: Path) -> Path | None:
        """Keep a file that is about to lose its name."""
        self._number += 1
        kept = self._limbo / str(self._number)
        try:
            kept.hardlink_to(path)
        except OSError:  # none, or a folder
            return None
        return kept

    def _keep(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        inode = os.fstat(descriptor).st_ino
        if inode not in self._before and self._is_ours(path.readlink()):
            self._before[inode] = path.read_bytes()

    def lose_ledger(self) -> None:
        """Take away the ledger's transactions since the last sync of its log: SQLite writes past `os`."""
        for path in self._root.glob("ledger.db-*"):
            path.unlink()
        for path, content in self._ledger.items():
            path.write_bytes(content)

    def _synced(self, descriptor: int, *, has_names: bool) -> None:
        log = Path(f"/proc/self/fd/{descriptor}").readlink()
        if log.name.endswith(".db-wal"):
            files = (log.with_name(log.name.removesuffix("-wal")), log)
            self._ledger = {path: path.read_bytes() for path in files}
        self._before.pop(os.fstat(descriptor).st_ino, None)
        if has_names:
            self._forget(len(self._names.synced(descriptor)))

    def _forget(self, certain: int) -> None:
        del self._undo[:certain]
        if not self._undo:
            for path in self._limbo.iterdir():
                path.unlink()
