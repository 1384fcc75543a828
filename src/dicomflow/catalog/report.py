"""What operators ask the catalog: counts, and statements of their own, which can only read."""

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Table, event, func, select
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from dicomflow.catalog import seed
from dicomflow.catalog.engine import begin_read, database_url, make_engine, require_schema
from dicomflow.catalog.hidden import count_hidden
from dicomflow.catalog.states import SHOWN
from dicomflow.catalog.tables import (
    image_set,
    import_outcome,
    instance,
    patient,
    series,
    series_import,
    stored_object,
    study,
)
from dicomflow.catalog.trouble import explained
from dicomflow.errors import PermanentError

__all__ = ["count_everything", "create_read_only_engine", "find_objects", "run_read_only"]

_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
)
# What these take as an argument is a name, but for query_only, which adds to the file's mode and to what is allowed.
_READING_PRAGMAS: Final = frozenset(
    {"query_only", "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"}
    | {"foreign_key_list", "database_list", "compile_options", "function_list"}
)
_QUERY: Final = re.compile(
    r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?:select|with|values|table|explain|show)\b", re.IGNORECASE | re.DOTALL
)


def create_read_only_engine(url: str, *, is_seed: bool = False) -> Engine:
    """Return an engine whose connections cannot write; the database must exist.

    Args:
        url: the catalog's.
        is_seed: let table names mean the AWS sample's tables, where it has one of that name.

    Raises:
        PermanentError: the URL names a database we do not support.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        # Each transaction has a connection of its own: whether somebody writes is another question the next time.
        engine = make_engine(parsed, creator=lambda: _connect_read_only(parsed.database or ""), poolclass=NullPool)
        if is_seed:
            event.listen(engine, "connect", _create_seed_views)
        event.listen(engine, "connect", _allow_reading)
        return engine
    search_path = f" -c search_path={seed.SCHEMA},public" if is_seed else ""
    return make_engine(
        parsed,
        execution_options={"postgresql_readonly": True},
        connect_args={"options": f"-c default_transaction_read_only=on{search_path}"},
    )


def run_read_only(engine: Engine, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement on an engine of `create_read_only_engine`.

    It neither changes the catalog nor touches another file: SQLite asks for each thing a statement would do, and
    PostgreSQL's statements that write files, as COPY, are no queries.

    Returns:
        The columns' names and the rows.

    Raises:
        PermanentError: the statement is wrong, is more than one, writes, or returns no rows.
    """
    if engine.dialect.name == "postgresql" and _QUERY.match(sql) is None:
        raise PermanentError(
            "the database refused the statement: it is no SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW"
        )
    try:
        with engine.connect() as connection:
            # The driver's own cursor: the statement's percent signs and colons are its own. `prepare` makes
            # PostgreSQL refuse several statements in one text, which could end the read-only transaction.
            cursor = connection.connection.cursor()
            if engine.dialect.name == "postgresql":
                cursor.execute(sql, prepare=True)  # type: ignore[call-arg]  # psycopg's, not in PEP 249
            else:
                cursor.execute(sql)
            if cursor.description is None:
                raise PermanentError("the statement returns no rows; `query` is for SELECT")
            return [column[0] for column in cursor.description], [tuple(row) for row in cursor.fetchall()]
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        trouble = explained(error, engine.url)
        # Mistakes in a statement are SQLite's OperationalErrors.
        if isinstance(trouble, PermanentError) or (trouble is not None and engine.dialect.name == "postgresql"):
            raise trouble from error
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise PermanentError(f"the database refused the statement: {_first_line(cause)}") from error


