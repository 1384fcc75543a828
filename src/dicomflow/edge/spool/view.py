"""A spool as anybody may look at it, and who looks creates nothing: counts, ages, and what is in quarantine.

What cannot be read is told, and the rest is counted: another user's folder stops nothing.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.names import SUFFIX, ReceivedFile, is_delivery_id, is_received_name
from dicomflow.edge.spool.notes import read_end, read_offset
from dicomflow.edge.spool.records import read_records
from dicomflow.edge.spool.rotation import is_complete, is_lanes_own, segments_of
from dicomflow.edge.spool.setaside import describe_failure
from dicomflow.regularfiles import open_regular, read_regular

__all__ = [
    "SpoolView",
    "count_files",
    "count_records",
    "free_bytes",
    "is_foreign",
    "look",
    "quarantined_files",
    "quarantined_reasons",
    "scan",
]

_REASON: Final = ".reason"
_MOST_REASON_BYTES: Final = 64 << 10
_IN_QUARANTINE: Final = frozenset({SUFFIX, _REASON, ".damaged"})


@dataclass(slots=True)
class SpoolView:
    """How many instances lie in each folder, when the oldest came that is not stored, and what could not be read."""

    received: int = 0
    delivering: int = 0
    quarantined: int = 0
    oldest_at: float = float("inf")
    unreadable: dict[Path, str] = field(default_factory=dict)
    # By destination, what was handed over to it and is not sent yet, with the time of the oldest.
    destinations: dict[str, tuple[int, float]] = field(default_factory=dict)
    foreign: list[Path] = field(default_factory=list)  # in `received/`, where nobody takes it

    def counts(self) -> dict[str, int]:
        """Return the counts by folder."""
        return {"received": self.received, "delivering": self.delivering, "quarantined": self.quarantined}

    def waiting(self) -> dict[str, int]:
        """Return how many instances wait for each destination; one that nothing was handed over to is left out."""
        return {name: count for name, (count, _) in self.destinations.items()}

    def oldest_seconds(self) -> float:
        """Return the age of the oldest instance that is not stored yet; 0 when there is none."""
        return max(0.0, time.time() - self.oldest_at)


def look(root: Path, *, ages: bool = True) -> SpoolView:
    """Look at a spool; a folder that does not exist is empty, and without `ages` no file's time is asked for."""
    view, spool = SpoolView(), Layout(root)
    for lane in _folders(view, spool.received, view.foreign):
        view.received += _count(view, lane, view.foreign, ages=ages)
        try:
            count, oldest = count_records(lane)
        except OSError as error:
            view.unreadable[lane] = describe_failure(error)
        else:
            view.received += count
            view.oldest_at = min(view.oldest_at, oldest)
    for delivery in _folders(view, spool.delivering):
        view.delivering += _count(view, delivery, ages=ages)
    for destination in _folders(view, spool.destinations):
        of_it = SpoolView()
        counts = [
            _count(of_it, delivery, ages=ages)
            for delivery in _folders(of_it, destination)
            if is_delivery_id(delivery.name)
        ]
        view.destinations[destination.name] = (sum(counts), of_it.oldest_at)
        view.unreadable |= of_it.unreadable
    stems = {Path(name).stem for name in _names(view, spool.quarantined) if Path(name).suffix in _IN_QUARANTINE}
    view.quarantined = len(stems)
    return view


def count_records(lane: Path) -> tuple[int, float]:
    """Return how many records of a lane are not unpacked, and when the oldest came (seconds since the epoch).

    Raises `OSError` when the lane or one of its segments cannot be read.
    """
    count, oldest = 0, float("inf")
    for segment in segments_of(lane):
        # It may be given back meanwhile.
        with contextlib.suppress(FileNotFoundError), open_regular(segment) as file:
            is_over = is_complete(file)
            for record in read_records(file, read_offset(segment), is_complete=is_over, settled=read_end(segment)):
                if not record.is_struck:
                    count += 1
                    oldest = min(oldest, record.received_at_ns / 1e9) if record.name else oldest
    return count, oldest


def free_bytes(root: Path) -> int:
    """Return the space that is free to us on a spool's volume. Raises `OSError`."""
    if sys.platform == "win32":
        import shutil  # noqa: PLC0415  # the one platform without statvfs

        return shutil.disk_usage(root).free
    volume = os.statvfs(root)
    return volume.f_bavail * volume.f_frsize


def count_files(root: Path) -> dict[str, int]:
    """Return how many instances lie in each folder of a spool; a folder that does not exist counts as empty."""
    return look(root, ages=False).counts()


def quarantined_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is in quarantine, by name, with the reasons; a file that is gone has only a reason.

    Raises `OSError` when the folder cannot be read.
    """
    folder = Layout(root).quarantined
    with contextlib.suppress(FileNotFoundError):
        paths = sorted(path for path in folder.iterdir() if path.suffix in _IN_QUARANTINE)
        stems = {path.stem for path in paths if path.suffix != _REASON}
        for path in paths:
            if path.suffix != _REASON or path.stem not in stems:
                yield (path.with_suffix(SUFFIX) if path.suffix == _REASON else path), _reason_of(path)


def quarantined_reasons(root: Path) -> dict[tuple[str, str], str]:
    """Return why instances are in quarantine, by association and digest. Raises `OSError`."""
    found = ((ReceivedFile.of(path), reason) for path, reason in quarantined_files(root))
    return {(file.association_id, file.sha256): reason for file, reason in found if file is not None}


def is_foreign(name: str) -> bool:
    """Tell whether something in a lane is called as nothing is that the edge has there."""
    return not (is_received_name(name) or is_lanes_own(name))


def scan(folder: Path) -> Iterator[ReceivedFile]:
    """Yield the received files of a folder, in no order. Raises `OSError`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            parsed = ReceivedFile.of(Path(entry.path))
            if parsed is not None:
                yield parsed


def _reason_of(path: Path) -> str:
    try:
        return read_regular(path.with_suffix(_REASON), _MOST_REASON_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return "its reason is not there; the log has it"
    except OSError as error:
        return f"its reason cannot be read: {error.strerror}"


def _folders(view: SpoolView, parent: Path, others: list[Path] | None = None) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            found = {Path(entry.path): entry.is_dir() for entry in entries}
    except FileNotFoundError:
        return []
    except OSError as error:
        view.unreadable[parent] = describe_failure(error)
        return []

    if others is not None:
        others += [path for path, is_folder in found.items() if not is_folder]
    return [path for path, is_folder in found.items() if is_folder]


def _names(view: SpoolView, folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # tens of thousands
    except FileNotFoundError:  # a delivery was stored and removed meanwhile
        return []
    except OSError as error:
        view.unreadable[folder] = describe_failure(error)
        return []


def _count(view: SpoolView, folder: Path, foreign: list[Path] | None = None, *, ages: bool) -> int:
    """Count the instances of a folder, and note when the oldest came; in a lane also what is `foreign` there."""
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if foreign is not None and is_foreign(entry.name):
                    foreign.append(Path(entry.path))
                if is_received_name(entry.name):
                    count += 1
                    if not ages:
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        view.oldest_at = min(view.oldest_at, entry.stat().st_mtime)
    except FileNotFoundError:
        pass
    except OSError as error:
        view.unreadable[folder] = describe_failure(error)
    return count
