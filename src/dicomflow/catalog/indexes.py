"""The catalog's indexes on PostgreSQL: those of `tables` that are missing are built beside the work, one at a time.

A migration that built one in its own transaction would lock a large table against writing for minutes. What a build
leaves behind when it is cut off is an index that is never used: it is dropped and built again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, Index, column, func, select, table
from sqlalchemy.exc import OperationalError

from dicomflow.catalog.tables import metadata

__all__ = ["alone", "build_missing"]

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
_LEAST_SECONDS: Final = 5.0
_pg_class: Final = table("pg_class", column("oid"), column("relname"), column("relnamespace"))
_pg_index: Final = table("pg_index", column("indexrelid"), column("indisvalid"))
_pg_namespace: Final = table("pg_namespace", column("oid"), column("nspname"))


@contextmanager
def alone(engine: Engine, lock: int) -> Iterator[Connection]:
    """Let one migrator at a time work, and give it a connection on which each statement is a transaction.

    Waits by asking again: a transaction that waited for the lock would be waited for by the build of an index, and
    neither would ever end.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # The lock is the session's, and a server may end one that is idle for a minute.
        for name in ("idle_session_timeout", "statement_timeout"):
            _set(connection, name, "0")
        while not connection.scalar(select(func.pg_try_advisory_lock(lock))):
            time.sleep(_POLL_SECONDS)
        try:
            yield connection
        finally:
            if not connection.invalidated:
                connection.execute(select(func.pg_advisory_unlock(lock)))
                connection.invalidate()  # its settings are not those of the pool's others


def build_missing(
    connection: Connection, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
) -> list[str]:
    """Build each index of the tables that is missing or was cut off; return the names of those that time did not allow.

    Args:
        connection: one of `alone`'s.
        seconds: how long there is; None is as long as it takes.
        clock: tells the time.
    """
    ends_at = None if seconds is None else clock() + seconds
    left = []
    for index, is_there in _unusable(connection):
        remaining = None if ends_at is None else ends_at - clock()
        if remaining is not None and remaining < _LEAST_SECONDS:
            left.append(str(index.name))
            continue
        _set(connection, "statement_timeout", "0" if remaining is None else str(int(remaining * 1000)))
        try:
            _build(connection, index, is_there=is_there)
        except OperationalError as error:
            if type(error.orig).__name__ != "QueryCanceled":
                raise
            logger.warning("index_not_built_in_time", extra={"index": index.name})
            left.append(str(index.name))
    return left


def _build(connection: Connection, index: Index, *, is_there: bool) -> None:
    from alembic.migration import MigrationContext  # noqa: PLC0415  # only a migration needs Alembic
    from alembic.operations import Operations  # noqa: PLC0415

    assert index.name is not None  # the metadata's convention names each
    assert index.table is not None
    operations = Operations(MigrationContext.configure(connection))
    started = time.monotonic()
    if is_there:
        operations.drop_index(index.name, postgresql_concurrently=True)
    operations.create_index(
        index.name,
        index.table.name,
        [each.name for each in index.columns],
        unique=index.unique,
        postgresql_where=index.dialect_options["postgresql"]["where"],
        postgresql_concurrently=True,
    )
    logger.info("index_built", extra={"index": index.name, "seconds": round(time.monotonic() - started, 1)})


def _unusable(connection: Connection) -> list[tuple[Index, bool]]:
    """Return each index that is not there, or that is (True) and is not valid."""
    statement = (
        select(_pg_class.c.relname, _pg_index.c.indisvalid)
        .join(_pg_index, _pg_index.c.indexrelid == _pg_class.c.oid)
        .join(_pg_namespace, _pg_namespace.c.oid == _pg_class.c.relnamespace)
        .where(_pg_namespace.c.nspname == func.current_schema())
    )
    valid = {row.relname: row.indisvalid for row in connection.execute(statement)}
    indexes = (
        index for each in metadata.sorted_tables for index in sorted(each.indexes, key=lambda found: str(found.name))
    )
    return [(index, index.name in valid) for index in indexes if not valid.get(index.name, False)]


def _set(connection: Connection, name: str, value: str) -> None:
    """Set a parameter of the session, where the server knows it."""
    settings = table("pg_settings", column("name"))
    known: Any = select(func.set_config(name, value, False)).select_from(settings).where(settings.c.name == name)
    connection.execute(known)
