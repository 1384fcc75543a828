"""How associations that stored something stand: open, released, aborted or lost; and for whose C-MOVE they stored.

No delivery closes while an association that carries it is open, and its manifest tells how each one ended. A worker
appends a line when an association first stores something and one when it ends, to `{process}-{number}.log`; the
deliverer reads on where it was, and removes logs of which nobody needs a line any more. A line is
`{id} {how} {when} .`, where `for={originator}` for how it stands says whose C-MOVE it stores for. Lines are not synced:
what power loss takes is an association that counts as lost.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from dicomflow.regularfiles import NotRegularError, open_descriptor, open_regular, read_rest

if sys.platform != "win32":
    import fcntl

__all__ = ["AssociationLog"]

_OPEN: Final = "open"
_LOST: Final = "lost"
_FOR: Final = "for="
_SUFFIX: Final = ".log"
_FLAGS: Final = os.O_WRONLY | os.O_APPEND
# Then the next log begins, so that this one can go.
_MOST_LINES: Final = 5000
_FIELDS: Final = 4
_SECONDS: Final = re.compile(r"[0-9]{1,15}")


class _State(NamedTuple):
    """The last line about an association: how it stands, since when (seconds since the epoch), and the line's log."""

    how: str
    since: int
    log: Path


class AssociationLog:
    """The notes of all processes in one folder. Threads: any for `note_open` and `note_end`, an owner for the rest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._descriptor = -1
        self._lines = 0
        self._open: dict[str, list[str]] = {}  # with the originators of each
        self._unwritten = b""  # what a full volume did not take
        self._refused: set[str] = set()
        self._offsets: dict[Path, int] = {}
        self._states: dict[str, _State] = {}
        self._originators: dict[str, dict[str, None]] = {}

    def note_open(self, association_id: str) -> None:
        """Note that an association of this process stores something. Raises `OSError`."""
        with self._lock:
            try:
                self._append(_line(association_id, _OPEN))
            except OSError:
                if association_id not in self._refused:  # its line may be there all but the last byte
                    self._refused.add(association_id)
                    self._unwritten += _line(association_id, _LOST)
                raise
            self._open[association_id] = []

    def note_originator(self, association_id: str, originator: str) -> None:
        """Note for whose C-MOVE an open association of this process stores: the AE title, "/" and the message ID."""
        with self._lock:
            self._open[association_id].append(originator)
            line = _line(association_id, _FOR + quote(originator))
            try:
                self._append(line)
            except OSError:
                self._unwritten += line

    def note_end(self, association_id: str, how: str) -> None:
        """Note how an association of this process ended, if it stored something: released or aborted or lost."""
        with self._lock:
            if association_id not in self._open:
                return
            del self._open[association_id]
            line = _line(association_id, how)
            try:
                self._append(line)
            except OSError:
                self._unwritten += line

    def process_ids(self) -> set[int]:
        """Return the processes that have logs."""
        return {int(logs[0].stem.partition("-")[0]) for logs in _logs_of_processes(self._folder)}

    def is_at_work(self, process_id: int) -> bool:
        """Tell whether a process still has one of its logs open; always no where there are no such locks."""
        if sys.platform == "win32":
            return False
        for log in next(_logs_of_processes(self._folder, process_id), []):
            with contextlib.suppress(FileNotFoundError, NotRegularError), open_regular(log) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                except OSError:  # a file system without locks
                    return False
        return False

    def note_lost(self, process_id: int | None = None) -> None:
        """Note that the open associations of a process that died, or of all processes, are lost. Raises `OSError`."""
        for logs in _logs_of_processes(self._folder, process_id):
            states: dict[str, _State] = {}
            for log in logs:
                _read_on(log, 0, states, {})
            lines: dict[Path, bytes] = {}
            for each, state in states.items():
                if state.how == _OPEN:
                    lines[state.log] = lines.get(state.log, b"") + _line(each, _LOST)
            for log, ends in lines.items():
                descriptor = open_descriptor(log, _FLAGS)
                try:
                    _write(descriptor, ends)
                finally:
                    os.close(descriptor)

    def read_states(self) -> dict[str, str]:
        """Return how each noted association stands by now."""
        for logs in _logs_of_processes(self._folder):
            for log in logs:
                self._offsets[log] = _read_on(log, self._offsets.get(log, 0), self._states, self._originators)
        return {association_id: state.how for association_id, state in self._states.items()}

    def originators(self, association_id: str) -> tuple[str, ...]:
        """Return for whose C-MOVEs an association stored, as far as `read_states` has read."""
        return tuple(self._originators.get(association_id, ()))

    def forget(self, needed: Collection[str], before: float) -> None:
        """Forget the associations that ended before `before` (seconds since the epoch) and nobody needs."""
        self._states = {
            each: state
            for each, state in self._states.items()
            if state.how == _OPEN or state.since >= before or each in needed
        }
        self._originators = {each: found for each, found in self._originators.items() if each in self._states}
        wanted = {state.log for state in self._states.values()}
        for logs in _logs_of_processes(self._folder):
            for log in logs:
                # The oldest first: an end must not go before its beginning.
                if log in wanted or not self._remove(log):
                    break

    def _append(self, line: bytes) -> None:
        if self._descriptor < 0 or self._lines >= _MOST_LINES:
            self._begin()
        _write(self._descriptor, self._unwritten + line)
        self._unwritten = b""
        self._refused.clear()
        self._lines += 1

    def _begin(self) -> None:
        """Begin the next log of this process, which nobody removes while it is open here."""
        before = [log for logs in _logs_of_processes(self._folder, os.getpid()) for log in logs]
        number = int(before[-1].stem.partition("-")[2]) if before else 0
        while True:
            number += 1
            path = self._folder / f"{os.getpid()}-{number:08}{_SUFFIX}"
            descriptor = open_descriptor(path, _FLAGS | os.O_CREAT | os.O_EXCL)
            if sys.platform == "win32":  # there an open file cannot be removed
                break
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else it was removed before it was locked
                break
            os.close(descriptor)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._lines = descriptor, 0
        # So that one that is open for long does not keep the logs before.
        for each, originators in self._open.items():
            notes = (_OPEN, *(_FOR + quote(originator) for originator in originators))
            _write(descriptor, b"".join(_line(each, note) for note in notes))

    def _remove(self, log: Path) -> bool:
        """Remove a log that is read to its end and that no process appends to; False when it stays."""
        with contextlib.suppress(OSError, KeyError), open_regular(log) as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(self._offsets[log])
            if b"\n" not in read_rest(file):  # else there is a line that was not read
                if sys.platform == "win32":
                    file.close()
                log.unlink()
                del self._offsets[log]
                return True
        return False


def _logs_of_processes(folder: Path, process_id: int | None = None) -> Iterator[list[Path]]:
    """Yield the logs of each process, or of one, in the order they were begun."""
    logs: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  # asked for five times a second
        process, _, number = name.removesuffix(_SUFFIX).partition("-")
        if process.isdecimal() and number.isdecimal() and process_id in {None, int(process)}:
            logs.setdefault(process, []).append(folder / name)
    yield from logs.values()


def _line(association_id: str, how: str) -> bytes:
    # A line that a full volume cuts short has no dot, and ends with the line break in front of the next one.
    # A clock that was never set may be before the epoch, and a line's times are not.
    return f"\n{association_id} {how} {max(0.0, time.time()):.0f} .\n".encode("ascii")


def _write(descriptor: int, lines: bytes) -> None:
    while lines:
        lines = lines[os.write(descriptor, lines) :]


def _read_on(log: Path, offset: int, states: dict[str, _State], originators: dict[str, dict[str, None]]) -> int:
    """Take the lines of a log from an offset on, and return the offset behind the last whole one."""
    try:
        with open_regular(log) as file:
            file.seek(offset)
            lines, end, _ = read_rest(file).rpartition(b"\n")
    except OSError:
        # It is gone; or it cannot be read, and its associations are taken for lost, which is all that hangs on it.
        return offset
    for line in lines.decode("ascii", "replace").split("\n"):
        fields = line.split(" ")
        if len(fields) == _FIELDS and _SECONDS.fullmatch(fields[2]) and fields[3] == ".":
            association_id, note, since, _ = fields
            if note.startswith(_FOR):
                originators.setdefault(association_id, {})[unquote(note.removeprefix(_FOR))] = None
            else:
                states[association_id] = _State(note, int(since), log)
    return offset + len(lines) + len(end)
