"""Rows that many objects describe, as those of patient, study and series: each value is of the last object that has it.

An object without a value says nothing about it, so an empty one never replaces another's. A row is a function of the
set of its objects, not of their order: `as_of` is the last that spoke, and `older_as_of` tells of each value that an
older one gave when that was. Transactions are the caller's. This module must not know what the columns mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Table, select, tuple_

from dicomflow.catalog.types import in_code_points
from dicomflow.catalog.upsert import Upsert

__all__ = ["MergedTable", "is_filled", "merge", "merge_objects", "write_merged"]

Key = tuple[Any, ...]
Row = dict[str, Any]

_PAGE_KEYS: Final = 5000  # SQLite takes 32,766 parameters a statement
# Of text: what stands between the components of a name, or between values (PS3.5 6.2).
_NO_TEXT: Final = " ^=\\"


@dataclass(frozen=True, slots=True, eq=False)
class MergedTable:
    """A table whose rows are merged: `key` tells them apart, `first` stays as it was first written.

    `merged` gives, by column, the value that an object has.
    """

    table: Table
    surrogate: str
    key: tuple[str, ...]
    merged: Mapping[str, Callable[[Any], Any]]
    first: tuple[str, ...] = ()
    insert: Upsert = field(init=False)
    change: Upsert = field(init=False)

    def __post_init__(self) -> None:
        written = (*self.merged, "as_of", "older_as_of")
        columns = (*self.key, *self.first, *written)
        object.__setattr__(self, "insert", Upsert(self.table, columns, self.key))
        change = Upsert(self.table, columns, self.key, lambda new: {name: new[name] for name in written})
        object.__setattr__(self, "change", change)


def is_filled(value: object) -> bool:
    """Tell what says something: no text of delimiters alone, and no list of such."""
    if value is None:
        return False
    if isinstance(value, str):
        return bool(value.strip(_NO_TEXT))
    return any(map(is_filled, value)) if isinstance(value, list) else True


def merge_objects(newest_first: Sequence[tuple[str, Any]], merged: Mapping[str, Callable[[Any], Any]]) -> Row:
    """Return the row of several objects, each with its `as_of`."""
    newest = newest_first[0][0]
    row: Row = {"as_of": newest}
    older: dict[str, str] = {}
    left = list(merged)
    for as_of, item in newest_first:
        empty = []
        for name in left:
            value = merged[name](item)
            if not is_filled(value):
                empty.append(name)
                continue
            row[name] = value
            if as_of != newest:
                older[name] = as_of
        left = empty
    return row | dict.fromkeys(left) | {"older_as_of": older or None}


def merge(known: Mapping[str, Any], new: Mapping[str, Any], columns: Iterable[str]) -> Row:
    """Return the row of the objects of both rows."""
    row = dict(known)
    row["as_of"] = max(known["as_of"], new["as_of"])
    known_at, new_at = known["older_as_of"] or {}, new["older_as_of"] or {}
    older = {}
    for name in columns:
        at = known_at.get(name, known["as_of"]) if is_filled(known[name]) else ""
        if is_filled(new[name]) and new_at.get(name, new["as_of"]) > at:
            row[name], at = new[name], new_at.get(name, new["as_of"])
        if at and at != row["as_of"]:
            older[name] = at
    row["older_as_of"] = older or None
    return row


def write_merged(connection: Connection, target: MergedTable, rows: Mapping[Key, Row]) -> dict[Key, int]:
    """Insert rows, or merge them into those that are there, which are locked in key order; return their keys."""
    if not rows:
        return {}
    target.insert.execute(connection, [rows[key] for key in sorted(rows)])
    known = _lock(connection, target, sorted(rows))
    merged = {key: merge(known[key], rows[key], target.merged) for key in known}
    changed = [key for key in known if merged[key] != known[key]]
    first = {key: {name: rows[key][name] for name in target.first} for key in changed}
    target.change.execute(connection, [merged[key] | first[key] for key in changed])
    return {key: row[target.surrogate] for key, row in known.items()}


def _lock(connection: Connection, target: MergedTable, keys: Sequence[Key]) -> dict[Key, Row]:
    table = target.table
    of_key = [table.c[name] for name in target.key]
    columns = [table.c[name] for name in (target.surrogate, *target.key, *target.merged, "as_of", "older_as_of")]
    found: dict[Key, Row] = {}
    for start in range(0, len(keys), _PAGE_KEYS):
        page = keys[start : start + _PAGE_KEYS]
        statement = select(*columns).where(tuple_(*of_key).in_(page)).order_by(*map(in_code_points, of_key))
        for row in connection.execute(statement.with_for_update()).mappings():
            found[tuple(row[name] for name in target.key)] = dict(row)
    return found
