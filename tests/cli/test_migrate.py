"""`dicomflow migrate` prepares a catalog."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomflow.catalog.engine import create_engine_for, schema_revision
from dicomflow.catalog.migrations import REVISIONS

Run = Callable[..., tuple[int, str, str]]


def test_migrate_new_folder_creates_the_catalog(run: Run, tmp_path: Path):
    """A data folder that does not exist yet gets a catalog at the newest revision."""
    folder = tmp_path / "new" / "data"
    assert (0, f"the catalog is at revision {REVISIONS[-1]}\n", "") == run("migrate", "--data", folder)
    with sqlite3.connect(folder / "catalog.db") as connection:
        assert [] == connection.execute("SELECT * FROM Ahlijob").fetchall()
    connection.close()


def test_migrate_twice_changes_nothing(run: Run, data: Path):
    """A second call succeeds and says the same."""
    assert (0, f"the catalog is at revision {REVISIONS[-1]}\n", "") == run("migrate", "--data", data)
    assert (0, f'{{"revision": "{REVISIONS[-1]}"}}\n', "") == run("migrate", "--data", data, "--json")


def test_migrate_database_of_environment_leaves_the_folder_alone(
    run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """DICOMFLOW_DATABASE_URL goes before the catalog under --data, as in `dicomflow local`."""
    monkeypatch.setenv("DICOMFLOW_DATABASE_URL", empty_database_url)
    folder = tmp_path / "data"
    assert 0 == run("migrate", "--data", folder)[0]
    assert not folder.exists()
    engine = create_engine_for(empty_database_url)
    assert REVISIONS[-1] == schema_revision(engine)
    engine.dispose()


def test_migrate_without_database_exits_2(run: Run):
    """Neither folder nor URL is a wrong call."""
    assert 2 == run("migrate")[0]
