"""The ledger's rows on destinations: for each instance of a routed delivery, where it goes, by which rule, and how far.

`ledger` opens and writes the file; here are the table and its statements. An instance that does not go to the default
store has `ELSEWHERE` in the place of its store, and a time of storing once every required destination has it.
"""

import sqlite3
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

__all__ = [
    "DONE",
    "ELSEWHERE",
    "ROUTED_SCHEMA",
    "RoutedEntry",
    "find_routed",
    "has_routed",
    "routed_of_row",
    "salvage_routed",
    "write_elsewhere",
    "write_routed",
]

ELSEWHERE: Final = "routes"
DONE: Final = "done"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class RoutedEntry:
    """An instance's way to one destination; times are UTC in ISO 8601.

    `state` is waiting, done, failed or gave_up; of the default store it is `store`, and the instance's own entry says
    how far it is. `route` names the rule, and is "" where none was asked or none fits.
    """

    sop_instance_uid: str
    sha256: str
    delivery_id: str
    series_instance_uid: str
    destination: str
    route: str
    configuration: str
    is_required: int
    decided_at: str
    state: str
    ended_at: str | None = None
    reason: str | None = None


_COLUMNS: Final = tuple(field.name for field in fields(RoutedEntry))
_NAMES: Final = ", ".join(_COLUMNS)
_values: Final = attrgetter(*_COLUMNS)
_KINDS: Final = tuple(
    frozenset({int}) if field.type is int else frozenset({str}) if field.type is str else frozenset({str, type(None)})
    for field in fields(RoutedEntry)
)
ROUTED_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS routed (
    {", ".join(name + (" INTEGER" if name == "is_required" else " TEXT") for name in _COLUMNS)},
    PRIMARY KEY (sop_instance_uid, sha256, delivery_id, destination)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS routed_forgotten AFTER DELETE ON instance WHEN OLD.stored_at IS NOT NULL BEGIN
    DELETE FROM routed WHERE sop_instance_uid = OLD.sop_instance_uid AND sha256 = OLD.sha256 AND NOT EXISTS
        (SELECT 1 FROM instance WHERE sop_instance_uid = OLD.sop_instance_uid AND sha256 = OLD.sha256);
END;
"""  # noqa: S608  # our names
# What has an end keeps it, whatever is decided or begun again.
_WRITE: Final = (
    f"INSERT INTO routed ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our names
    " ON CONFLICT DO UPDATE SET state = excluded.state, ended_at = excluded.ended_at, reason = excluded.reason"
    " WHERE routed.ended_at IS NULL"
)
# All that is required has arrived; where some of it never will, that is the instance's problem.
_SETTLE: Final = (
    "UPDATE instance SET stored_at = ? WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ? AND store = ?"
    " AND stored_at IS NULL AND NOT EXISTS (SELECT 1 FROM routed WHERE routed.sop_instance_uid ="
    " instance.sop_instance_uid AND routed.sha256 = instance.sha256 AND routed.delivery_id = instance.delivery_id"
    " AND routed.is_required AND routed.state != 'done')"
)
_GIVE_UP: Final = (
    "UPDATE instance SET problem = ? WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ? AND store = ?"
    " AND stored_at IS NULL"
)
_ELSEWHERE: Final = (
    "UPDATE instance SET store = ? WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ? AND stored_at IS NULL"
)


def write_routed(connection: sqlite3.Connection, entries: list[RoutedEntry]) -> None:
    """Write what is decided or has ended, and what follows for the instances, in the caller's transaction."""
    connection.executemany(_WRITE, map(_values, entries))
    ended = [each for each in entries if each.ended_at is not None]
    connection.executemany(
        _SETTLE,
        [(each.ended_at, each.sop_instance_uid, each.sha256, each.delivery_id, ELSEWHERE) for each in ended],
    )
    failed = [each for each in ended if each.state == FAILED and each.is_required]
    connection.executemany(
        _GIVE_UP,
        [
            (f"{each.destination}: {each.reason}", each.sop_instance_uid, each.sha256, each.delivery_id, ELSEWHERE)
            for each in failed
        ],
    )


def write_elsewhere(connection: sqlite3.Connection, keys: list[tuple[str, str, str]]) -> None:
    """Write that instances, by UID, digest and delivery, do not go to the default store."""
    connection.executemany(_ELSEWHERE, [(ELSEWHERE, *key) for key in keys])


def find_routed(connection: sqlite3.Connection, sop_instance_uid: str) -> list[RoutedEntry]:
    """Return where an instance goes, in the order of the decisions; nothing in a ledger of an earlier version."""
    statement = f"SELECT {_NAMES} FROM routed WHERE sop_instance_uid = ? ORDER BY decided_at, destination"  # noqa: S608  # our names
    if not has_routed(connection):
        return []
    return [routed_of_row(row) for row in connection.execute(statement, (sop_instance_uid,))]


def has_routed(connection: sqlite3.Connection) -> bool:
    """Tell whether there is any entry; a ledger of an earlier version, which is only read, has no table for them."""
    is_there = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'routed'").fetchone()
    return is_there is not None and connection.execute("SELECT 1 FROM routed LIMIT 1").fetchone() is not None


def routed_of_row(row: tuple[Any, ...]) -> RoutedEntry:
    """Return an entry; raises `sqlite3.DatabaseError` when a value is of no kind that is ever written."""
    if any(type(value) not in kinds for value, kinds in zip(row, _KINDS, strict=True)):
        raise sqlite3.DatabaseError("an entry holds what was never written")
    return RoutedEntry(*row)


def salvage_routed(damaged: sqlite3.Connection, ledger: sqlite3.Connection) -> None:
    """Take over what can be read of a damaged file, whose texts are bytes; raises where no more can be."""
    for row in damaged.execute(f"SELECT {_NAMES} FROM routed"):  # noqa: S608  # our names
        try:
            entry = routed_of_row(tuple(each.decode() if isinstance(each, bytes) else each for each in row))
        except (ValueError, sqlite3.DatabaseError):
            continue
        with ledger:
            ledger.execute(_WRITE, _values(entry))
