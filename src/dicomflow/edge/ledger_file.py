"""The ledger's file: its layouts, how it is opened, what in it is damage, and what can be read of a damaged one.

When it is written and asked is `ledger`'s.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

from dicomflow.edge.ledger_routes import ROUTED_SCHEMA, salvage_routed
from dicomflow.edge.spool.durable import give_to_owner_of
from dicomflow.errors import PermanentError
from dicomflow.regularfiles import is_special

__all__ = [
    "COLUMN_NAMES",
    "SUFFIXES",
    "DamagedLedgerError",
    "LedgerEntry",
    "check_whole",
    "entry_of_row",
    "insert_entries",
    "is_damage",
    "open_file",
    "open_file_read_only",
    "readable",
    "salvage",
    "text_of",
]

_T = TypeVar("_T")
_SALVAGED_AT_ONCE: Final = 1000
# Of the file and of what SQLite keeps beside it.
SUFFIXES: Final = ("", "-wal", "-shm", "-journal")


class DamagedLedgerError(PermanentError):
    """The file's content is not what was written; its owner begins it anew."""


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
    # Which store took it, see `stores.identify_store`; None also where an earlier version did not note it.
    store: str | None = None


_COLUMNS: Final = tuple(field.name for field in fields(LedgerEntry))
_values: Final = attrgetter(*_COLUMNS)  # `dataclasses.astuple` copies each value
COLUMN_NAMES: Final = ", ".join(_COLUMNS)
# What each column may hold.
_KINDS: Final = tuple(
    frozenset({int}) if field.type is int else frozenset({str}) if field.type is str else frozenset({str, type(None)})
    for field in fields(LedgerEntry)
)
_WITHOUT_STORE: Final = tuple(name for name in _COLUMNS if name != "store")
# The first layout knew no import problems, and one delivery for each content.
_FIRST_COLUMNS: Final = tuple(name for name in _WITHOUT_STORE if name != "import_problem")
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS instance (
    {", ".join(name + (" INTEGER" if name == "bytes" else " TEXT") for name in _COLUMNS)},
    PRIMARY KEY (sop_instance_uid, sha256, delivery_id)
);
CREATE INDEX IF NOT EXISTS instance_delivery ON instance (delivery_id);
CREATE INDEX IF NOT EXISTS instance_received ON instance (received_at);
CREATE INDEX IF NOT EXISTS instance_study ON instance (study_instance_uid);
CREATE TABLE IF NOT EXISTS kept_study (study_instance_uid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instance_unimported ON instance (received_at, delivery_id)
    WHERE stored_at IS NOT NULL AND imported_at IS NULL;
{ROUTED_SCHEMA}
"""
_INSERT: Final = (
    f"INSERT INTO instance ({COLUMN_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our names
    " ON CONFLICT DO UPDATE SET problem = NULL WHERE instance.stored_at IS NULL"
)
_CHECK_COLUMNS: Final = f"SELECT rowid, {COLUMN_NAMES} FROM instance LIMIT 0"  # noqa: S608  # our names

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
# But for a page that the disk does not give, whose fault stays.
_DAMAGE: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})


def entry_of_row(row: tuple[Any, ...]) -> LedgerEntry:
    """Return an entry; raises `sqlite3.DatabaseError` when a value is of no kind that is ever written."""
    for value, kinds in zip(row, _KINDS, strict=True):
        if type(value) not in kinds:
            raise sqlite3.DatabaseError("an entry holds what was never written")
    return LedgerEntry(*row)


def insert_entries(ledger: sqlite3.Connection, entries: Iterable[LedgerEntry]) -> int:
    """Write entries in the caller's transaction, and return how many; a repeat takes an unstored one's problem away."""
    return ledger.executemany(_INSERT, map(_values, entries)).rowcount


def text_of(value: object) -> str:
    """Return a text; raises `sqlite3.DatabaseError` when it is none."""
    if not isinstance(value, str):
        raise sqlite3.DatabaseError("an entry holds what was never written")
    return value


def readable(use: Callable[[], _T]) -> _T:
    """Use a file; what SQLite says of a damaged schema quotes it, and may be no text, which Python cannot raise."""
    try:
        return use()
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError("what SQLite says of the file is no text") from error


def is_damage(error: sqlite3.DatabaseError, written: Path | None) -> bool:
    """Tell whether an error says something of the content of a file, which is `written` or only read.

    One of a text that is none has no code.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.ProgrammingError)
    if code & 0xFF == sqlite3.SQLITE_READONLY:
        # So says a header that no version has written, too.
        return written is not None and all(os.access(each, os.W_OK) for each in (written.parent, written))
    return code in _DAMAGE or code & 0xFF not in _NOT_DAMAGE


