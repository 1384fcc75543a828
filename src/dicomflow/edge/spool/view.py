"""A spool as anybody may look at it, and who looks creates nothing: counts, ages, and what is in quarantine.

What cannot be read is told, and the rest is counted: another user's folder stops nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicomflow.edge.spool import segments
from dicomflow.edge.spool.names import SUFFIX, ReceivedFile
from dicomflow.edge.spool.setaside import describe_failure
from dicomflow.regularfiles import read_regular

__all__ = ["SpoolView", "count_files", "look", "oldest_seconds", "quarantined_files", "scan"]

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

    def counts(self) -> dict[str, int]:
        """Return the counts by folder."""
        return {"received": self.received, "delivering": self.delivering, "quarantined": self.quarantined}

    def oldest_seconds(self) -> float:
        """Return the age of the oldest instance that is not stored yet; 0 when there is none."""
        return max(0.0, time.time() - self.oldest_at)


def look(root: Path, *, ages: bool = True) -> SpoolView:
    """Look at a spool; a folder that does not exist is empty, and without `ages` no file's time is asked for."""
    view = SpoolView()
    for lane in _folders(view, root / "received"):
        view.received += _count(view, lane, ages=ages)
        try:
            count, oldest = segments.count_records(lane)
        except OSError as error:
            view.unreadable[lane] = describe_failure(error)
        else:
            view.received += count
            view.oldest_at = min(view.oldest_at, oldest)
    for delivery in _folders(view, root / "delivering"):
        view.delivering += _count(view, delivery, ages=ages)
    stems = {Path(name).stem for name in _names(view, root / "quarantined") if Path(name).suffix in _IN_QUARANTINE}
    view.quarantined = len(stems)
    return view


def count_files(root: Path) -> dict[str, int]:
    """Return how many instances lie in each folder of a spool; a folder that does not exist counts as empty."""
    return look(root, ages=False).counts()


def oldest_seconds(root: Path) -> float:
    """Return the age of the oldest instance that is not stored yet; 0 when there is none."""
    return look(root).oldest_seconds()


def quarantined_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is in quarantine, by name, with the reasons; a file that is gone has only a reason.

    Raises `OSError` when the folder cannot be read.
    """
    folder = root / "quarantined"
    with contextlib.suppress(FileNotFoundError):
        paths = sorted(path for path in folder.iterdir() if path.suffix in _IN_QUARANTINE)
        stems = {path.stem for path in paths if path.suffix != _REASON}
        for path in paths:
            if path.suffix != _REASON or path.stem not in stems:
                yield (path.with_suffix(SUFFIX) if path.suffix == _REASON else path), _reason_of(path)


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


def _folders(view: SpoolView, parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        view.unreadable[parent] = describe_failure(error)
        return []


def _names(view: SpoolView, folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  # tens of thousands
    except FileNotFoundError:  # a delivery was stored and removed meanwhile
        return []
    except OSError as error:
        view.unreadable[folder] = describe_failure(error)
        return []


def _count(view: SpoolView, folder: Path, *, ages: bool) -> int:
    """Count the instances of a folder, and note when the oldest came."""
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
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
