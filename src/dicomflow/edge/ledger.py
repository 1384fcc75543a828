"""The ledger: for each instance received, from where, when, its digest, its delivery, and when it was stored.

One SQLite file in the spool, written by the deliverer and read by anyone. It is a memory, not the truth: the spool's
folders say what is left to do, so a lost or damaged ledger is begun anew and filled from them.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

__all__ = ["LEDGER_FILE", "Ledger", "LedgerEntry"]

LEDGER_FILE: Final = "ledger.db"

_BUSY_SECONDS: Final = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One instance's chain of custody at this edge; times are UTC in ISO 8601, `sha256` is of the whole file."""

    sop_instance_uid: str
    sha256: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    bytes: int
    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: str
    delivery_id: str
    object_key: str
    stored_at: str | None = None
    imported_at: str | None = None
    problem: str | None = None


_COLUMNS: Final = tuple(field.name for field in fields(LedgerEntry))
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS instance (
    {", ".join(name + (" INTEGER" if name == "bytes" else " TEXT") for name in _COLUMNS)},
    PRIMARY KEY (sop_instance_uid, sha256)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instance_delivery ON instance (delivery_id);
CREATE INDEX IF NOT EXISTS instance_received ON instance (received_at);
"""
_INSERT: Final = (
    f"INSERT INTO instance ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our names
    " ON CONFLICT (sop_instance_uid, sha256) DO UPDATE SET"
    " delivery_id = excluded.delivery_id, object_key = excluded.object_key, problem = NULL"
    " WHERE instance.stored_at IS NULL"
)


class Ledger:
    """The ledger of one spool. Thread: one owner for each object.

    Opening a damaged file puts it aside and begins a new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            _logger.warning("ledger_damaged error=%s kept_as=%s", error, aside.name)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            self._connection = _open(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def record_received(self, entries: Iterable[LedgerEntry]) -> None:
        """Record instances; one that is stored already keeps its entry."""
        with self._connection:
            self._connection.executemany(_INSERT, map(astuple, entries))

    def record_stored(self, delivery_id: str, keys: Sequence[str], at: datetime) -> None:
        """Record that objects are in the store, checksum confirmed."""
        with self._connection:
            self._connection.executemany(
                "UPDATE instance SET stored_at = ? WHERE delivery_id = ? AND object_key = ? AND stored_at IS NULL",
                [(at.isoformat(), delivery_id, key) for key in keys],
            )

    def record_imported(self, object_keys: Iterable[str], at: datetime) -> None:
        """Record that objects are in an image set."""
        with self._connection:
            self._connection.executemany(
                "UPDATE instance SET imported_at = ? WHERE object_key = ? AND imported_at IS NULL",
                [(at.isoformat(), key) for key in object_keys],
            )

    def record_problem(self, sop_instance_uid: str, sha256: str, problem: str) -> None:
        """Record why an instance is not delivered."""
        with self._connection:
            self._connection.execute(
                "UPDATE instance SET problem = ? WHERE sop_instance_uid = ? AND sha256 = ?",
                (problem, sop_instance_uid, sha256),
            )

    def find(self, sop_instance_uid: str) -> list[LedgerEntry]:
        """Return the entries of an instance, one for each content it was received with, oldest first."""
        return self._select("WHERE sop_instance_uid = ? ORDER BY received_at", (sop_instance_uid,))

    def of_delivery(self, delivery_id: str) -> list[LedgerEntry]:
        """Return the entries of a delivery."""
        return self._select("WHERE delivery_id = ? ORDER BY received_at", (delivery_id,))

    def entries(self) -> Iterator[LedgerEntry]:
        """Yield every entry, oldest first."""
        cursor = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM instance ORDER BY received_at"  # noqa: S608  # our names
        )
        for row in cursor:
            yield LedgerEntry(*row)

    def forget_before(self, now: datetime, days: float) -> int:
        """Remove entries of stored instances that were received longer ago than `days`; return how many."""
        with self._connection:
            return self._connection.execute(
                "DELETE FROM instance WHERE received_at < ? AND stored_at IS NOT NULL",
                ((now - timedelta(days=days)).isoformat(),),
            ).rowcount

    def _select(self, condition: str, values: tuple[str, ...]) -> list[LedgerEntry]:
        rows = self._connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM instance {condition}",  # noqa: S608  # our names and placeholders
            values,
        )
        return [LedgerEntry(*row) for row in rows]


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A memory: after power loss the last entries come again from the spool.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("quick_check failed")
