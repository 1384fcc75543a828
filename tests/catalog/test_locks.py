"""Everybody locks rows in one order, whatever the database's collation, so that nobody waits in a circle."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from waiting import wait_for

from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.index import lock_instances
from dicomflow.catalog.removal import delete_study

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FIRST, SECOND = "1.2.10", "1.21"
"""In the order of code points; languages pass dots over, and have them the other way round."""
LANGUAGES = ("en_US.utf8", "en_US", "de_DE.utf8", "unicode")


@pytest.fixture
def engine(postgres_url: str) -> Any:
    """Give a catalog on PostgreSQL that sorts UIDs as a language does."""
    opened = create_engine_for(postgres_url)
    migrate(opened)
    with opened.begin() as connection:
        known = set(connection.scalars(text("SELECT collname FROM pg_collation")))
        language = next((name for name in LANGUAGES if name in known), None)
        if language is None:
            pytest.skip(f"PostgreSQL has none of the collations {', '.join(LANGUAGES)}")
        views = "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname IN ('public', 'seed')"
        for view in connection.scalars(text(views)).all():  # they hold the column's type
            connection.execute(text(f"DROP VIEW IF EXISTS {view} CASCADE"))
        column = "ALTER TABLE instance ALTER COLUMN sop_instance_uid TYPE varchar(256)"
        connection.execute(text(f'{column} COLLATE "{language}"'))
    yield opened
    opened.dispose()


def locks(connection: Connection) -> None:
    """Lock both instances as planning does."""
    lock_instances(connection, [SECOND, FIRST])


def deletes(connection: Connection) -> None:
    """Lock both instances as a deletion does."""
    delete_study(connection, "1.2.3", NOW, actor="test")


@pytest.mark.parametrize("work", [locks, deletes])
def test_rows_are_locked_in_the_order_of_code_points(
    engine: Engine, an_object: Any, write: Any, work: Callable[[Connection], None]
):
    """Who waits for the second row holds the first."""
    write(an_object(1, SOPInstanceUID=FIRST), an_object(2, SOPInstanceUID=SECOND))
    with engine.begin() as connection:
        uids = connection.scalars(text("SELECT sop_instance_uid FROM instance ORDER BY sop_instance_uid")).all()
        assert [SECOND, FIRST] == uids, "the database's own order is another"

    def run() -> None:
        with engine.begin() as connection:
            work(connection)

    lock = text("SELECT 1 FROM instance WHERE sop_instance_uid = :uid FOR UPDATE SKIP LOCKED")
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    thread = threading.Thread(target=run)
    with engine.connect() as holder:
        assert [1] == holder.scalars(lock, {"uid": SECOND}).all()
        thread.start()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            wait_for(lambda: bool(other.scalar(waiting)))
            found = other.scalars(lock, {"uid": FIRST}).all()
    thread.join()
    assert [] == found
