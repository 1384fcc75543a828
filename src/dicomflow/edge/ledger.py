"""The ledger: for each instance received, from where, when, its digest, its delivery, and when it was stored.

One SQLite file in the spool, written by the deliverer and read by anyone. It is a memory, not the truth: the spool's
folders say what is left to do, so a lost or damaged ledger is begun anew and filled from them.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Final

from dicomflow.errors import PermanentError

__all__ = ["LEDGER_FILE", "Ledger", "LedgerEntry"]

LEDGER_FILE: Final = "ledger.db"

_BUSY_SECONDS: Final = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One instance's chain of custody in one delivery; times are UTC in ISO 8601, `sha256` is of the whole file."""

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
    # Why the pipeline says that it is not imported, until it says that it is.
    import_problem: str | None = None


_COLUMNS: Final = tuple(field.name for field in fields(LedgerEntry))
_values: Final = attrgetter(*_COLUMNS)  # `dataclasses.astuple` copies each value
# The first layout knew no import problems, and one delivery for each content.
_FIRST_COLUMNS: Final = tuple(name for name in _COLUMNS if name != "import_problem")
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS instance (
    {", ".join(name + (" INTEGER" if name == "bytes" else " TEXT") for name in _COLUMNS)},
    PRIMARY KEY (sop_instance_uid, sha256, delivery_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instance_delivery ON instance (delivery_id);
CREATE INDEX IF NOT EXISTS instance_received ON instance (received_at);
CREATE INDEX IF NOT EXISTS instance_unimported ON instance (received_at, delivery_id)
    WHERE stored_at IS NOT NULL AND imported_at IS NULL;
"""
_INSERT: Final = (
    f"INSERT INTO instance ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our names
    " ON CONFLICT DO UPDATE SET problem = NULL WHERE instance.stored_at IS NULL"
)


_CHECK_COLUMNS: Final = f"SELECT {', '.join(_COLUMNS)} FROM instance LIMIT 0"  # noqa: S608  # our names

# What may be gone at the next try, and says nothing of the file's content.
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)


class Ledger:
    """The ledger of one spool. Thread: one owner for each object.

    Opening a damaged file puts it aside and begins a new one; `read_only`, for what another process may be writing,
    raises `PermanentError` when there is none to read.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._received: dict[tuple[str, str, str], LedgerEntry] = {}  # noted and not written yet
        self._stored: list[tuple[str, datetime]] = []
        if read_only:
            self._connection = _open_read_only(path)
            return
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) in _NOT_DAMAGE:
                raise
            aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            _logger.warning("ledger_damaged error=%s kept_as=%s", error, aside.name)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            self._connection = _open(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def note_received(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep instances for the next `write`; `find` knows them already."""
        self._received |= {(entry.sop_instance_uid, entry.sha256, entry.delivery_id): entry for entry in entries}

    def note_stored(self, object_key: str, at: datetime) -> None:
        """Keep for the next `write` that an object is in the store, checksum confirmed."""
        self._stored.append((object_key, at))

    def write(self) -> None:
        """Write what was noted; what cannot be written now, on a full volume, is kept for the next time."""
        try:
            if self._received:
                self.record_received(self._received.values())
                self._received.clear()
            if self._stored:
                self.record_stored(self._stored)
                self._stored.clear()
        except sqlite3.OperationalError as error:
            _logger.warning("ledger_not_written error=%s waiting=%d", error, len(self._received) + len(self._stored))

    def record_received(self, entries: Iterable[LedgerEntry]) -> None:
        """Record instances; one that was given up in an earlier delivery follows its file to the new one."""
        noted = list(entries)
        with self._connection:
            self._connection.executemany(
                "DELETE FROM instance WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id != ?"
                " AND stored_at IS NULL AND problem IS NOT NULL",
                [(entry.sop_instance_uid, entry.sha256, entry.delivery_id) for entry in noted],
            )
            self._connection.executemany(_INSERT, map(_values, noted))

    def record_stored(self, stored: Iterable[tuple[str, datetime]]) -> None:
        """Record that objects, by their keys, are in the store, checksum confirmed."""
        with self._connection:
            self._connection.executemany(
                "UPDATE instance SET stored_at = ? WHERE sop_instance_uid = ? AND object_key = ? AND stored_at IS NULL",
                [(at.isoformat(), _sop_instance_uid(key), key) for key, at in stored],
            )

    def record_imported(self, object_keys: Iterable[str], at: datetime) -> None:
        """Record that objects are in an image set."""
        with self._connection:
            self._connection.executemany(
                "UPDATE instance SET imported_at = ?, import_problem = NULL"
                " WHERE sop_instance_uid = ? AND object_key = ? AND imported_at IS NULL",
                [(at.isoformat(), _sop_instance_uid(key), key) for key in object_keys],
            )

    def record_not_imported(self, reasons: Iterable[tuple[str, str]]) -> None:
        """Record why objects, by their keys, are in no image set."""
        with self._connection:
            self._connection.executemany(
                "UPDATE instance SET import_problem = :reason"
                " WHERE sop_instance_uid = :uid AND object_key = :key AND import_problem IS NOT :reason",
                [{"reason": reason, "uid": _sop_instance_uid(key), "key": key} for key, reason in reasons],
            )

    def unimported_deliveries(self, since: datetime) -> list[str]:
        """Return the deliveries of which something is stored and not known to be imported, if received since then."""
        cursor = self._connection.execute(
            "SELECT DISTINCT delivery_id FROM instance"
            " WHERE stored_at IS NOT NULL AND imported_at IS NULL AND received_at >= ? ORDER BY delivery_id",
            (since.isoformat(),),
        )
        return [delivery_id for (delivery_id,) in cursor]

    def record_problem(self, sop_instance_uid: str, sha256: str, problem: str, delivery_id: str | None = None) -> None:
        """Record why an instance is not delivered, in one delivery or in all."""
        with self._connection:
            self._connection.execute(
                "UPDATE instance SET problem = :problem"
                " WHERE sop_instance_uid = :uid AND sha256 = :sha256"
                " AND (:delivery IS NULL OR delivery_id = :delivery)",
                {"problem": problem, "uid": sop_instance_uid, "sha256": sha256, "delivery": delivery_id},
            )

    def find(self, sop_instance_uid: str) -> list[LedgerEntry]:
        """Return the entries of an instance, one for each content and each delivery of it, oldest first."""
        written = self._select("WHERE sop_instance_uid = ? ORDER BY received_at", (sop_instance_uid,))
        known = {(entry.sha256, entry.delivery_id) for entry in written}
        noted = [entry for entry in self._received.values() if entry.sop_instance_uid == sop_instance_uid]
        return written + [entry for entry in noted if (entry.sha256, entry.delivery_id) not in known]

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
        _upgrade(connection)
        connection.executescript(_SCHEMA)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.execute(_CHECK_COLUMNS)
            stack.pop_all()
    except sqlite3.DatabaseError as error:
        raise PermanentError(f"cannot read the ledger {path}: {error}") from error
    return connection


def _sop_instance_uid(object_key: str) -> str:
    return object_key.rpartition("/")[2].removesuffix(".dcm")


def _upgrade(connection: sqlite3.Connection) -> None:
    """Take over the entries of the first layout; all of them, or none."""
    found = [name for _, name, *_ in connection.execute("PRAGMA table_info(instance)")]
    if found != list(_FIRST_COLUMNS):
        return
    names = ", ".join(_FIRST_COLUMNS)
    connection.executescript(
        "BEGIN IMMEDIATE; ALTER TABLE instance RENAME TO instance_first;"  # noqa: S608  # our names
        " DROP INDEX instance_delivery; DROP INDEX instance_received; DROP INDEX instance_unimported;"
        f" {_SCHEMA} INSERT INTO instance ({names}) SELECT {names} FROM instance_first;"
        " DROP TABLE instance_first; COMMIT;"
    )


def _check(connection: sqlite3.Connection) -> None:
    connection.execute(_CHECK_COLUMNS)  # one of another version is begun anew
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("quick_check failed")
