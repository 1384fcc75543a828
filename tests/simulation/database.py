"""The catalog's engine in the box: calls of it are points, and of two who write one waits.

One thread cannot wait for itself: SQLite would wait a minute for a transaction of another task. So the box keeps who
writes, and parks the others before BEGIN IMMEDIATE.
"""

import sqlite3
from pathlib import Path
from shutil import copyfile
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from tests.simulation.box import Box, Died, Task
from tests.simulation.seams import BEGIN_SQLITE, READ_ONLY, create_engine_for, migrate, open_state

_WAIT_SECONDS = 0.05


def make_templates(folder: Path) -> None:
    """Migrate a catalog and a simulator's state once; each seed has copies."""
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    engine.dispose()
    open_state(folder / "service.db").dispose()
    for path in folder.glob("*.db"):
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def open_catalog(templates: Path, path: Path) -> Engine:
    """Return the engine of a new catalog."""
    copyfile(templates / "catalog.db", path)
    return create_engine_for(f"sqlite:///{path}")


class Watched:
    """Makes an engine's transactions points of the box. One task writes at a time."""

    def __init__(self, box: Box, engine: Engine) -> None:
        self._box = box
        self._writer: Task | None = None
        # SQLAlchemy drops `insert=True` for an engine's events: ours must stand before the one that takes the lock.
        event.remove(engine, "begin", BEGIN_SQLITE)
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "begin", BEGIN_SQLITE)
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "rollback", self._end)
        event.listen(engine, "before_cursor_execute", self._execute)

    def _begin(self, connection: Connection) -> None:
        task = self._box.task
        if task is None:
            return
        self._box.point("begin")
        if self._box.fails("database_error", "database"):
            raise OperationalError("simulated", None, Exception("simulated"))
        if connection.get_execution_options().get(READ_ONLY):
            return
        # A task that ended inside BEGIN leaves no rollback behind.
        while self._writer not in {None, task} and not self._writer.is_over:
            self._box.pause(_WAIT_SECONDS)
        self._writer = task

    def _commit(self, connection: Connection) -> None:
        try:
            self._box.point("commit", may_wait=False)
        finally:
            self._end(connection)

    def _end(self, _connection: Connection) -> None:
        if self._writer is self._box.task:
            self._writer = None

    def _execute(self, _connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
        task = self._box.task
        if task is not None and task.is_dead:
            raise Died
        self._box.point(repr(statement[:40]), may_wait=False)
