"""Engines and schema: how the catalog is opened, migrated, and refused when its schema is too old.

Transactions: `engine.begin()` writes. On SQLite it takes the write lock at once (BEGIN IMMEDIATE), so that a
transaction never fails half-way because another wrote in between; `begin_read` only reads and waits for nobody.
"""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from dicomflow.catalog import indexes, views
from dicomflow.catalog.access import grant_readers
from dicomflow.catalog.migrations import REVISIONS
from dicomflow.errors import PermanentError

__all__ = [
    "begin_read",
    "create_engine_for",
    "database_url",
    "is_of_a_value",
    "make_engine",
    "migrate",
    "require_schema",
    "schema_revision",
]

_BUSY_TIMEOUT_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 60  # a paused Aurora takes 15 to 30 s to resume
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_WAL_ATTEMPTS: Final = 40
_WAL_PAUSE_SECONDS: Final = 0.05
_READ_ONLY: Final = "dicomflow_read_only"
_WITHOUT_FOREIGN_KEYS: Final = "dicomflow_without_foreign_keys"
_MIGRATION_LOCK: Final = 0x64_66_6C_6F_77  # "dflow": any constant serves, if no other program on the server uses it
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
# PostgreSQL, appendix A: data exceptions, violated constraints, and limits such as the longest row of an index.
_VALUE_CLASSES: Final = frozenset({"22", "23", "54"})


def database_url(url: str) -> URL:
    """Return the SQLAlchemy URL of `url`: `sqlite:///path` or `postgresql://…`, for which psycopg 3 is the driver.

    A PostgreSQL on another machine must prove who it is, unless the URL's own `sslmode` says otherwise. The CA is that
    of the URL's `sslrootcert`, of PGSSLROOTCERT, or of ~/.postgresql/root.crt, as libpq has it.

    Raises:
        PermanentError: the database is neither, or the text is no URL; it is not shown, since it may hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise PermanentError(
            "the catalog's URL is no URL: use sqlite:////FOLDER/catalog.db or postgresql://USER@HOST:PORT/NAME"
        ) from error
    if parsed.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return _verifying(parsed.set(drivername="postgresql+psycopg"))
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        return parsed.set(drivername="sqlite+pysqlite")
    raise PermanentError(
        f"no catalog on {parsed.drivername}: use sqlite:////FOLDER/catalog.db or postgresql://USER@HOST:PORT/NAME"
    )


def make_engine(url: URL, **options: Any) -> Engine:
    """Return an engine whose errors hold no value of a row: the one place where any is made."""
    engine = create_engine(url, hide_parameters=True, **options)
    event.listen(engine, "handle_error", leave_values_out)
    return engine


def create_engine_for(url: str, connect_seconds: int = _CONNECT_SECONDS) -> Engine:
    """Return an engine for `url`; it connects at its first use. What it raises holds no value of a row.

    Thread: an engine may be shared by threads, not by processes.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() != "sqlite":
        # A connection may have been cut while we were frozen.
        return make_engine(parsed, pool_pre_ping=True, pool_size=16, connect_args={"connect_timeout": connect_seconds})
    engine = make_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}, pool_size=32)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def begin_read(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads; a statement that writes fails."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            yield connection
            return
        connection.exec_driver_sql("PRAGMA query_only = ON")
        try:
            yield connection
        finally:
            connection.exec_driver_sql("PRAGMA query_only = OFF")


def leave_values_out(context: ExceptionContext) -> None:
    """Take values out of what a database says of an error: they are patient data, and errors are logged.

    PostgreSQL's DETAIL and CONTEXT hold rows, and so does the message itself where a value is to blame. SQLite names
    columns only.
    """
    original, raised = context.original_exception, context.sqlalchemy_exception
    sqlstate: str | None = getattr(original, "sqlstate", None)
    if sqlstate is None:
        said = str(original).partition("\n")[0]
    elif sqlstate[:2] in _VALUE_CLASSES:
        diagnosis = getattr(original, "diag", None)
        names = (getattr(diagnosis, f"{name}_name", None) for name in ("table", "column", "constraint"))
        said = " ".join(["SQLSTATE", sqlstate, *(name for name in names if name)])
    else:
        said = f"{str(original).partition(chr(10))[0]} (SQLSTATE {sqlstate})"
    if isinstance(raised, DBAPIError):
        original.args = (said,)
        raised.args = (f"({type(original).__module__}.{type(original).__name__}) {said}",)


def is_of_a_value(error: Exception) -> bool:
    """Tell whether what was to be written is to blame; else the database is, or the machine, and it may work later."""
    if isinstance(error, DBAPIError):
        sqlstate: str | None = getattr(error.orig, "sqlstate", None)
        if sqlstate is not None:
            return sqlstate[:2] in _VALUE_CLASSES
        # Refused by the driver, before there was a statement; SQLite's mistakes in a statement are OperationalErrors.
        return isinstance(error, DataError | IntegrityError | ProgrammingError)
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, StatementError)  # a value that a column's type does not take
    return not isinstance(error, OSError | MemoryError)


