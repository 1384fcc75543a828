"""`dicomflow query` reads and cannot write, on SQLite and on PostgreSQL."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

SEED_QUERIES = (
    "SELECT * from Patient;",
    "SELECT * from Study;",
    "SELECT * from Series;",
    "SELECT * from Instance;",
    "SELECT * FROM Ahlijob;",
    "SELECT * FROM Ahliimageset;",
)
WRITES = (
    "DELETE FROM queue_message",
    "INSERT INTO alembic_version VALUES ('x')",
    "UPDATE alembic_version SET version_num = 'x' RETURNING version_num",
    "DROP TABLE queue_message",
    "CREATE TABLE t (a INTEGER)",
    "COMMIT; DELETE FROM alembic_version",
    "SELECT 1; DELETE FROM alembic_version",
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def catalog(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a migrated catalog of each kind, named by the environment."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", engine.url.render_as_string(hide_password=False))


@pytest.mark.parametrize("sql", SEED_QUERIES)
@pytest.mark.usefixtures("catalog")
def test_query_of_first_users_runs_as_it_stands(run: Run, sql: str):
    """The six queries that first users know run as they stand on both databases."""
    code, output, errors = run("query", sql)
    assert (0, "") == (code, errors)
    assert "0 rows" in output


@pytest.mark.parametrize("sql", [*SEED_QUERIES, "SELECT * FROM Studylist", "SELECT * FROM Instancelocation"])
@pytest.mark.usefixtures("catalog")
def test_query_in_the_seeds_names_runs(run: Run, sql: str):
    """With `--seed` a table is the AWS sample's of that name."""
    code, output, errors = run("query", "--seed", sql)
    assert (0, "") == (code, errors)
    assert "0 rows" in output


@pytest.mark.parametrize("sql", ["DROP VIEW study", "CREATE TEMP VIEW v AS SELECT 1", "DELETE FROM temp.patient"])
@pytest.mark.usefixtures("catalog")
def test_query_in_the_seeds_names_cannot_write_either(run: Run, sql: str):
    """Not even to what stands for its tables."""
    code, output, errors = run("query", "--seed", sql)
    assert (1, "") == (code, output)
    assert "dicomflow: the database refused the statement: " in errors


@pytest.mark.parametrize("sql", WRITES)
@pytest.mark.usefixtures("catalog")
def test_query_that_writes_is_refused(run: Run, sql: str):
    """No statement changes anything, not even several in one text."""
    code, output, errors = run("query", sql)
    assert (1, "") == (code, output)
    assert "dicomflow: the database refused the statement: " in errors
    code, output, _ = run("query", "SELECT count(*) AS n FROM alembic_version WHERE version_num <> 'x'", "--json")
    assert [{"n": 1}] == json.loads(output)


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM INTO '{path}'",
        "ATTACH '{path}' AS other",
        "ATTACH DATABASE 'file:{path}?mode=rwc' AS other",
        "COPY (SELECT 1) TO '{path}'",
        "/* a */ COPY (SELECT 1) TO PROGRAM 'cat > {path}'",
        " -- SELECT\nCOPY (SELECT 1) TO '{path}'",
        "SELECT load_extension('{path}')",
        "PRAGMA journal_mode = DELETE",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DO $$ BEGIN COPY (SELECT 1) TO '{path}'; END $$",
    ],
)
@pytest.mark.usefixtures("catalog")
def test_query_touches_no_file(run: Run, tmp_path: Path, sql: str):
    """No statement writes or opens another file, on either database."""
    path = tmp_path / "written"
    code, output, _ = run("query", sql.replace("{path}", str(path)))
    assert (1, "") == (code, output)
    assert not path.exists()


@pytest.mark.usefixtures("catalog")
def test_query_json_gives_one_object_a_row(run: Run):
    """`--json` prints an array of objects; a repeated column name gets a number; NULL is null."""
    code, output, _ = run("query", "SELECT 1 AS a, 'x%y:z' AS b, NULL AS c, 2 AS a", "--json")
    assert 0 == code
    assert [{"a": 1, "b": "x%y:z", "c": None, "a#2": 2}] == json.loads(output)


@pytest.mark.usefixtures("catalog")
def test_query_with_wrong_sql_says_why(run: Run):
    """The database's own reason is shown, in one line."""
    code, _, errors = run("query", "SELECT * FROM nowhere")
    assert 1 == code
    assert 1 == len(errors.splitlines())
    assert "nowhere" in errors


@pytest.mark.usefixtures("catalog")
def test_query_without_rows_is_refused(run: Run):
    """A statement that returns nothing is refused, so that nobody takes silence for success."""
    code, _, errors = run("query", "BEGIN")
    assert 1 == code
    assert errors.startswith("dicomflow: the ")


def test_query_on_data_folder_reads_its_catalog(run: Run, data: Path):
    """With --data the catalog is the SQLite file under it."""
    code, output, _ = run("query", "--data", data, "SELECT version_num FROM alembic_version", "--json")
    assert 0 == code
    assert 1 == len(json.loads(output))


def test_query_on_path_with_special_characters_reads_its_catalog(run: Run, tmp_path: Path):
    """A folder's name may hold what URLs give a meaning to."""
    folder = tmp_path / "a b?c%20d#e"
    assert 0 == run("migrate", "--data", folder)[0]
    assert 0 == run("query", "--data", folder, "SELECT * FROM Patient")[0]
    assert ["catalog.db"] == [path.name for path in folder.iterdir() if path.suffix == ".db"]


def test_query_without_a_folder_asks_the_users_own(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither folder nor URL means the one that `dicomflow local` makes for this user, and the line says which."""
    monkeypatch.setenv("XDG_DATA_HOME", str(data.parent))
    code, _, errors = run("query", "SELECT 1")
    assert 1 == code
    assert f"no catalog.db in {data.parent / 'dicomflow'}; start `dicomflow local --data " in errors
    data.rename(data.parent / "dicomflow")
    assert 0 == run("query", "SELECT 1")[0]


def test_query_of_a_store_without_a_catalog_exits_2(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Where a variable says that it is not the user's own folder, the catalog must be named too."""
    monkeypatch.setenv("DICOMFLOW_STORE_URL", "s3://bucket")
    code, _, errors = run("catalog", "rebuild")
    assert 2 == code
    assert "--data" in errors
    assert "DICOMFLOW_DATABASE_URL" in errors


def test_query_without_catalog_creates_nothing(run: Run, tmp_path: Path):
    """Reading a folder without a catalog fails and leaves the folder as it was."""
    assert 1 == run("query", "--data", tmp_path, "SELECT 1")[0]
    assert [] == list(tmp_path.iterdir())
