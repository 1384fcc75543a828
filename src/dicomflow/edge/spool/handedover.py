"""What the disk knows of instances on their way to destinations other than the default store.

```
destinations/{name}/{delivery}/share.json    what the destination gets, and why
destinations/{name}/{delivery}/*.dcm         its files, under the names that they were received by
destinations/{name}/{delivery}/answers       a line for each answer, as of a transfer
destinations/{name}/{delivery}/returns.json  what became of all of them, when nothing more will
destinations/{name}/{delivery}.new           is being handed over
destinations/{name}/{delivery}.over          is being removed
```

A file is a second name of the one that was received: it costs no room, and its bytes stay until the last destination
has let go of it. Where a file system has one name a file it is a copy. A folder appears whole, by one rename, so that
handing over may be cut short and begun again; it goes when the ledger has what became of it.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from dicomflow.bucket.manifest import Instance, Manifest
from dicomflow.bucket.transfer import InstanceState, Job, JobInstance
from dicomflow.edge.spool.durable import sync_directory, write_note
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.names import SUFFIX, is_delivery_id
from dicomflow.edge.spool.shares import SHARE_FILE, Share
from dicomflow.edge.spool.transfers import RETURNS_FILE, Answer, TransferFolder
from dicomflow.edge.spool.view import scan
from dicomflow.errors import PeerError, PermanentError
from dicomflow.regularfiles import open_descriptor, open_regular, read_regular

__all__ = ["HandedOver", "SharedDelivery"]

_NEW: Final = ".new"
_OVER: Final = ".over"
_MODE: Final = 0o750
# Of a file system that has no second names, or no more of them.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
)


class HandedOver:
    """The folders of all destinations of a spool. Processes: the deliverer makes and removes, another one works."""

    def __init__(self, spool: Path, *, fsync: bool = True) -> None:
        self.root = Layout(spool).destinations
        self._fsync = fsync

    def names(self) -> list[str]:
        """Return the destinations that something was handed over to. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in self.root.iterdir() if path.is_dir())
        return []

    def of(self, destination: str) -> "list[SharedDelivery]":
        """Return what was handed over to a destination and is not removed yet. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(entry.name for entry in os.scandir(self.root / destination) if is_delivery_id(entry.name))
            return [self.delivery(destination, name) for name in names]
        return []

    def delivery(self, destination: str, delivery_id: str) -> "SharedDelivery":
        """Return a destination's folder of a delivery, whether it is there or not."""
        return SharedDelivery(self.root / destination / delivery_id, fsync=self._fsync)

    def hand_over(self, share: Share, files: Mapping[str, Path]) -> None:
        """Durable: give a destination its share of the files, by their digests, unless it has it already.

        What has no file any more is left out: whoever sends it finds out. Raises `OSError`, and then it has nothing.
        """
        target = self.root / share.destination / share.manifest.delivery
        if target.exists():
            return
        new = target.with_name(target.name + _NEW)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=_MODE, parents=True)
        for instance in share.manifest.instances():
            if instance.sha256 in files:
                with contextlib.suppress(FileNotFoundError):
                    self._give(files[instance.sha256], new / files[instance.sha256].name)
        write_note(new / SHARE_FILE, share.to_json(), fsync=self._fsync)  # the folder is synced too
        new.rename(target)
        for folder in (target.parent, self.root, self.root.parent):
            self._sync(folder)

    def discard_removed(self) -> None:
        """Remove what is left of folders whose removal was cut short. Raises `OSError`."""
        for name in self.names():
            for folder in (self.root / name).glob(f"*{_OVER}"):
                shutil.rmtree(folder, ignore_errors=True)

    def files(self, delivery_id: str) -> dict[str, Path]:
        """Return the files of a delivery that wait for any destination, by their digests."""
        found: dict[str, Path] = {}
        with contextlib.suppress(OSError):
            for name in self.names():
                with contextlib.suppress(OSError):  # it has just gone
                    found |= {each.sha256: each.path for each in scan(self.root / name / delivery_id)}
        return found

    def digests(self, delivery_id: str) -> set[str]:
        """Return the digests of all of a delivery that was handed over and is not removed, sent or not."""
        found: set[str] = set()
        with contextlib.suppress(OSError):
            for name in self.names():
                with contextlib.suppress(OSError, PermanentError):
                    share = self.delivery(name, delivery_id).share
                    found |= {each.sha256 for each in share.manifest.instances()}
        return found

    def _give(self, source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(source, target)

    def _copy(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        if self._fsync:
            descriptor = open_descriptor(target, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _sync(self, folder: Path) -> None:
        if self._fsync:
            sync_directory(folder)


class SharedDelivery(TransferFolder):
    """One destination's folder of one delivery: a transfer whose copies are here, and go when their end is noted."""

    @cached_property
    def share(self) -> Share:
        """What the destination gets. Raises `OSError`, or `PermanentError` when it is damaged."""
        share = Share.from_json(read_regular(self.path / SHARE_FILE))
        if (share.destination, share.manifest.delivery) != (self.path.parent.name, self.path.name):
            raise PermanentError("it is the share of another delivery")
        return share

    @cached_property
    def originals(self) -> tuple[Instance, ...]:
        """The instances that were received, by their numbers. Raises as `share` does."""
        return tuple(self.share.manifest.instances())

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return (self.path / RETURNS_FILE).exists()

    @property
    def handed_over_at(self) -> float:
        """When it was handed over, in seconds since the epoch; 0 where that cannot be told."""
        try:
            return (self.path / SHARE_FILE).stat().st_mtime
        except OSError:
            return 0.0

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that are sent, by their numbers. Raises as `share` does."""
        return self.originals

    @property
    def manifest(self) -> Manifest:
        """What the destination is told of them. Raises as `share` does."""
        return self.share.manifest

    def series_of(self, number: int) -> tuple[str, str]:
        """Return an instance's study and series. Raises as `share` does."""
        return self._series[number]

    def job(self) -> Job:
        """Return what is to be sent, as of a transfer. Raises as `share` does."""
        instances = (
            JobInstance(
                number, each.sop_class_uid, each.sop_instance_uid, each.transfer_syntax_uid, each.bytes, each.sha256
            )
            for number, each in enumerate(self.instances)
        )
        return Job(self.share.manifest.edge, self.path.name, 1, self.share.destination, tuple(instances))

    @property
    def kept_bytes(self) -> int:
        """No copy is in anybody's way: it is all that there is."""
        return 0

    def discard(self, number: int) -> None:
        """Keep the file, and look at it again: it goes, or is quarantined, once its end is on disk, see `let_go`."""
        self._checked.discard(number)

    def file_of(self, number: int) -> Path:
        """Return where an instance's file is, or was."""
        return self._path(number)

    def original_of(self, number: int) -> Path:
        """Return where the file is, or was, that an instance was received by."""
        return self._path(number)

    def whole_file(self, number: int) -> Path:
        """Return an instance's file, whose bytes are those that were received.

        Raises:
            PeerError: it is gone, or has other bytes.
            OSError: it cannot be read now.
        """
        path = self._path(number)
        if number not in self._checked:
            _check(path, self.instances[number].sha256)
            self._checked.add(number)
        return path

    def whole_original(self, number: int) -> Path:
        """Return the file that an instance was received by; raises as `whole_file` does."""
        path = self.original_of(number)
        _check(path, self.originals[number].sha256)
        return path

    def let_go(self, number: int) -> None:
        """Remove an instance's file, whose end is noted. Raises `OSError`."""
        self._path(number).unlink(missing_ok=True)

    def ends(self) -> Iterator[Answer]:
        """Yield the answers after which nothing more comes. Raises `OSError`."""
        return (each for each in self.answers() if each.state is not InstanceState.QUEUED)

    def remove(self) -> None:
        """Remove the folder, in which nothing is left to be sent; one rename decides. Raises `OSError`."""
        over = self.path.with_name(self.path.name + _OVER)
        shutil.rmtree(over, ignore_errors=True)
        self.path.rename(over)
        shutil.rmtree(over, ignore_errors=True)

    def clear(self) -> None:
        """Leave what there may still be: a file that was not let go of is none that may go."""

    def _path(self, number: int) -> Path:
        sha256 = self.instances[number].sha256
        return self._files.get(sha256, self.path / f"{sha256}{SUFFIX}")

    @cached_property
    def _series(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (study.study_instance_uid, series.series_instance_uid)
            for study in self.share.manifest.studies
            for series in study.series
            for _ in series.instances
        )

    @cached_property
    def _checked(self) -> set[int]:
        return set()

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {each.sha256: each.path for each in scan(self.path)}


def _check(path: Path, expected: str) -> None:
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise PeerError("its file in the spool is gone") from error
    if sha256 != expected:
        raise PeerError(f"SHA-256 of its file is {sha256}, but {expected} was received")
