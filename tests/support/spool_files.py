"""What lies in a spool."""

from typing import Any

__all__ = ["leftovers"]


def leftovers(spool: Any) -> list[str]:
    """Return the names of all files in the spool that are, or could become, an instance."""
    folders = (spool.received, spool.delivering, spool.quarantined)
    return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]
