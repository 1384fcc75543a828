"""What the disk knows of transfers: images that the cloud sends back, on their way to a node at the site.

```
transfers/{transfer}/job.json      what is to be sent, as it was fetched
transfers/{transfer}/answers       a line for each answer of the destination, in JSON
transfers/{transfer}/{number}.dcm  a copy that waits to be sent; a copy, since the cloud has it until the end is told
transfers/{transfer}/returns.json  what became of it, when nothing more will
transfers/{transfer}/told          is there when the cloud has that
```

A line of `answers` is on disk before anything else is done with the answer, so that after a kill no instance is sent
again whose answer had come. Of a copy nothing is believed but its digest, which this module compares.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dicomflow.bucket.transfer import InstanceState, Job, JobInstance, Returns, decode, encode, is_transfer_id
from dicomflow.edge.spool.durable import sync_directory, write_note
from dicomflow.edge.spool.view import free_bytes
from dicomflow.errors import PermanentError, TransientError
from dicomflow.regularfiles import create_regular, open_descriptor, open_regular, read_regular, write_all

__all__ = ["RETURNS_FILE", "TRANSFERS", "Answer", "TransferFolder", "TransferFolders"]

TRANSFERS: Final = "transfers"
_JOB: Final = "job.json"
_ANSWERS: Final = "answers"
RETURNS_FILE: Final = "returns.json"
_TOLD: Final = "told"
_MODE: Final = 0o750


@dataclass(frozen=True, slots=True)
class Answer:
    """What one try of an instance came to; `status` is None where the destination said nothing.

    `is_strike` tells a failure of which an instance has only so many, `is_stored` that the destination has it and is
    to commit to it: until then it is queued. `sop_instance_uid` says what it is of, whatever number that has in another
    round; without one it is of the number.
    """

    round: int
    number: int
    state: InstanceState
    status: int | None
    reason: str
    at: float
    is_strike: bool = False
    is_stored: bool = False
    sop_instance_uid: str = ""


class TransferFolders:
    """The folder of all transfers. Threads: any."""

    def __init__(self, spool: Path, *, fsync: bool = True) -> None:
        self._fsync = fsync
        self.root = spool / TRANSFERS

    def make(self) -> None:
        """Durable: make the folder, which stays from then on. Raises `OSError`."""
        if not self.root.exists():
            self.root.mkdir(mode=_MODE, exist_ok=True)
            self._sync(self.root.parent)

    def all(self) -> "list[TransferFolder]":
        """Return the transfers that were taken. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(path.name for path in self.root.iterdir() if is_transfer_id(path.name) and path.is_dir())
            return [self.of(name) for name in names if (self.root / name / _JOB).exists()]
        return []

    def of(self, transfer: str) -> "TransferFolder":
        """Return a transfer's folder, whether it is there or not."""
        return TransferFolder(self.root / transfer, fsync=self._fsync)

    def take(self, job: Job) -> "TransferFolder":
        """Durable: keep a job, or the next round of one. Raises `OSError`."""
        self.make()
        folder = self.of(job.transfer)
        if not folder.path.exists():
            folder.path.mkdir(mode=_MODE)
            self._sync(self.root)
        write_note(folder.path / _JOB, encode(job), fsync=self._fsync)
        return folder

    def forget_before(self, moment: float) -> int:
        """Remove transfers whose end was told before a time, in seconds since the epoch; return how many."""
        count = 0
        for folder in self.all():
            told_at = folder.told_at()
            if told_at is not None and told_at < moment:
                shutil.rmtree(folder.path, ignore_errors=True)
                count += 1
        return count

    def check_room(self, size_bytes: int, refuse_below_bytes: int) -> None:
        """Check that a copy leaves the room that receiving needs.

        Raises:
            PermanentError: it is larger than the volume.
            OSError: it does not now.
        """
        if size_bytes > (total := shutil.disk_usage(self.root.parent).total):
            raise PermanentError(f"a copy of {size_bytes:,} bytes is larger than the volume of {total:,}")
        if free_bytes(self.root.parent) < refuse_below_bytes + size_bytes:
            raise OSError(errno.ENOSPC, "the spool has no room for copies now")

    def _sync(self, folder: Path) -> None:
        if self._fsync:
            sync_directory(folder)


