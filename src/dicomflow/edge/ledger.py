"""The ledger: for each instance received, from where, when, its digest, its delivery, and in which store it was put.

One SQLite file in the spool, written by the deliverer and read by anyone. It is a memory, not the truth: the spool's
folders say what is left to do, and the store says what it has. So a ledger that is locked is written later, and one
that turns out to be damaged is begun anew with what can still be read of it.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from dicomflow.edge.ledger_file import (
    COLUMN_NAMES,
    SUFFIXES,
    DamagedLedgerError,
    LedgerEntry,
    check_whole,
    entry_of_row,
    is_damage,
    open_file,
    open_file_read_only,
    readable,
    salvage,
    text_of,
)
from dicomflow.edge.ledger_routes import (
    DONE,
    ELSEWHERE,
    RoutedEntry,
    find_routed,
    has_routed,
    write_elsewhere,
    write_routed,
)
from dicomflow.edge.ledger_writes import (
    write_dropped,
    write_imported,
    write_not_imported,
    write_problem,
    write_received,
    write_sent_again,
    write_stored,
)
from dicomflow.edge.spool.durable import sync_directory

__all__ = ["DONE", "ELSEWHERE", "LEDGER_FILE", "DamagedLedgerError", "Ledger", "LedgerEntry", "RoutedEntry"]

LEDGER_FILE: Final = "ledger.db"

_BUSY_SECONDS: Final = 10.0
# Between two tries to write what could not be written.
_RETRY_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)

_Write = Callable[[sqlite3.Connection, list[Any]], None]
_T = TypeVar("_T")


class Ledger:
    """The ledger of one spool. Thread: one owner for each object, `distrust` and `sync` apart.

    A damaged file, whenever that shows, is put aside, and a new one begun with what can be read of it. One that cannot
    be had for the moment keeps what is noted until it can; asking it raises `sqlite3.OperationalError`.

    Args:
        path: the file; made where there is none.
        store: the identity of the store that objects are put into.
        read_only: for what another process may be writing; raises `PermanentError` when there is none to read, and
            `DamagedLedgerError` where a damaged one would be begun anew.
        busy_seconds: how long to wait for another's lock.
    """

    def __init__(
        self, path: Path, *, store: str | None = None, read_only: bool = False, busy_seconds: float = _BUSY_SECONDS
    ) -> None:
        self._path = path
        self._store = store
        self._is_read_only = read_only
        self._busy_seconds = busy_seconds
        self._received: dict[tuple[str, str, str], LedgerEntry] = {}  # noted and not written yet
        self._pending: list[tuple[_Write, list[Any]]] = []  # in the order they were noted
        self._retry_at = float("-inf")
        self._is_failing = self._is_distrusted = self._is_begun_anew = False
        self._connection: sqlite3.Connection | None = None
        if read_only:
            self._connection = open_file_read_only(path, busy_seconds)
            return
        try:
            self._run(lambda _: None)
        except sqlite3.DatabaseError as error:
            self._note_failure(error)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    @property
    def is_written(self) -> bool:
        """Whether all that was noted is in the file, for its readers."""
        return not self._pending

    def take_begun_anew(self) -> bool:
        """Tell, once, whether the ledger was begun anew: what is in the spool may be missing in it."""
        is_begun_anew, self._is_begun_anew = self._is_begun_anew, False
        return is_begun_anew

    def distrust(self) -> None:
        """Have the file checked before the next write: a reader of it came across damage. Any thread."""
        self._is_distrusted = True

    def note_received(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep instances for the next `write`; `find` knows them already."""
        for entry in entries:
            self._received[(entry.sop_instance_uid, entry.sha256, entry.delivery_id)] = entry
            self._note(write_received, entry)

    def note_stored(self, object_key: str, at: datetime) -> None:
        """Keep for the next `write` that an object is in the store, checksum confirmed."""
        self._note(write_stored, (at.isoformat(), self._store, _sop_instance_uid(object_key), object_key, self._store))

    def note_problem(self, entry: LedgerEntry, problem: str) -> None:
        """Keep for the next `write` why an instance is not delivered in its delivery."""
        self._note(write_problem, (problem, entry.sop_instance_uid, entry.sha256, entry.delivery_id))

    def note_dropped(self, entry: LedgerEntry) -> None:
        """Keep for the next `write` that a delivery goes without an instance: the store has it from another one."""
        key = (entry.sop_instance_uid, entry.sha256, entry.delivery_id)
        self._received.pop(key, None)
        self._note(write_dropped, key)

    def note_sent_again(self, known: LedgerEntry) -> None:
        """Keep for the next `write` that the sender's last word on an instance is a content that is here already."""
        key = (known.sop_instance_uid, known.sha256, known.delivery_id)
        if (noted := self._received.pop(key, None)) is not None:
            self._received[key] = noted
        self._note(write_sent_again, key)

    def note_routed(self, entries: Iterable[RoutedEntry], elsewhere: Iterable[tuple[str, str, str]] = ()) -> None:
        """Keep for the next `write` where instances go; `elsewhere` names those that the default store does not get."""
        for key in elsewhere:
            self._note(write_elsewhere, key)
        for entry in entries:
            self._note(write_routed, entry)

    def write(self) -> None:
        """Write what was noted; what cannot be written now, on a full volume, is kept for the next time."""
        if not (self._pending or self._is_distrusted) or time.monotonic() < self._retry_at:
            return
        try:
            self._run(self._write_pending)
        except sqlite3.DatabaseError as error:
            self._note_failure(error)
            return
        if self._is_failing:
            self._is_failing = False
            _logger.info("ledger_written_again")
        self._received.clear()
        self._pending.clear()

    def sync(self) -> None:
        """Durable: on return what was written outlasts power loss. Any thread. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):  # without a log all is in the file, which SQLite has synced
            descriptor = os.open(self._path.with_name(f"{self._path.name}-wal"), os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(self._path.parent)

    def record_received(self, entries: Iterable[LedgerEntry]) -> None:
        """Record instances; one that was given up in an earlier delivery follows its file to the new one."""
        self._record(write_received, entries)

    def record_stored(self, stored: Iterable[tuple[str, datetime]]) -> None:
        """Record that objects, by their keys, are in the store, checksum confirmed."""
        store = self._store
        self._record(write_stored, ((at.isoformat(), store, _sop_instance_uid(key), key, store) for key, at in stored))

    def record_imported(self, object_keys: Iterable[str], at: datetime) -> None:
        """Record that objects are in an image set."""
        self._record(write_imported, ((at.isoformat(), _sop_instance_uid(key), key) for key in object_keys))

    def record_not_imported(self, reasons: Iterable[tuple[str, str]]) -> None:
        """Record why objects, by their keys, are in no image set."""
        self._record(write_not_imported, ((reason, _sop_instance_uid(key), key, reason) for key, reason in reasons))

    def unimported_deliveries(self, since: datetime) -> list[str]:
        """Return the deliveries of which something is stored and not known to be imported, if received since then."""
        statement = (
            "SELECT DISTINCT delivery_id FROM instance"
            " WHERE stored_at IS NOT NULL AND imported_at IS NULL AND received_at >= ? AND store IS NOT ?"
            " ORDER BY delivery_id"
        )

        def _ask(connection: sqlite3.Connection) -> list[str]:
            return [text_of(row[0]) for row in connection.execute(statement, (since.isoformat(), ELSEWHERE))]

        return self._run(_ask)

    def waiting_deliveries(self) -> list[str]:
        """Return the deliveries of which something waits to be stored, as far as the ledger knows; it is read whole."""
        statement = (
            "SELECT DISTINCT delivery_id FROM instance WHERE stored_at IS NULL AND problem IS NULL AND store IS NOT ?"
        )

        def _ask(connection: sqlite3.Connection) -> list[str]:
            return [text_of(row[0]) for row in connection.execute(statement, (ELSEWHERE,))]

        return self._run(_ask)

    def find(self, sop_instance_uid: str) -> list[LedgerEntry]:
        """Return the entries of an instance, one for each content and each delivery of it, in the order of gathering.

        Not of their times: the clock may have been set back between two of them.
        """
        written = self._select("WHERE sop_instance_uid = ? ORDER BY rowid", (sop_instance_uid,))
        known = {(entry.sha256, entry.delivery_id) for entry in written}
        noted = [entry for entry in self._received.values() if entry.sop_instance_uid == sop_instance_uid]
        return written + [entry for entry in noted if (entry.sha256, entry.delivery_id) not in known]

    def has_routed(self) -> bool:
        """Tell whether anything was ever decided by routes."""
        return self._run(has_routed)

    def routed(self, sop_instance_uid: str) -> list[RoutedEntry]:
        """Return where an instance goes beside or instead of the default store, in the order of the decisions."""
        return self._run(lambda connection: find_routed(connection, sop_instance_uid))

    def of_delivery(self, delivery_id: str) -> list[LedgerEntry]:
        """Return the entries of a delivery."""
        return self._select("WHERE delivery_id = ? ORDER BY received_at", (delivery_id,))

    def of_study(self, study_instance_uid: str) -> list[LedgerEntry]:
        """Return the entries of a study, in the order of gathering."""
        return self._select("WHERE study_instance_uid = ? ORDER BY rowid", (study_instance_uid,))

    def count_study(self, study_instance_uid: str) -> tuple[int, int]:
        """Return how many entries a study has, and their bytes."""
        statement = "SELECT count(*), coalesce(sum(bytes), 0) FROM instance WHERE study_instance_uid = ?"
        (row,) = self._run(lambda connection: connection.execute(statement, (study_instance_uid,)).fetchall())
        return int(row[0]), int(row[1])

    def keep_study(self, study_instance_uid: str) -> None:
        """Have the entries of a study never expire: what is compared with a source must not come again and again."""
        statement = "INSERT OR IGNORE INTO kept_study (study_instance_uid) VALUES (?)"

        def _do(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute(statement, (study_instance_uid,))

        self._run(_do)

    def entries(self) -> list[LedgerEntry]:
        """Return every entry, oldest first."""
        return self._select("ORDER BY received_at", ())

    def forget_before(self, now: datetime, days: float) -> int:
        """Remove entries of stored instances that were received longer ago than `days`; return how many.

        Those of studies that are kept stay.
        """
        statement = (
            "DELETE FROM instance WHERE received_at < ? AND stored_at IS NOT NULL"
            " AND study_instance_uid NOT IN (SELECT study_instance_uid FROM kept_study)"
        )
        return self._delete(statement, [((now - timedelta(days=days)).isoformat(),)])

    def forget(self, uids: Iterable[str]) -> int:
        """Remove the entries of stored instances that are, or are of a series or study that is, one of these."""
        statement = (
            "DELETE FROM instance WHERE stored_at IS NOT NULL"
            " AND :uid IN (sop_instance_uid, series_instance_uid, study_instance_uid)"
        )
        return self._delete(statement, [{"uid": uid} for uid in uids])

    def forget_all(self) -> int:
        """Remove the entries of all stored instances."""
        return self._delete("DELETE FROM instance WHERE stored_at IS NOT NULL", [()])

    def _select(self, condition: str, values: tuple[str, ...]) -> list[LedgerEntry]:
        statement = f"SELECT {COLUMN_NAMES} FROM instance {condition}"  # noqa: S608  # our names and placeholders
        return self._run(lambda connection: [entry_of_row(row) for row in connection.execute(statement, values)])

    def _delete(self, statement: str, values: Iterable[Any]) -> int:
        noted = list(values)

        def _do(connection: sqlite3.Connection) -> int:
            with connection:
                return connection.executemany(statement, noted).rowcount

        return self._run(_do)

    def _record(self, write: _Write, items: Iterable[Any]) -> None:
        noted = list(items)

        def _do(connection: sqlite3.Connection) -> None:
            with connection:
                write(connection, noted)

        self._run(_do)

    def _note(self, write: _Write, item: Any) -> None:  # what the function takes
        if not self._pending or self._pending[-1][0] is not write:
            self._pending.append((write, []))
        self._pending[-1][1].append(item)

    def _write_pending(self, connection: sqlite3.Connection) -> None:
        if self._is_distrusted:
            self._is_distrusted = False
            check_whole(connection)
            for row in connection.execute(f"SELECT {COLUMN_NAMES} FROM instance"):  # noqa: S608  # our names
                entry_of_row(row)
        with connection:
            for write, items in self._pending:
                write(connection, items)

    def _run(self, use: Callable[[sqlite3.Connection], _T]) -> _T:
        """Use the file; if it shows damage, use a new one."""
        try:
            return readable(lambda: use(self._connect()))
        except sqlite3.DatabaseError as error:
            if not is_damage(error, None if self._is_read_only else self._path):
                raise
            if self._is_read_only:
                raise DamagedLedgerError(f"the ledger {self._path} is damaged") from error
            self._begin_anew(error)
            return use(self._connect())

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and not (self._is_read_only or self._path.exists()):
            # Somebody removed it: what is written here nobody would find.
            self._connection.close()
            self._connection, self._is_begun_anew = None, True
        if self._connection is None:
            self._connection = open_file(self._path, self._busy_seconds)
        return self._connection

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put the file aside, and begin a new one with what can be read of it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        # Nanoseconds, since a second one may follow.
        aside = self._path.with_name(f"{self._path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}-{time.time_ns()}")
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        self._is_begun_anew = True
        kept = salvage(aside, self._connect())
        # Not the error's text: it may quote what was read.
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        _logger.error("ledger_damaged error=%s kept_as=%s entries_kept=%d", code, aside.name, kept)

    def _note_failure(self, error: sqlite3.DatabaseError) -> None:
        """Log the first failure of a row, and leave the file alone for a moment: each try may wait for a lock."""
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        if not self._is_failing:
            self._is_failing = True
            waiting = sum(len(items) for _, items in self._pending)
            _logger.warning("ledger_not_written error=%s waiting=%d", error, waiting)


def _sop_instance_uid(object_key: str) -> str:
    return object_key.rpartition("/")[2].removesuffix(".dcm")