def migrate(engine: Engine, index_seconds: float | None = None) -> list[str]:
    """Bring the schema to this program's revision; what is already there stays.

    Tables and rows change in one transaction. On PostgreSQL the indexes follow, each by itself and beside the work of
    others. Two callers at once: the second waits and finds nothing to do.

    Args:
        engine: the catalog's.
        index_seconds: how long indexes may be built for; None is as long as it takes.

    Returns:
        The names of the indexes that there was no time for: another call builds them, and all works without.
    """
    if engine.dialect.name != "postgresql":
        _upgrade(engine)
        return []
    with indexes.alone(engine, _MIGRATION_LOCK) as connection:
        if not _upgrade(engine):
            return []
        return indexes.build_missing(connection, index_seconds)


def _upgrade(engine: Engine) -> bool:
    """Run the migrations in one transaction; False where the schema is newer than this program."""
    from alembic import command  # noqa: PLC0415  # only a migration needs Alembic
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    # SQLite changes a table by making it anew, while rows of others refer to it.
    with engine.execution_options(**{_WITHOUT_FOREIGN_KEYS: True}).begin() as connection:
        current = _revision(connection)
        if current is not None and current not in REVISIONS:
            return False  # nothing of ours to add
        views.drop(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        views.create(connection)
        if connection.dialect.name == "postgresql":
            grant_readers(connection)
    return True


def schema_revision(engine: Engine) -> str | None:
    """Return the schema's revision, None where no migration ever ran."""
    with begin_read(engine) as connection:
        return _revision(connection)


def require_schema(engine: Engine) -> None:
    """Refuse a schema that is older than this program; one that is newer serves.

    Raises:
        PermanentError: the schema is missing or too old.
    """
    revision = schema_revision(engine)
    if revision is None:
        raise PermanentError("the catalog has no schema yet: run `dicomflow migrate`")
    if revision in REVISIONS and revision != REVISIONS[-1]:
        raise PermanentError(
            f"the catalog's schema {revision} is older than {REVISIONS[-1]}, which this version needs:"
            " run `dicomflow migrate`"
        )


def _verifying(url: URL) -> URL:
    """Ask for TLS with a verified server where the URL leaves the machine; libpq's default would take any."""
    hosts = {url.host or "", *_texts(url.query.get("host", "")), *_texts(url.query.get("hostaddr", ""))} - {""}
    if "sslmode" in url.query or all(host in _LOCAL_HOSTS or host.startswith("/") for host in hosts):
        return url
    return url.update_query_dict({"sslmode": "verify-full"})


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return revision


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    """Take transactions out of sqlite3's hands, and set what holds for each connection."""
    dbapi_connection.isolation_level = None
    for attempt in itertools.count(1):
        try:
            dbapi_connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # Of two that open a new file at once SQLite tells one "locked" without waiting.
            if attempt == _WAL_ATTEMPTS:
                raise
            time.sleep(_WAL_PAUSE_SECONDS)
    dbapi_connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    is_checked = "OFF" if options.get(_WITHOUT_FOREIGN_KEYS, False) else "ON"
    connection.exec_driver_sql(f"PRAGMA foreign_keys = {is_checked}")  # in a transaction it would do nothing
    connection.exec_driver_sql("BEGIN" if options.get(_READ_ONLY, False) else "BEGIN IMMEDIATE")