def count_everything(engine: Engine) -> dict[str, Any]:
    """Count what is indexed and imported.

    Returns:
        instances, series, studies, patients, image_sets, hidden_image_sets, unreadable (objects that could not be
        indexed), and imports, where each series is counted once: queued, in_progress, completed, hidden (in, and no
        viewer sees it), failed.

    Raises:
        PermanentError: the catalog has no schema, or one older than this program's.
        TransientError: the database does not answer.
    """
    counted = {
        "instances": instance,
        "series": series,
        "studies": study,
        "patients": patient,
        "image_sets": image_set,
    }
    try:
        require_schema(engine)
        with begin_read(engine) as connection:
            counts: dict[str, Any] = {name: _count(connection, table) for name, table in counted.items()}
            problems = select(func.count()).where(
                stored_object.c.problem.is_not(None), stored_object.c.indexed_at.is_(None)
            )
            counts["unreadable"] = connection.execute(problems).scalar_one()
            counts["hidden_image_sets"] = count_hidden(connection)
            counts["imports"] = _count_imports(connection)
    except DatabaseError as error:
        raise explained(error, engine.url) or error from error
    return counts


def find_objects(engine: Engine, object_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what is known of stored objects, by their keys.

    Returns:
        indexed_at (ISO 8601, UTC), import_outcome (imported, warned or failed) and image_set_id; each may be None.
        An object that was never heard of is left out.

    Raises:
        PermanentError: the catalog has no schema, or one older than this program's.
        TransientError: the database does not answer.
    """
    objects = select(stored_object.c.object_key, stored_object.c.indexed_at).where(
        stored_object.c.object_key.in_(object_keys)
    )
    # The last job's outcome is the one that holds.
    outcomes = (
        select(import_outcome.c.object_key, import_outcome.c.outcome, import_outcome.c.image_set_id)
        .where(import_outcome.c.object_key.in_(object_keys))
        .order_by(import_outcome.c.import_job_id)
    )
    try:
        require_schema(engine)
        with begin_read(engine) as connection:
            found: dict[str, dict[str, Any]] = {
                row.object_key: {
                    "indexed_at": row.indexed_at and row.indexed_at.isoformat(),
                    "import_outcome": None,
                    "image_set_id": None,
                }
                for row in connection.execute(objects)
            }
            for row in connection.execute(outcomes):
                known = {"import_outcome": row.outcome, "image_set_id": row.image_set_id}
                found[row.object_key] = {"indexed_at": None} | found.get(row.object_key, {}) | known
    except DatabaseError as error:
        raise explained(error, engine.url) or error from error
    return found


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _count_imports(connection: Connection) -> dict[str, int]:
    statement = select(series_import.c.state, func.count()).group_by(series_import.c.state)
    by_state = {row.state: row[1] for row in connection.execute(statement)}
    return {str(name): sum(by_state.get(state, 0) for state in states) for name, states in SHOWN.items()}


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


def _connect_read_only(file: str) -> sqlite3.Connection:
    """Open a catalog without a trace.

    To read one that nobody has open SQLite would make its log and index anew, or fail where it may not; told that the
    file is not written to, it reads what lies there. Where somebody has it open, or a log was left, both are there.
    """
    log = Path(f"{file}-wal")
    is_open = Path(f"{file}-shm").exists() or (log.exists() and log.stat().st_size > 0)
    mode = "ro" if is_open else "ro&immutable=1"
    return sqlite3.connect(f"file:{quote(file)}?mode={mode}", uri=True, check_same_thread=False)


def _create_seed_views(connection: Any, _record: Any) -> None:  # the driver's connection, untyped
    """Put the sample's views before the tables; they are this connection's, and no file's."""
    connection.execute("PRAGMA temp_store = MEMORY")
    for view in seed.VIEWS:
        connection.execute(f"CREATE TEMP VIEW {view} AS {seed.select_of(view, 'sqlite', 'main')}")


def _allow_reading(connection: Any, _record: Any) -> None:  # the driver's connection, untyped
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_authorize)


def _authorize(action: int, name: str | None, _argument: str | None, _schema: str | None, _trigger: str | None) -> int:
    """Let SQLite read: no file is attached, vacuumed into or loaded, whatever the file's own mode."""
    is_allowed = (
        action in _READING
        or (action == sqlite3.SQLITE_FUNCTION and _argument != "load_extension")
        or (action == sqlite3.SQLITE_PRAGMA and name in _READING_PRAGMAS)
    )
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY
