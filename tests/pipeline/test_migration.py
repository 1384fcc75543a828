"""The migration that a deployment runs: on a real PostgreSQL, with a role in the place of Aurora's."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs
from uuid import uuid4

import boto3
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from dicomflow.catalog.access import grant_user
from dicomflow.catalog.engine import create_engine_for, schema_revision
from dicomflow.catalog.migrations import REVISIONS
from dicomflow.catalog.tables import metadata
from dicomflow.errors import PermanentError
from dicomflow.pipeline.database import _aws_token, connect_with_patience, create_iam_engine
from dicomflow.pipeline.migration import MigrationSettings, load_migration_settings, migrate_on_deploy

CREATE = {"RequestType": "Create"}


@pytest.fixture
def user(postgres_url: str) -> Iterator[str]:
    """Give the name of a user that is not there yet, in a server that has Aurora's role for IAM."""
    name = f"reader_{uuid4().hex}"
    engine = create_engine_for(postgres_url)
    with engine.begin() as connection:
        if not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = 'rds_iam'")).first():
            connection.execute(text("CREATE ROLE rds_iam"))
    yield name
    with engine.begin() as connection:
        if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).first():
            connection.execute(text(f"DROP OWNED BY {name}"))
            connection.execute(text(f"DROP ROLE {name}"))
    engine.dispose()


@pytest.fixture
def settings(postgres_url: str, user: str) -> MigrationSettings:
    """Give the settings of a migration of an empty database."""
    return MigrationSettings(database_url=postgres_url, secret_arn="arn:secret", user=user)


def secret(arn: str) -> str:
    """Give the secret's text, as RDS writes it."""
    assert "arn:secret" == arn
    return json.dumps({"username": "owner", "password": "kept apart"})


def as_user(url: str, user: str) -> Engine:
    """Give an engine that acts with the rights of a user."""
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"), connect_args={"options": f"-c role={user}"}
    )


def test_migrate_on_deploy_makes_the_schema_and_a_repeat_changes_nothing(settings: MigrationSettings):
    """An empty database has the program's revision after the first deploy, and after every other."""
    expected = {"PhysicalResourceId": "catalog-schema", "Data": {"Revision": REVISIONS[-1]}}
    assert expected == migrate_on_deploy(CREATE, settings, secret)
    assert expected == migrate_on_deploy({"RequestType": "Update"}, settings, secret)


def test_migrate_on_deploy_of_a_deleted_stack_leaves_the_catalog(settings: MigrationSettings):
    """Destroying the stack asks for no secret and drops nothing."""
    migrate_on_deploy(CREATE, settings, secret)
    event = {"RequestType": "Delete", "PhysicalResourceId": "catalog-schema"}
    asked: list[str] = []
    assert {"PhysicalResourceId": "catalog-schema"} == migrate_on_deploy(
        event, settings, lambda arn: str(asked.append(arn))
    )
    assert [] == asked
    engine = create_engine_for(settings.database_url)
    assert REVISIONS[-1] == schema_revision(engine)
    engine.dispose()


def test_user_reads_and_writes_rows_but_changes_no_table(settings: MigrationSettings):
    """The functions' user has the rows of every table and view, and neither drops nor makes one."""
    migrate_on_deploy(CREATE, settings, secret)
    engine = as_user(settings.database_url, settings.user)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.select())
            connection.execute(table.delete())
        connection.execute(text("SELECT * FROM Ahlijob"))
        connection.execute(text("INSERT INTO patient (issuer_of_patient_id, patient_id, as_of) VALUES ('A', 'B', '1')"))
    for forbidden in (
        "DROP TABLE patient",
        "CREATE TABLE other (a int)",
        "DELETE FROM alembic_version",
        "TRUNCATE study",
    ):
        with pytest.raises(ProgrammingError), engine.begin() as connection:
            connection.execute(text(forbidden))
    engine.dispose()


def test_user_has_the_rows_of_tables_that_come_later(settings: MigrationSettings):
    """A table of a later migration is the user's too, before its rights are given again."""
    migrate_on_deploy(CREATE, settings, secret)
    owner = create_engine_for(settings.database_url)
    with owner.begin() as connection:
        connection.execute(text("CREATE TABLE later (number int GENERATED ALWAYS AS IDENTITY)"))
    engine = as_user(settings.database_url, settings.user)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO later DEFAULT VALUES"))
    owner.dispose()
    engine.dispose()


def test_grant_user_on_sqlite_says_that_there_are_no_users():
    """A database without users is refused by name."""
    engine = create_engine_for("sqlite://")
    with engine.begin() as connection, pytest.raises(PermanentError, match="a catalog on sqlite has no users"):
        grant_user(connection, "anyone")
    engine.dispose()


def test_grant_user_without_iam_says_what_to_turn_on(settings: MigrationSettings):
    """A server that knows no IAM is refused, and the user is not made."""
    engine = create_engine_for(settings.database_url)
    with engine.connect() as connection:
        connection.execute(text("ALTER ROLE rds_iam RENAME TO rds_iam_away"))
        with pytest.raises(PermanentError, match="turn IAM authentication on"):
            grant_user(connection, settings.user)
        connection.rollback()
    engine.dispose()


def test_load_migration_settings_without_variables_names_each(monkeypatch: pytest.MonkeyPatch):
    """What is missing is named as it is set."""
    monkeypatch.setenv("DICOMFLOW_MIGRATION__USER", "dicomflow")
    with pytest.raises(PermanentError) as raised:
        load_migration_settings()
    assert "DICOMFLOW_MIGRATION__DATABASE_URL" in str(raised.value)
    assert "DICOMFLOW_MIGRATION__SECRET_ARN" in str(raised.value)


def test_connection_gets_a_new_token_each_time(postgres_url: str):
    """A token is good for minutes and a connection for hours: each connection has its own."""
    asked = []

    def token(host: str, port: int, user: str) -> str:
        asked.append((host, port, user))
        return f"token-{len(asked)}"

    engine = create_iam_engine(postgres_url, token)
    with engine.connect(), engine.connect():
        assert 2 == len(asked)
    engine.dispose()
    assert make_url(postgres_url).username == asked[0][2]


def test_connection_to_a_resuming_database_is_tried_three_times(tmp_path: Path):
    """Nothing answers: three attempts with growing pauses, then the failure itself."""
    engine = create_engine_for(f"postgresql://user@/catalog?host={tmp_path}")
    pauses: list[float] = []
    connect_with_patience(engine, pause=pauses.append)
    with pytest.raises(Exception, match="No such file"), engine.connect():
        pass
    assert [2.0, 4.0] == pauses


def test_token_is_the_one_that_boto3_would_make(monkeypatch: pytest.MonkeyPatch):
    """Made without a call, from whatever credentials there are, and like boto3's in all but the moment."""
    variables = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    for name, value in (variables | {"AWS_DEFAULT_REGION": "eu-west-1"}).items():
        monkeypatch.setenv(name, value)

    def parts(token: str) -> tuple[str, dict[str, list[str]]]:
        host, _, query = token.partition("/?")
        found = parse_qs(query)
        moments = [found.pop(name) for name in ("X-Amz-Date", "X-Amz-Signature")]
        assert all(moments)
        return host, found

    ours = _aws_token()("cluster.example", 5432, "dicomflow")
    # A session of its own: boto3's default one keeps the credentials that another test found.
    theirs = boto3.Session().client("rds").generate_db_auth_token("cluster.example", 5432, "dicomflow")
    assert parts(theirs) == parts(ours)
    assert "cluster.example:5432" == parts(ours)[0]
