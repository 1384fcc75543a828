"""The locks by which each of an edge's processes has a spool to itself."""

from pathlib import Path

from filelock import FileLock

from dicomflow.edge.spool.durable import LOCK_MODE

__all__ = ["lock_of"]


def lock_of(root: Path, name: str) -> FileLock:
    """Return one of a spool's locks, which nobody but its owner can open."""
    return FileLock(root / f"{name}.lock", mode=LOCK_MODE)
