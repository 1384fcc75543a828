"""A catalog of any earlier revision, with rows in it, becomes today's and keeps them, on both databases."""

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from certificates import Authority
from sqlalchemy import Connection, Engine, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import OperationalError

from dicomflow.catalog import migrations
from dicomflow.catalog.engine import create_engine_for, migrate, require_schema, schema_revision
from dicomflow.catalog.migrations import REVISIONS
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.tables import metadata
from dicomflow.errors import PermanentError

DATE, TIME = "2026-01-02", "10:15:00"
ROWS: dict[str, dict[str, Any]] = {
    "patient": {
        "patient_key": 1,
        "patient_id": "P1",
        "issuer_of_patient_id": "site",
        "patient_name": "Müller^Anna",
        "as_of": "2026-01-02T10:15:00|x",
    },
    "study": {"study_key": 1, "patient_key": 1, "study_instance_uid": "1.2.3", "as_of": "x"},
    "series": {"series_key": 1, "study_key": 1, "series_instance_uid": "1.2.3.0", "modality": "CT", "as_of": "x"},
    "instance": {
        "instance_key": 1,
        "series_key": 1,
        "sop_instance_uid": "1.2.3.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "rows": 512,
        "as_of": "x",
        "object_key": "site/1.dcm",
        "bytes": 500,
    },
    "stored_object": {"object_key": "site/1.dcm", "study_instance_uid": "1.2.3", "sop_instance_uid": "1.2.3.1"},
    "queue_message": {"message_id": "1", "queue": "index", "body": "{}"},
}

# Two patients' studies with one Series Instance UID, as revision 0006 held them: one series, under the last that came.
SHARED = """
INSERT INTO patient (patient_key, patient_id, issuer_of_patient_id, as_of) VALUES (1, 'A', 's', 'x'), (2, 'B', 's', 'x')
INSERT INTO study (study_key, patient_key, study_instance_uid, as_of) VALUES (1, 1, '1.1', 'x'), (2, 2, '1.2', 'x')
INSERT INTO study_patient (study_instance_uid, patient_key) VALUES ('1.1', 1), ('1.1', 2), ('1.2', 2)
INSERT INTO series (series_key, study_key, series_instance_uid, modality, as_of) VALUES (9000, 2, '7', 'CT', 'x')
INSERT INTO series_study (series_instance_uid, study_instance_uid) VALUES ('7', '1.1'), ('7', '1.2')
INSERT INTO instance (series_key, sop_instance_uid, sop_class_uid, as_of, object_key, bytes) VALUES (9000, '1.7', '1', 'x', 'a', 1)
INSERT INTO instance (series_key, sop_instance_uid, sop_class_uid, as_of, object_key, bytes) VALUES (9000, '2.7', '1', 'x', 'b', 1)
INSERT INTO stored_object (object_key, study_instance_uid, series_instance_uid, sop_instance_uid) VALUES ('a', '1.1', '7', '1.7')
INSERT INTO stored_object (object_key, study_instance_uid, series_instance_uid, sop_instance_uid) VALUES ('b', '1.2', '7', '2.7')
INSERT INTO image_set (datastore_id, image_set_id, updated_at) SELECT 'd', name, '2026-01-02 10:15:00' FROM (SELECT 'of A' AS name UNION SELECT 'of B' UNION SELECT 'of C') AS names
INSERT INTO series_image_set (series_instance_uid, datastore_id, image_set_id) VALUES ('7', 'd', 'of A'), ('7', 'd', 'of B'), ('8', 'd', 'of C')
INSERT INTO import_job (import_job_id, client_token, job_name, datastore_id, input_s3_uri, output_s3_uri, state, created_at, updated_at) VALUES (1, 't', 'j', 'd', 'i', 'o', 'completed', '2026-01-02 10:15:00', '2026-01-02 10:15:00')
INSERT INTO import_outcome (object_key, import_job_id, outcome, image_set_id) VALUES ('a', 1, 'imported', 'of A'), ('b', 1, 'imported', 'of B')
"""  # noqa: E501  # a statement a line


