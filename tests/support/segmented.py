"""Lanes with small segments: small instances are put in, spoiled and found again."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.spool.records import read_records

__all__ = ["ASSOCIATION", "SIZE", "damage", "end", "fails", "put", "received", "restarted"]

SIZE = 64 << 10
ASSOCIATION = "a" * 32


def put(lane: Lane, content: bytes = b"content", number: int = 0) -> str:
    """Receive an instance, and return its digest."""
    lane.create(ASSOCIATION, number).write([content]).commit("10.0.0.1")
    return hashlib.sha256(content).hexdigest()


def received(spool: Layout) -> list[bytes]:
    """Return the files that are received, by number."""
    files = sorted(Spool(spool.root).scan_received(), key=lambda each: each.number)
    return [file.path.read_bytes() for file in files]


def end(lane: Lane) -> None:
    """Let a worker die: its locks are gone."""
    lane.segments = None


def restarted(lane: Lane) -> Lane:
    """Return the lane as the next process has it, after this one has died."""
    end(lane)
    return Lane(lane.root, segment_bytes=SIZE)


def fails(*_: Any) -> int:
    """Fail as a bad disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def damage(segment: Path, record: int, offset: int) -> None:
    """Change a byte of a record, counted from its beginning, as a bad disk does."""
    with segment.open("r+b", buffering=0) as file:
        start = [each.start for each in read_records(file)][record]
        byte = os.pread(file.fileno(), 1, start + offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0xFF]), start + offset)