class TransferFolder:
    """One transfer's folder. Threads: any; `_lock` guards the file of answers."""

    def __init__(self, path: Path, *, fsync: bool = True) -> None:
        self.path = path
        self._fsync = fsync
        self._lock = threading.Lock()
        self._is_whole = False  # whether the last line of the answers is known to end
        self._fetched: dict[int, int] = {}  # the bytes of copies whose digest was compared by this process

    def job(self) -> Job:
        """Return the job. Raises `OSError`, or `PermanentError` when it is damaged."""
        return decode(Job, read_regular(self.path / _JOB))

    def answers(self) -> list[Answer]:
        """Return the answers, in their order; a line that was cut off is left out. Raises `OSError`."""
        try:
            lines = read_regular(self.path / _ANSWERS).splitlines()
        except FileNotFoundError:
            return []
        return [answer for line in lines if (answer := _answer_of(line)) is not None]

    @property
    def answers_path(self) -> Path:
        """Where the answers are, once there is one."""
        return self.path / _ANSWERS

    @property
    def kept_bytes(self) -> int:
        """How much of copies is kept here."""
        return sum(self._fetched.copy().values())

    def record(self, answers: Sequence[Answer]) -> None:
        """Durable: note answers. Raises `OSError`, and then they may be there or not."""
        line = b"".join(json.dumps(asdict(each), separators=(",", ":")).encode() + b"\n" for each in answers)
        with self._lock:
            path = self.path / _ANSWERS
            is_new = not path.exists()
            # A line that was cut off, by a kill or a full volume, must not take this one with it.
            line = line if self._is_whole or is_new else b"\n" + line
            self._is_whole = False
            descriptor = open_descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
                if self._fsync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new and self._fsync:
                sync_directory(self.path)
            self._is_whole = True

    def copy_of(self, instance: JobInstance) -> Path | None:
        """Return the copy of an instance that is here, whole; None when it has to be fetched."""
        path = self._path(instance.number)
        try:
            if instance.number not in self._fetched:
                _compare(path, instance)
                self._fetched[instance.number] = instance.bytes
        except (OSError, TransientError, PermanentError):
            return None
        return path

    def fetch(self, instance: JobInstance, chunks: Iterable[bytes]) -> Path:
        """Write a copy and return its path.

        Raises:
            TransientError: it ended too early.
            PermanentError: its bytes are not those that the job names.
            OSError: it cannot be written.
        """
        path = self._path(instance.number)
        part = path.with_suffix(".part")
        digest, size = hashlib.sha256(), 0
        try:
            with create_regular(part) as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    if size > instance.bytes:  # no more of it than there is room for
                        break
                    write_all(file, chunk)
            _check(instance, size, digest.hexdigest())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        self._fetched[instance.number] = instance.bytes
        return path

    def discard(self, number: int) -> None:
        """Remove a copy; one that cannot be removed goes with the transfer."""
        self._fetched.pop(number, None)
        with contextlib.suppress(OSError):
            self._path(number).unlink(missing_ok=True)

    def returns(self) -> Returns | None:
        """Return what became of the last round that ended; None before, or when the file is damaged."""
        try:
            return decode(Returns, read_regular(self.path / RETURNS_FILE))
        except (OSError, PermanentError):
            return None

    def finish(self, returns: Returns) -> None:
        """Durable: keep the end of a round, and remove the copies. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / _TOLD).unlink()
        write_note(self.path / RETURNS_FILE, encode(returns), fsync=self._fsync)
        self.clear()

    def clear(self) -> None:
        """Remove the copies of a round that has ended."""
        for path in (*self.path.glob("*.dcm"), *self.path.glob("*.part")):
            with contextlib.suppress(OSError):
                path.unlink()

    def told_at(self) -> float | None:
        """Return when the cloud had the end, in seconds since the epoch; None when it has not."""
        try:
            return (self.path / _TOLD).stat().st_mtime
        except OSError:
            return None

    def note_told(self) -> None:
        """Note that the cloud has the end. Raises `OSError`: then it is told once more."""
        with create_regular(self.path / _TOLD):
            pass
        os.utime(self.path / _TOLD, (time.time(),) * 2)

    def _path(self, number: int) -> Path:
        return self.path / f"{number}.dcm"


def _answer_of(line: bytes) -> Answer | None:
    try:
        document: dict[str, Any] = json.loads(line)
        status = document["status"]
        return Answer(
            round=int(document["round"]),
            number=int(document["number"]),
            state=InstanceState(document["state"]),
            status=None if status is None else int(status),
            reason=str(document["reason"]),
            at=float(document["at"]),
            is_strike=document.get("is_strike") is True,
            is_stored=document.get("is_stored") is True,
            sop_instance_uid=str(document.get("sop_instance_uid", "")),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _compare(path: Path, instance: JobInstance) -> None:
    if not instance.sha256:  # nothing but its size could be compared
        raise PermanentError("nobody knows its digest")
    with open_regular(path) as file:
        _check(instance, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _check(instance: JobInstance, size: int, sha256: str) -> None:
    if size < instance.bytes:
        raise TransientError(f"the copy ended after {size:,} of {instance.bytes:,} bytes")
    if size > instance.bytes:
        raise PermanentError(f"the copy has more than {instance.bytes:,} bytes")
    if instance.sha256 and sha256 != instance.sha256:
        raise PermanentError(f"SHA-256 of the copy is {sha256}, not {instance.sha256}")
