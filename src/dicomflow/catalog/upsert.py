"""The one place that knows how each database says INSERT ... ON CONFLICT, for one row and for a batch.

A batch goes to PostgreSQL as one statement with one JSON parameter, to SQLite as one prepared statement run for each
row. Rows are written in the order given: who sorts them by key cannot deadlock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import JSON, ColumnElement, Connection, Table, Text, bindparam, cast, column, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection

__all__ = ["Upsert", "dialect_insert"]

Excluded = ReadOnlyColumnCollection[str, Any]
Row = Mapping[str, Any]

_POSTGRESQL: Final = "postgresql"


@dataclass(frozen=True, slots=True, eq=False)
class Upsert:
    """Insert rows of a table or change those that are there; one value lives as long as the program.

    `changes` and `condition` are given the columns of the row that met one with its `key`; without `changes` that
    row stays as it is.
    """

    table: Table
    columns: tuple[str, ...]
    key: tuple[str, ...]
    changes: Callable[[Excluded], Mapping[str, Any]] | None = None
    condition: Callable[[Excluded], ColumnElement[bool]] | None = None

    def execute(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows of different keys, in this order."""
        if not rows:
            return
        statement = _build(self, connection.dialect.name)
        if connection.dialect.name == _POSTGRESQL:
            connection.execute(statement, {"rows": to_json(rows).decode()})
        else:
            connection.execute(statement, rows)


def dialect_insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return the dialect's own insert, which knows ON CONFLICT."""
    if connection.dialect.name == _POSTGRESQL:
        return postgresql.insert(table)
    return sqlite.insert(table)


@cache
def _build(upsert: Upsert, dialect: str) -> Any:  # the two dialects' inserts share no typed base
    table = upsert.table
    types = {name: table.c[name].type for name in upsert.columns}
    statement: Any
    if dialect == _POSTGRESQL:
        records = func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON))
        valued = records.table_valued(*(column(name, kind) for name, kind in types.items()))
        derived = valued.render_derived(name="source", with_types=True)
        statement = postgresql.insert(table).from_select(list(upsert.columns), select(*derived.c))
    else:
        statement = sqlite.insert(table).values({name: bindparam(name, type_=kind) for name, kind in types.items()})
    if upsert.changes is None:
        return statement.on_conflict_do_nothing(index_elements=list(upsert.key))
    excluded = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(upsert.key),
        set_=dict(upsert.changes(excluded)),
        where=None if upsert.condition is None else upsert.condition(excluded),
    )
