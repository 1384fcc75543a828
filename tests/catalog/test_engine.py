"""The catalog opens, migrates and refuses, on SQLite and on PostgreSQL alike."""

import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, Integer, cast, func, insert, inspect, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

import dicomflow
from dicomflow.catalog import migrations
from dicomflow.catalog.engine import begin_read, create_engine_for, migrate, require_schema, schema_revision
from dicomflow.catalog.migrations import REVISIONS
from dicomflow.catalog.report import count_everything, find_objects
from dicomflow.catalog.tables import metadata, patient, study
from dicomflow.errors import PermanentError
from dicomflow.healthimaging.simulator.state import image_set_instance, open_state

SEED_QUERIES = (
    "SELECT * from Patient;",
    "SELECT * from Study;",
    "SELECT * from Series;",
    "SELECT * from Instance;",
    "SELECT * FROM Ahlijob;",
    "SELECT * FROM Ahliimageset;",
)


def test_migrate_empty_database_equals_the_tables(empty_database_url: str):
    """All migrations together make exactly the tables of `tables.py`, types and indexes included."""
    engine = create_engine_for(empty_database_url)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        difference = compare_metadata(context, metadata)
    engine.dispose()
    assert [] == difference


def test_migrate_twice_keeps_rows(empty_database_url: str):
    """A second migration finds nothing to do and drops nothing."""
    engine = create_engine_for(empty_database_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(insert(patient).values(patient_id="1", issuer_of_patient_id="a", as_of=""))
    migrate(engine)
    with engine.connect() as connection:
        assert 1 == connection.scalar(select(func.count()).select_from(patient))
    engine.dispose()


def test_migrate_two_at_once_both_succeed(empty_database_url: str):
    """Two programs that start at once migrate one after the other."""
    engines = [create_engine_for(empty_database_url) for _ in range(4)]
    with ThreadPoolExecutor(len(engines)) as threads:
        list(threads.map(migrate, engines))
    assert [REVISIONS[-1]] * len(engines) == [schema_revision(engine) for engine in engines]
    for engine in engines:
        engine.dispose()


def test_failed_migration_fails_the_deployment(empty_database_url: str):
    """A migration that cannot run is raised, and leaves nothing half-done."""
    engine = create_engine_for(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE queue_message (message_id TEXT)"))
    with pytest.raises(DBAPIError):
        migrate(engine)
    with engine.connect() as connection:
        assert ["queue_message"] == inspect(connection).get_table_names()
    engine.dispose()


def test_revisions_are_those_of_the_migrations():
    """The revisions known without Alembic are Alembic's, in order."""
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert list(REVISIONS) == [revision.revision for revision in script.walk_revisions()][::-1]


def test_migrations_drop_nothing():
    """No migration holds a statement that drops a table or a column, and none goes backward."""
    for path in (Path(migrations.__file__).parent / "versions").glob("r*.py"):
        source = path.read_text(encoding="utf-8")
        assert not any(word in source for word in ("drop_table", "drop_column", "DROP ", "def downgrade")), path.name


def test_require_schema_missing_names_the_command(empty_database_url: str):
    """A database without a schema is refused with what to do."""
    engine = create_engine_for(empty_database_url)
    with pytest.raises(PermanentError, match="dicomflow migrate"):
        require_schema(engine)
    engine.dispose()


def test_require_schema_older_refuses(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """A schema before this program's is refused, naming both revisions."""
    monkeypatch.setattr("dicomflow.catalog.engine.REVISIONS", (*REVISIONS, "9999"))
    with pytest.raises(PermanentError, match=f"{REVISIONS[-1]} is older than 9999"):
        require_schema(engine)


def test_require_schema_newer_serves_and_is_not_migrated(engine: Engine):
    """A schema that a newer program made serves, and an older program's migration leaves it alone."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    require_schema(engine)
    migrate(engine)
    assert "from the future" == schema_revision(engine)


@pytest.mark.parametrize("query", SEED_QUERIES)
def test_seed_query_runs_as_it_stands(engine: Engine, query: str):
    """The six queries of the deployment guide run on both databases."""
    with begin_read(engine) as connection:
        assert [] == connection.execute(text(query)).all()


def test_begin_read_write_fails(engine: Engine):
    """A statement that writes is refused in a reading transaction, and the next writer is not affected."""
    row = {"patient_id": "1", "issuer_of_patient_id": "a", "as_of": ""}
    with pytest.raises(DBAPIError, match=r"(?i)read.?only"), begin_read(engine) as connection:
        connection.execute(insert(patient).values(row))
    with engine.begin() as connection:
        connection.execute(insert(patient).values(row))


def test_begin_read_does_not_wait_for_a_writer(engine: Engine):
    """A reader sees the last commit while a writer is at work."""
    with engine.begin() as writer:
        writer.execute(insert(patient).values(patient_id="1", issuer_of_patient_id="a", as_of=""))
        with begin_read(engine) as reader:
            assert 0 == reader.scalar(select(func.count()).select_from(patient))


def test_counting_does_not_wait_for_a_writer(engine: Engine):
    """What only reads takes no lock: pages and status answer while a batch is written."""
    with engine.begin() as writer:
        writer.execute(insert(patient).values(patient_id="1", issuer_of_patient_id="a", as_of=""))
        with ThreadPoolExecutor(1) as threads:
            counted = threads.submit(count_everything, engine)
            found = threads.submit(find_objects, engine, ["a"])
            assert (0, {}) == (counted.result(20)["patients"], found.result(20))


SECRET = "Hidden^Patient"


@pytest.mark.parametrize(
    "fail",
    [
        lambda connection: connection.execute(insert(patient).values(patient_id=SECRET, issuer_of_patient_id=SECRET)),
        lambda connection: connection.execute(
            insert(patient).values([{"patient_id": SECRET, "issuer_of_patient_id": SECRET, "as_of": SECRET}] * 2)
        ),
        lambda connection: connection.execute(select(patient).where(cast(literal(SECRET), Integer) == 1)),
        lambda connection: connection.execute(
            insert(patient).values(
                patient_id="1", issuer_of_patient_id="1", as_of="1", unidentified_study_uid=SECRET * 100
            )
        ),
        lambda connection: connection.execute(
            text("SELECT nowhere FROM patient WHERE patient_id = :id"), {"id": SECRET}
        ),
        lambda connection: connection.execute(insert(study).values(patient_key=1, study_date=SECRET)),
    ],
)
def test_error_of_a_statement_holds_no_value(engine: Engine, fail: Any):
    """What a database says of an error is logged, so it names no patient, cause and traceback included."""
    try:
        with engine.begin() as connection:
            fail(connection)
    except SQLAlchemyError as error:
        said = "".join(traceback.format_exception(error)) + repr(error) + repr(getattr(error, "orig", ""))
        assert SECRET not in said
        assert "Error" in said


def test_concurrent_writers_lose_no_update(engine: Engine):
    """Writers that read and then write wait for each other instead of failing."""
    with engine.begin() as connection:
        connection.execute(insert(patient).values(patient_id="1", issuer_of_patient_id="a", as_of=""))

    def append(_: int) -> None:
        with engine.begin() as connection:
            connection.scalar(select(patient.c.as_of))
            connection.execute(update(patient).values(as_of=patient.c.as_of + "x"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(80)))
    with begin_read(engine) as connection:
        assert "x" * 80 == connection.scalar(select(patient.c.as_of))


def test_create_engine_for_other_database_refuses():
    """Only the two databases that the tests cover are opened."""
    with pytest.raises(PermanentError, match="mysql"):
        create_engine_for("mysql://host/name")


def test_every_engine_is_made_in_one_place():
    """Whoever makes one by himself may forget that its errors must hold no values."""
    source = Path(dicomflow.__file__).parent
    makers = [path for path in source.rglob("*.py") if re.search(r"\bcreate_engine\(", path.read_text())]
    assert [source / "catalog" / "engine.py"] == makers


def test_simulators_database_tells_no_values(tmp_path: Path):
    """An error of the simulator's own file names the statement, and nothing of what it was to write."""
    engine = open_state(tmp_path / "simulator.db")
    with pytest.raises(IntegrityError) as caught, engine.begin() as connection:
        connection.execute(
            insert(image_set_instance).values(image_set_id="1", sop_instance_uid="Planted^Patient", from_version=1)
        )
    engine.dispose()
    assert "Planted" not in str(caught.value)
