"""What an adoption knows between its runs: each object, what its head said, and its delivery, in one SQLite file.

A memory that may be lost: what was adopted has a manifest, and the same objects make the same deliveries. It holds UIDs
and keys, and nothing else of a patient's. Thread: one owner.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomflow.errors import PermanentError

__all__ = ["Adoptions", "Found"]

_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS adoption (format INTEGER NOT NULL, store TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS object (
    key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, stored_at TEXT, study TEXT, series TEXT, sop TEXT, sop_class TEXT,
    transfer_syntax TEXT, sha256 TEXT, delivery TEXT, is_adopted INTEGER NOT NULL DEFAULT 0, problem TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_study ON object (study, sop) WHERE study IS NOT NULL AND delivery IS NULL;
CREATE INDEX IF NOT EXISTS object_unread ON object (key) WHERE study IS NULL AND problem IS NULL;
CREATE INDEX IF NOT EXISTS object_problem ON object (key) WHERE problem IS NOT NULL;
CREATE INDEX IF NOT EXISTS object_delivery ON object (delivery) WHERE is_adopted = 0 AND delivery IS NOT NULL;
"""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is an instance; `sha256` is empty where nobody knows it, `stored_at` is in ISO 8601."""

    key: str
    bytes: int
    stored_at: str
    study: str
    series: str
    sop: str
    sop_class: str
    transfer_syntax: str
    sha256: str


class Adoptions:
    """The file of one store's adoption.

    Raises:
        PermanentError: on creation, when the file is another store's, of another version, or none.
    """

    def __init__(self, path: Path, store: str) -> None:
        try:
            self._connection = sqlite3.connect(path)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            row = self._connection.execute("SELECT format, store FROM adoption").fetchone()
            if row is None:
                with self._connection:
                    self._connection.execute("INSERT INTO adoption VALUES (?, ?)", (_FORMAT, store))
            elif row != (_FORMAT, store):
                raise PermanentError(f"{path} is the state of an adoption in {row[1]}, not in {store}")
        except sqlite3.DatabaseError as error:
            raise PermanentError(f"cannot use {path} as the state of an adoption: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, objects: Iterable[tuple[str, int]]) -> int:
        """Note keys and sizes of objects, and return how many are new."""
        with self._connection:
            return self._connection.executemany(
                "INSERT OR IGNORE INTO object (key, bytes) VALUES (?, ?)", objects
            ).rowcount

    def unread(self, count: int) -> list[str]:
        """Return some keys of objects whose head was not read."""
        statement = "SELECT key FROM object WHERE study IS NULL AND problem IS NULL ORDER BY key LIMIT ?"
        return [row[0] for row in self._connection.execute(statement, (count,))]

    def read(self, found: Iterable[Found], problems: Iterable[tuple[str, str]]) -> None:
        """Note what heads said: instances, and by key why something is none."""
        with self._connection:
            self._connection.executemany(
                "UPDATE object SET bytes = ?, stored_at = ?, study = ?, series = ?, sop = ?, sop_class = ?,"
                " transfer_syntax = ?, sha256 = ? WHERE key = ?",
                (
                    (
                        *(each.bytes, each.stored_at, each.study, each.series, each.sop),
                        *(each.sop_class, each.transfer_syntax, each.sha256, each.key),
                    )
                    for each in found
                ),
            )
            self._connection.executemany(
                "UPDATE object SET problem = ? WHERE key = ?", ((reason, key) for key, reason in problems)
            )

    def next_study(self) -> str | None:
        """Return a study of which something is in no delivery."""
        statement = "SELECT study FROM object WHERE study IS NOT NULL AND delivery IS NULL LIMIT 1"
        row = self._connection.execute(statement).fetchone()
        return row[0] if row else None

    def loose(self, study: str) -> Iterator[Found]:
        """Yield the objects of a study that are in no delivery, of each instance the first; the others come later."""
        statement = (
            "SELECT key, bytes, stored_at, study, series, sop, sop_class, transfer_syntax, sha256 FROM object"
            " WHERE study = ? AND delivery IS NULL AND study IS NOT NULL ORDER BY sop, stored_at, key"
        )
        last = None
        for row in self._connection.execute(statement, (study,)):
            if row[5] != last:
                yield Found(*row)
            last = row[5]

    def deliver(self, delivery: str, keys: Iterable[str]) -> None:
        """Put objects into a delivery, before anything is done with it."""
        with self._connection:
            self._connection.executemany(
                "UPDATE object SET delivery = ? WHERE key = ?", ((delivery, key) for key in keys)
            )

    def open_deliveries(self) -> list[str]:
        """Return the deliveries that were begun and are not adopted."""
        statement = "SELECT DISTINCT delivery FROM object WHERE is_adopted = 0 AND delivery IS NOT NULL"
        return [row[0] for row in self._connection.execute(statement)]

    def of_delivery(self, delivery: str) -> list[Found]:
        """Return the objects of a delivery that is not adopted yet."""
        statement = (
            "SELECT key, bytes, stored_at, study, series, sop, sop_class, transfer_syntax, sha256 FROM object"
            " WHERE delivery = ? AND is_adopted = 0 AND problem IS NULL ORDER BY series, key"
        )
        return [Found(*row) for row in self._connection.execute(statement, (delivery,))]

    def adopted(self, delivery: str) -> None:
        """Note that a delivery has its manifest."""
        with self._connection:
            self._connection.execute("UPDATE object SET is_adopted = 1 WHERE delivery = ?", (delivery,))

    def counts(self) -> dict[str, int]:
        """Return how many objects are listed, adopted and no instances, and how many deliveries there are."""
        statement = (
            "SELECT count(*), coalesce(sum(is_adopted AND problem IS NULL), 0), count(problem),"
            " count(DISTINCT CASE WHEN is_adopted THEN delivery END), count(DISTINCT study) FROM object"
        )
        names = ("listed", "adopted", "problems", "deliveries", "studies")
        return dict(zip(names, self._connection.execute(statement).fetchone(), strict=True))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield key and reason of what is no instance, or could not be copied."""
        yield from self._connection.execute("SELECT key, problem FROM object WHERE problem IS NOT NULL ORDER BY key")
