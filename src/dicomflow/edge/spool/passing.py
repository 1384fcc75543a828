"""An image on its way from a C-GET to this edge's own receiver: a file that nobody has acknowledged yet.

It is not durable and needs not be: its sender is answered what the receiver answers, which keeps the image. What a kill
leaves is removed at the next start.
"""

import contextlib
import os
from pathlib import Path
from typing import IO, Final

from dicomflow.edge.spool.layout import FOLDER_MODE

__all__ = ["PassingFile", "discard_passing"]

_FOLDER: Final = "passing"


class PassingFile:
    """A file with a name of its own, from `__init__` to `remove`. Thread: one owner. Raises `OSError`."""

    def __init__(self, root: Path, name: str) -> None:
        folder = root / _FOLDER
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{name}.part"
        self._file: IO[bytes] = self.path.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)

    def close(self) -> int:
        """Close the file for its reader; return its size in bytes."""
        self._file.close()
        return self.path.stat().st_size

    def remove(self) -> None:
        """Remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def discard_passing(root: Path) -> None:
    """Remove what processes that are gone have left."""
    with contextlib.suppress(OSError):
        for path in (root / _FOLDER).glob("*.part"):
            process = path.name.partition("-")[0]
            if not (process.isdigit() and Path(f"/proc/{process}").exists()):
                path.unlink(missing_ok=True)
