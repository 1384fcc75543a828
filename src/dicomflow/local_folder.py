"""The data folder of `dicomflow local`: one program at a time, for its owner's eyes alone, with what is set in it.

Knows what lies in the folder, and nothing of what is done with it.
"""

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from dicomflow.edge.settings import EdgeSettings, build_settings, read_document
from dicomflow.errors import PermanentError
from dicomflow.local_address import ADDRESS_FILE

__all__ = ["SETTINGS_FILE", "KeptFile", "Room", "claim_folder", "load_edge_settings", "open_to_others"]

_logger = logging.getLogger(__name__)

SETTINGS_FILE: Final = "edge.toml"
_LOCK_FILE: Final = "local.lock"
_DATABASES: Final = ("catalog.db", "healthimaging.db")
_OURS: Final = (
    "objects",
    "spool",
    _LOCK_FILE,
    ADDRESS_FILE,
    *(f"{name}{suffix}" for name in _DATABASES for suffix in ("", "-wal", "-shm")),
)
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_EDGE_NAME: Final = "local"
# A laptop's disk may be nearly full; a receiver must not stop while it has a little left.
_SLOW_BELOW_BYTES: Final = 1 << 30
_REFUSE_BELOW_BYTES: Final = 256 << 20


def claim_folder(data: Path) -> FileLock:
    """Make the folder if need be, close it to others, and return the lock by which it is ours until it is released.

    Raises:
        PermanentError: another program works in it, or its files belong to another user.
    """
    data.mkdir(0o700, parents=True, exist_ok=True)
    _require_owner(data)
    lock = FileLock(data / _LOCK_FILE, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PermanentError(
            f"another `dicomflow local` runs on {data}: stop it first, or give another folder"
        ) from error
    for path in open_to_others(data):
        with contextlib.suppress(OSError):  # a file system without modes; `doctor` tells of it
            path.chmod(path.stat().st_mode & ~_OTHERS)
    return lock


def open_to_others(data: Path) -> list[Path]:
    """Return what of a data folder other users may look into: the folder itself, or what is ours in it.

    A folder in which other things lie is not ours to close, as `/tmp` is not.
    """
    if os.name != "posix" or not data.is_dir() or not data.stat().st_mode & _OTHERS:
        return []
    is_ours_alone = {path.name for path in data.iterdir()} <= {*_OURS, SETTINGS_FILE}
    return [path for path in (*([data] if is_ours_alone else []), *_present(data)) if path.stat().st_mode & _OTHERS]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that is in use: whoever has it open works on, and in vain, when another one takes its name."""

    path: Path
    identity: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "KeptFile":
        """Remember which file has the name now. Raises `OSError`."""
        return cls(path, _identity(path))

    def is_there(self) -> bool:
        """Tell whether the name still leads to it."""
        try:
            return _identity(self.path) == self.identity
        except OSError:
            return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


class Room:
    """Tells whether a folder's volume has room left, and logs when that changes. Threads: any."""

    def __init__(self, folder: Path, least_free_bytes: int) -> None:
        self._folder = folder
        self._least_free_bytes = least_free_bytes
        self._had_room = True

    def __call__(self) -> bool:
        """Look now."""
        free = shutil.disk_usage(self._folder).free
        has_room = free >= self._least_free_bytes
        if has_room != self._had_room:
            self._had_room = has_room
            if has_room:
                _logger.info("pipeline_goes_on free_bytes=%d", free)
            else:
                _logger.error("pipeline_waits_for_space free_bytes=%d least=%d", free, self._least_free_bytes)
        return has_room


def load_edge_settings(
    data: Path, port: int | None = None, bind: str | None = None, quiet_seconds: float | None = None
) -> EdgeSettings:
    """Return the settings of the edge in a local system: those of its `edge.toml`, and above them what is given here.

    Raises:
        PermanentError: the file is no settings file, or sets what the local system sets itself.
    """
    path = data / SETTINGS_FILE
    document = read_document(path) if path.exists() else {}
    fixed: dict[str, Any] = {
        "name": _EDGE_NAME,
        "http_port": None,
        "spool": {"dir": data / "spool"},
        "delivery": {"store_url": (data / "objects").as_uri()},
    }
    if taken := next(_common(document, fixed | {"http_bind": None}), None):
        raise PermanentError(f"{path} sets {taken}, which `dicomflow local` sets itself: leave it out")
    given = {
        "dimse": {name: value for name, value in (("port", port), ("bind", bind)) if value is not None},
        "delivery": {} if quiet_seconds is None else {"quiet_seconds": quiet_seconds},
    }
    limits = {"spool": {"slow_below_bytes": _SLOW_BELOW_BYTES, "refuse_below_bytes": _REFUSE_BELOW_BYTES}}
    return build_settings(_laid(_laid(_laid(limits, document), fixed), given), str(path))


def _present(data: Path) -> list[Path]:
    return [path for path in map(data.joinpath, _OURS) if path.exists()]


def _require_owner(data: Path) -> None:
    """Refuse to make files that the owner of the others could not use, or to meet theirs."""
    if os.name != "posix":
        return
    for path in _present(data):
        if path.stat().st_uid != os.geteuid():
            try:
                owner = path.owner()
            except KeyError:
                owner = f"user {path.stat().st_uid}"
            raise PermanentError(f"{path} belongs to {owner}: run `dicomflow local` as {owner}, or give another folder")


def _laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return a document with another laid over it, section by section."""
    both = {
        name: _laid(below[name], value) if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in above.items()
    }
    return below | both


def _common(document: dict[str, Any], fixed: dict[str, Any], section: str = "") -> Iterator[str]:
    """Yield the keys that are in both, with their sections."""
    for name, value in fixed.items():
        if name in document:
            if isinstance(value, dict) and isinstance(document[name], dict):
                yield from _common(document[name], value, f"{name}.")
            else:
                yield f"{section}{name}"
