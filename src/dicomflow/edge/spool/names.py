"""What the name of a received file tells."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "MANIFEST_FILE",
    "STORED",
    "SUFFIX",
    "ReceivedFile",
    "is_delivery_id",
    "is_received_name",
    "is_stored_delivery",
    "stem_of",
]

SUFFIX: Final = ".dcm"
STORED: Final = ".stored"
"""Behind the name of a delivery that is in the store, and about to be removed."""
# ASCII: a name may be no text at all, which no ledger and no manifest takes.
_RECEIVED: Final = re.compile(r"[\0-\x5e\x60-\x7f]*_[0-9]+_[\0-\x5e\x60-\x7f]*_[\0-\x5e\x60-\x7f]{64}\.dcm")
MANIFEST_FILE: Final = "manifest.json"
"""The note in a delivery's folder that says what it holds, once it is closed."""


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file of `received/` or of a delivery, as its name tells it; `sha256` is of the whole file, in hex."""

    path: Path
    association_id: str
    number: int
    peer: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "ReceivedFile | None":
        """Read a path; None when it is no received file's."""
        if not is_received_name(path.name):
            return None
        association_id, number, peer, sha256 = path.name.removesuffix(SUFFIX).split("_")
        return cls(path, association_id, int(number), peer.replace("-", ":"), sha256)


def is_received_name(name: str) -> bool:
    """Tell whether a file is named like a received one."""
    return _RECEIVED.fullmatch(name) is not None


def stem_of(association_id: str, number: int, peer: str, sha256: str) -> str:
    """Return the name of a received file, without its suffix."""
    return f"{association_id}_{number:08}_{peer.replace(':', '-')}_{sha256}"


def is_delivery_id(name: str) -> bool:
    """Tell whether a folder is named like a delivery, so that an empty one is ours to remove."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def is_stored_delivery(folder: Path) -> bool:
    """Tell what is left of a stored delivery from a folder that somebody has called so, which is delivered."""
    return folder.suffix == STORED and is_delivery_id(folder.stem)
