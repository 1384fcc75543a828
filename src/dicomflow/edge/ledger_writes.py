"""What the deliverer writes into the ledger's rows of instances, each for many at once."""

import sqlite3
from typing import Any

from dicomflow.edge.ledger_file import LedgerEntry, insert_entries

__all__ = [
    "write_dropped",
    "write_imported",
    "write_not_imported",
    "write_problem",
    "write_received",
    "write_sent_again",
    "write_stored",
]


def write_received(connection: sqlite3.Connection, entries: list[LedgerEntry]) -> None:
    """Write instances; one that was given up in an earlier delivery follows its file to the new one."""
    connection.executemany(
        "DELETE FROM instance WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id != ?"
        " AND stored_at IS NULL AND problem IS NOT NULL",
        [(entry.sop_instance_uid, entry.sha256, entry.delivery_id) for entry in entries],
    )
    insert_entries(connection, entries)


def write_stored(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Write when an object was put into a store: time, store, SOP Instance UID, key, store."""
    connection.executemany(
        "UPDATE instance SET stored_at = ?, store = ? WHERE sop_instance_uid = ? AND object_key = ?"
        " AND (stored_at IS NULL OR store IS NOT ?)",
        items,
    )


def write_problem(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Write why an instance is not delivered: the reason and the key of its row."""
    connection.executemany(
        "UPDATE instance SET problem = ? WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ?", items
    )


def write_dropped(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Remove the rows of these keys: SOP Instance UID, digest, delivery."""
    connection.executemany("DELETE FROM instance WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ?", items)


def write_sent_again(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Make the rows of these keys the last of their instances."""
    connection.executemany(
        "UPDATE instance SET rowid = (SELECT max(rowid) + 1 FROM instance)"
        " WHERE sop_instance_uid = ? AND sha256 = ? AND delivery_id = ?",
        items,
    )


def write_imported(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Write when the objects of these keys were imported: time, SOP Instance UID, key."""
    connection.executemany(
        "UPDATE instance SET imported_at = ?, import_problem = NULL"
        " WHERE sop_instance_uid = ? AND object_key = ? AND imported_at IS NULL",
        items,
    )


def write_not_imported(connection: sqlite3.Connection, items: list[Any]) -> None:
    """Write why objects are not imported: reason, SOP Instance UID, key, reason."""
    connection.executemany(
        "UPDATE instance SET import_problem = ?"
        " WHERE sop_instance_uid = ? AND object_key = ? AND import_problem IS NOT ?",
        items,
    )