def check_files(path: Path) -> None:
    """Check what SQLite would wait for; raises `sqlite3.DatabaseError`, as for damage, if one is no file."""
    for suffix in SUFFIXES:
        if is_special(path.with_name(path.name + suffix)):
            raise sqlite3.DatabaseError("it is no regular file")


def open_file(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Open the file, make it or take over an earlier layout; raises `sqlite3.DatabaseError`, for damage too.

    One that root makes belongs to whom the spool belongs; SQLite gives what it writes beside the file to its owner.
    """
    if not path.exists():
        with contextlib.suppress(OSError):  # SQLite says what is wrong
            path.touch(0o640)
            give_to_owner_of(path.parent, path)
    check_files(path)
    connection = sqlite3.connect(path, timeout=busy_seconds, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A memory: after power loss the last entries come again from the spool.
        connection.execute("PRAGMA synchronous = NORMAL")
        _upgrade(connection)
        connection.executescript(_SCHEMA)
        check_whole(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_file_read_only(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Open the file for reading; raises `PermanentError` when it is not there or is no ledger of this version."""
    # Without a log of its last writer the file is whole, and SQLite would begin one even to read: who looks creates
    # nothing, and could not on a volume that is mounted read-only.
    whole = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    try:
        check_files(path)
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{whole}", uri=True, timeout=busy_seconds)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            readable(lambda: connection.execute(_CHECK_COLUMNS))
            stack.pop_all()
    except sqlite3.DatabaseError as error:
        kind = DamagedLedgerError if is_damage(error, None) else PermanentError
        raise kind(f"cannot read the ledger {path}: {error}") from error
    return connection


def _upgrade(connection: sqlite3.Connection) -> None:
    """Take over the entries of an earlier layout; all of them, or none.

    Those kept no order but the wall clock's, which may have been set back since.
    """
    found = tuple(name for _, name, *_ in connection.execute("PRAGMA table_info(instance)"))
    made_by = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'instance'").fetchone()
    is_earlier = made_by is not None and "WITHOUT ROWID" in text_of(made_by[0])
    if not is_earlier or found not in {_COLUMNS, _WITHOUT_STORE, _FIRST_COLUMNS}:
        return
    names = ", ".join(found)
    connection.executescript(
        "BEGIN IMMEDIATE; ALTER TABLE instance RENAME TO instance_earlier;"  # noqa: S608  # our names
        " DROP INDEX IF EXISTS instance_delivery; DROP INDEX IF EXISTS instance_received;"
        " DROP INDEX IF EXISTS instance_unimported; DROP INDEX IF EXISTS instance_study;"
        f" {_SCHEMA} INSERT INTO instance ({names}) SELECT {names} FROM instance_earlier ORDER BY received_at;"
        " DROP TABLE instance_earlier; COMMIT;"
    )


def check_whole(connection: sqlite3.Connection) -> None:
    """Read all of the file, and compare indexes with rows; raises `sqlite3.DatabaseError` for what does not fit.

    An index that lacks a row hides what was received, and nothing else would tell: 5 s of a processor for a million.
    """
    connection.execute(_CHECK_COLUMNS)  # one of another version is begun anew
    if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("integrity_check failed")


def salvage(aside: Path, ledger: sqlite3.Connection) -> int:
    """Take over the entries of a damaged ledger that can be read, up to the page that cannot; return how many."""
    kept = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError))
        check_files(aside)
        damaged = stack.enter_context(contextlib.closing(sqlite3.connect(aside)))
        damaged.text_factory = bytes
        found = {name.decode(errors="replace") for _, name, *_ in damaged.execute("PRAGMA table_info(instance)")}
        names = [name for name in _COLUMNS if name in found]  # those of another version are left
        cursor = damaged.execute(f"SELECT {', '.join(names)} FROM instance")  # noqa: S608  # our names
        while rows := cursor.fetchmany(_SALVAGED_AT_ONCE):
            with ledger:
                kept += insert_entries(ledger, filter(None, (_decoded(names, row) for row in rows)))
        salvage_routed(damaged, ledger)
    return kept


def _decoded(names: list[str], row: tuple[Any, ...]) -> LedgerEntry | None:
    """Return the entry of a row whose texts are bytes; None when a value is none that was ever written."""
    try:
        values = dict(zip(names, (each.decode() if isinstance(each, bytes) else each for each in row), strict=True))
        return entry_of_row(tuple(values.get(name) for name in _COLUMNS))
    except (ValueError, sqlite3.DatabaseError):
        return None
