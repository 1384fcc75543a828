"""Where everything of a spool lies: the one table of its paths."""

from pathlib import Path
from typing import Final

from dicomflow.edge.spool.durable import sync_directory
from dicomflow.errors import PermanentError

__all__ = ["FOLDER_MODE", "Layout"]

FOLDER_MODE: Final = 0o750


class Layout:
    """The paths of the spool in a folder; `make` is for whoever writes to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.received = root / "received"
        self.unpacked = self.received / "unpacked"
        self.retried = self.received / "retried"  # a lane for what an operator puts back
        self.delivering = root / "delivering"
        self.quarantined = root / "quarantined"
        self.destinations = root / "destinations"  # see `handedover`
        self.ballast = root / "ballast"
        self.spares_folder = root / "spares"
        self.associations_folder = root / "associations"

    def make(self, *lanes: str) -> None:
        """Make what is missing, with some lanes. Raises `PermanentError`."""
        folders = [self.unpacked, self.delivering, self.quarantined, self.spares_folder, self.associations_folder]
        try:
            for folder in (*folders, *(self.received / lane for lane in lanes)):
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(f"cannot create the spool in {self.root}: {error.strerror}") from error
        for folder in (self.received, self.root):
            sync_directory(folder)
