"""Alembic migrations of the catalog: append-only, forward-only, one module a revision under `versions`."""

from typing import Final

__all__ = ["REVISIONS"]

REVISIONS: Final = (
    *("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0010", "0011", "0012", "0013", "0014"),
)
"""All revisions in order; the last is what this program needs. Known here so that a handler needs no Alembic."""
