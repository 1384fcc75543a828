"""What lies in a spool."""

import hashlib
from pathlib import Path
from typing import Any

from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.records import read_records

__all__ = ["digests", "leftovers", "receive"]


def receive(spool: Layout, content: bytes, association: str = "a1", number: int = 0) -> ReceivedFile:
    """Receive an instance into the spool's first lane, into a file of its own."""
    path = Lane(spool.root).create(association, number).write([content]).commit("10.0.0.1")
    file = ReceivedFile.of(path)
    assert file is not None
    return file


def leftovers(spool: Any) -> list[str]:
    """Return the names of all files in the spool that are, or could become, an instance."""
    folders = (spool.received, spool.delivering, spool.quarantined)
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


def digests(root: Path) -> set[str]:
    """Return the SHA-256 of each instance in a spool whose edge has ended: of its files, and of those in segments."""
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.dcm")}
    for segment in root.glob("received/*/*.segment"):
        with segment.open("rb", buffering=0) as file:
            found |= {hashlib.sha256(each.content).hexdigest() for each in read_records(file) if each.is_whole}
    return found