def upgrade(connection: Connection, revision: str) -> None:
    """Migrate to one revision, as the program of that day did."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def fill(connection: Connection) -> None:
    """Put one row into each table of the index, and a message into the queue."""
    reflected = MetaData()
    reflected.reflect(connection)
    for name, values in ROWS.items():
        table = reflected.tables[name]
        if name == "queue_message":
            connection.execute(
                text(
                    "INSERT INTO queue_message (message_id, queue, body, visible_at, enqueued_at)"
                    " VALUES ('1', 'index', '{}', '2026-01-02 10:15:00', '2026-01-02 10:15:00')"
                )
            )
        else:
            connection.execute(insert(table).values(values))
    connection.execute(text(f"UPDATE study SET study_date = '{DATE}', study_time = '{TIME}'"))


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_migrate_from_each_revision_keeps_its_rows(empty_database_url: str, revision: str):
    """Rows of an earlier program are all there, unchanged in the columns that they had."""
    engine = create_engine_for(empty_database_url)
    with engine.begin() as connection:
        upgrade(connection, revision)
        fill(connection)
    migrate(engine)
    assert REVISIONS[-1] == schema_revision(engine)
    with engine.connect() as connection:
        for name, values in ROWS.items():
            table: Table = metadata.tables[name]
            row = connection.execute(select(*(table.c[column] for column in values))).one()
            assert tuple(values.values()) == tuple(row), name
    engine.dispose()


@pytest.mark.parametrize("revision", [revision for revision in REVISIONS if revision < "0004"])
def test_migrate_fills_search_and_history_from_what_is_there(empty_database_url: str, revision: str):
    """A study that was indexed before there was a search is found by it."""
    engine = create_engine_for(empty_database_url)
    with engine.begin() as connection:
        upgrade(connection, revision)
        fill(connection)
    migrate(engine)
    day = date.fromisoformat(DATE)
    with engine.connect() as connection:
        wanted = StudyFilter(patient_name="muller ann", modality="CT", first_date=day, last_date=day)
        (found,) = search_studies(connection, wanted).studies
        for name in ("patient_history", "study_patient", "series_study"):
            assert 1 == connection.scalar(select(func.count()).select_from(metadata.tables[name])), name
    assert ("1.2.3", 1) == (found.study_instance_uid, found.instance_count)
    engine.dispose()


def test_migrate_gives_each_study_the_series_that_it_shared(empty_database_url: str):
    """Images that showed under another patient with their series' UID are their own patient's; so are image sets."""
    engine = create_engine_for(empty_database_url)
    with engine.begin() as connection:
        upgrade(connection, "0006")
        for statement in SHARED.strip().splitlines():
            connection.execute(text(statement))
    migrate(engine)
    with engine.connect() as connection:
        statement = text(
            "SELECT sop_instance_uid, study_instance_uid, patient_id, modality FROM instance"
            " JOIN series ON series.series_key = instance.series_key JOIN study ON study.study_key = series.study_key"
            " JOIN patient ON patient.patient_key = study.patient_key ORDER BY 1"
        )
        expected = [("1.7", "1.1", "A", "CT"), ("2.7", "1.2", "B", "CT")]
        assert expected == [tuple(row) for row in connection.execute(statement)]
        mapped = text("SELECT image_set_id, study_instance_uid FROM series_image_set ORDER BY 1")
        expected = [("of A", "1.1"), ("of B", "1.2"), ("of C", "")]
        assert expected == [tuple(row) for row in connection.execute(mapped)]
        claims = text("SELECT study_instance_uid, patient_key, as_of FROM study_patient ORDER BY 1, 2")
        expected = [("1.1", 1, "x"), ("1.1", 2, ""), ("1.2", 2, "x")]
        assert expected == [tuple(row) for row in connection.execute(claims)]
        if connection.dialect.name == "sqlite":
            assert [] == connection.execute(text("PRAGMA foreign_key_check")).all()
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_require_schema_of_each_earlier_revision_refuses(empty_database_url: str, revision: str):
    """A program refuses every schema that is older than it needs, and says what to do."""
    engine = create_engine_for(empty_database_url)
    with engine.begin() as connection:
        upgrade(connection, revision)
    with pytest.raises(PermanentError, match=rf"schema {revision} is older than {REVISIONS[-1]}.*dicomflow migrate"):
        require_schema(engine)
    engine.dispose()


def test_program_works_with_a_newer_schema(engine: Engine, an_object: Any, write: Any):
    """Columns and tables that a later program added are in nobody's way."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE instance ADD COLUMN added_later TEXT DEFAULT 'x' NOT NULL"))
        connection.execute(text("CREATE TABLE added_later (added_key INTEGER PRIMARY KEY)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    require_schema(engine)
    write(an_object(1), an_object(2))
    write(an_object(1))
    with engine.connect() as connection:
        assert 2 == connection.scalar(select(func.count()).select_from(metadata.tables["instance"]))
        assert "added_later" in inspect(connection).get_table_names()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Answer PostgreSQL's request for TLS; give the port, and the certificate of the CA that vouches for the answer."""
    authority = Authority(tmp_path)
    identity = authority.issue("db.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(120)
                try:
                    connection.recv(8)
                    connection.sendall(b"S")
                    with context.wrap_socket(connection, server_side=True) as wrapped:
                        wrapped.recv(1)
                except OSError:
                    continue

    thread = threading.Thread(target=answer)
    thread.start()
    yield server.getsockname()[1], authority.certificate
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_database_connection_verifies_the_server(impostor: tuple[int, Path], monkeypatch: pytest.MonkeyPatch):
    """A server on another machine is not believed without a CA that vouches for it, nor under another's name."""
    port, certificate = impostor
    monkeypatch.setenv("HOME", str(certificate.parent))
    for name, options, reason in (
        ("db.example", "", "root certificate file"),
        ("other.example", f"&sslrootcert={certificate}", "does not match host name"),
    ):
        engine = create_engine_for(f"postgresql://user@{name}:{port}/catalog?hostaddr=127.0.0.1{options}")
        with pytest.raises(OperationalError, match=reason):
            schema_revision(engine)
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://user@db.example/catalog", "verify-full"),
        ("postgresql://user@db.example/catalog?sslmode=require", "require"),
        ("postgresql://user@localhost/catalog", None),
        ("postgresql:///catalog?host=/run/postgresql", None),
        ("postgresql:///catalog?host=db.example", "verify-full"),
    ],
)
def test_database_url_verifies_whatever_leaves_the_machine(url: str, mode: str | None):
    """Only the URL itself can ask for less; sockets and loopback need none."""
    engine = create_engine_for(url)
    assert mode == engine.url.query.get("sslmode")
    engine.dispose()
