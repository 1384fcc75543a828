"""Indexes on a large catalog: built beside the work of others, one at a time, and never left half-made."""

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from dicomflow.catalog import indexes
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.tables import metadata

NAMES = {str(index.name) for table in metadata.tables.values() for index in table.indexes}
LOST = "ix_instance_series_key"


@pytest.fixture
def catalog(postgres_url: str) -> Iterator[Engine]:
    """Give a migrated catalog in PostgreSQL that lacks one index."""
    engine = create_engine_for(postgres_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text(f"DROP INDEX {LOST}"))
    yield engine
    engine.dispose()


def usable(engine: Engine) -> set[str]:
    """Give the names of the indexes that the server uses."""
    statement = "SELECT indexrelid::regclass::text FROM pg_index WHERE indisvalid"
    with engine.connect() as connection:
        return set(connection.execute(text(statement)).scalars()) & NAMES


def test_missing_index_is_built_by_the_next_migration(catalog: Engine):
    """Whatever an earlier one did not come to; afterwards there is nothing left to do, and no lock."""
    assert NAMES - {LOST} == usable(catalog)
    assert [] == migrate(catalog)
    assert usable(catalog) == NAMES
    with catalog.connect() as connection:
        assert 0 == connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))


def test_index_is_built_while_others_write(catalog: Engine):
    """A transaction that has written into the table goes on: the build waits for it, and it not for the build."""
    with catalog.connect() as writer:
        writer.execute(text("INSERT INTO audit_event (at, actor, action) VALUES (now(), 'x', 'x')"))
        writer.execute(text("DELETE FROM instance"))
        builder = threading.Thread(target=migrate, args=(catalog,))
        builder.start()
        with catalog.connect() as watcher:
            while not watcher.scalar(
                text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'")
            ):
                time.sleep(0.02)
                watcher.rollback()
        writer.execute(text("SET LOCAL lock_timeout = '5s'"))
        writer.execute(text("DELETE FROM instance"))
        writer.commit()
        builder.join(60)
        assert not builder.is_alive()
    assert usable(catalog) == NAMES


def test_two_migrators_at_once_build_each_index_once(catalog: Engine):
    """The second waits without a transaction: one that waited inside would deadlock with the build."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate(catalog)
        except BaseException as error:  # noqa: BLE001  # the test tells of it
            failures.append(error)

    migrators = [threading.Thread(target=run) for _ in range(3)]
    for each in migrators:
        each.start()
    for each in migrators:
        each.join(120)
    assert [] == failures
    assert usable(catalog) == NAMES


def test_index_that_was_cut_off_is_built_again(catalog: Engine):
    """What a build leaves that ended half-way exists, and is never used: it is dropped and built anew."""
    with catalog.begin() as connection:
        connection.execute(text(f"CREATE INDEX {LOST} ON instance (series_key)"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"), {"name": LOST}
        )
    assert NAMES - {LOST} == usable(catalog)
    migrate(catalog)
    assert usable(catalog) == NAMES


def test_index_that_there_is_no_time_for_is_left_and_named(catalog: Engine):
    """A deployment succeeds without it, says which, and the next one builds it."""
    assert [LOST] == migrate(catalog, index_seconds=1.0)
    assert [] == migrate(catalog, index_seconds=60.0)
    assert usable(catalog) == NAMES


def test_index_whose_build_takes_too_long_is_cut_off_in_time(catalog: Engine, monkeypatch: pytest.MonkeyPatch):
    """The server ends it, before the function's own end would, and the deployment goes on."""
    monkeypatch.setattr(indexes, "_LEAST_SECONDS", 0.0)
    with catalog.connect() as holder:
        holder.execute(text("LOCK TABLE instance IN ROW EXCLUSIVE MODE"))  # the build waits for it
        assert [LOST] == migrate(catalog, index_seconds=0.5)
    assert [] == migrate(catalog)
    assert usable(catalog) == NAMES


def test_failure_of_a_build_is_told(catalog: Engine, monkeypatch: pytest.MonkeyPatch):
    """Only time is passed over: a full disk or a lost server is an error, and frees the lock."""

    def fail(connection: Connection, *_: object, **__: object) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with monkeypatch.context() as patch:
        patch.setattr(indexes, "_build", fail)
        with pytest.raises(OperationalError):
            migrate(catalog)
    assert [] == migrate(catalog)


def test_sqlite_has_every_index_from_its_migrations(tmp_path_factory: pytest.TempPathFactory):
    """There one transaction holds all: nobody else writes."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.db'}")
    assert [] == migrate(engine)
    found = {each["name"] for name in metadata.tables for each in inspect(engine).get_indexes(name)}
    assert found >= NAMES
    engine.dispose()
