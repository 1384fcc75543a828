"""What a store's folder is mounted on: a share that is away must not be taken for an empty folder.

Under the mount point lies another folder, which takes whatever is written, and the share hides it all when it comes
back. So the edge remembers, beside its ledger, on what its store's folder lay, and waits for that.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicomflow.errors import TransientError
from dicomflow.regularfiles import NotRegularError, read_regular

__all__ = ["MOUNT_FILE", "StoreMount"]

MOUNT_FILE: Final = "store_mount.json"

_logger = logging.getLogger(__name__)


class StoreMount:
    """The mount under a store's folder; nothing to look after where the store is none. Threads: any.

    Args:
        folder: the store's; None for S3.
        spool: where the mount is remembered.
        is_mount: tells mount points.
    """

    def __init__(self, folder: Path | None, spool: Path, is_mount: Callable[[Path], bool] = os.path.ismount) -> None:
        self._folder = None if folder is None else folder.absolute()
        self._note = spool / MOUNT_FILE
        self._is_mount = is_mount
        self._known: Path | None = None

    def check(self) -> None:
        """Look whether the folder lies on what it lay on.

        Raises:
            TransientError: it was mounted, and is not now.
        """
        if self._folder is None:
            return
        known = self._known = self._known or self._read()
        if known is not None and not self._is_mount(known):
            raise TransientError(
                f"{known} is not mounted, on which the object folder lies; mount it, or remove {self._note} if the"
                " folder is to stay on what is there now"
            )

    def remember(self) -> None:
        """Check, and remember the mount from now on."""
        self.check()
        if self._folder is None:
            return
        found = self._innermost(self._folder)
        if found == Path(found.anchor) or found == self._known:
            return
        self._known = found
        try:
            temporary = self._note.with_suffix(".new")
            temporary.write_text(json.dumps({"folder": str(self._folder), "mount": str(found)}), encoding="utf-8")
            temporary.replace(self._note)
        except OSError as error:  # as long as this process runs it is known
            _logger.warning("store_mount_not_noted error=%s", error.strerror)

    def _innermost(self, folder: Path) -> Path:
        """Return the mount point that a folder is on, its last one there is."""
        resolved = folder.resolve()
        return next((each for each in (resolved, *resolved.parents) if self._is_mount(each)), Path(resolved.anchor))

    def _read(self) -> Path | None:
        """Return what was remembered of this folder."""
        try:
            document = json.loads(read_regular(self._note))
            folder, mount = Path(document["folder"]), Path(document["mount"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, NotRegularError, ValueError, KeyError, TypeError, RecursionError):
            _logger.warning("store_mount_unreadable path=%s", self._note)
            return None
        return mount if folder == self._folder else None
