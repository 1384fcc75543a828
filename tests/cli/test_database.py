"""Commands on the catalog of another user: what reads leaves nothing behind, what writes leaves it to its owner."""

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from dicomflow import cli
from dicomflow.catalog.engine import create_engine_for
from dicomflow.cli.stores import store_of

Run = Callable[..., tuple[int, str, str]]

NOBODY = 65534
READING = (
    ("status",),
    ("query", "SELECT 1"),
    ("imports", "list"),
    ("imports", "show", "1.2.3"),
    ("catalog", "problems"),
    ("catalog", "conflicts"),
    ("catalog", "studies"),
    ("catalog", "audit"),
)
WRITING = (
    ("migrate",),
    ("imports", "retry", "--all"),
    ("catalog", "rebuild"),
    ("catalog", "delete-study", "1.2.3", "--yes", "--objects"),
    ("console", "--port", "0"),
)

needs_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="root alone can act as several users"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data folder with a catalog, objects and a spool."""
    folder = tmp_path_factory.mktemp("made") / "data"
    assert 0 == cli.run(["migrate", "--data", str(folder)])
    for name in ("objects", "spool"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """Give a copy of it that any user can reach."""
    top = Path(tempfile.mkdtemp(prefix="dicomflow-"))
    top.chmod(0o755)
    yield Path(shutil.copytree(made, top / "data"))
    shutil.rmtree(top)


def listed(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return name, owner, mode and size of all that lies in a folder."""
    return sorted(
        (str(path), found.st_uid, found.st_mode, 0 if path.is_dir() else found.st_size)
        for path in (folder, *folder.rglob("*"))
        for found in (path.stat(),)
    )


def give(folder: Path, user: int) -> None:
    """Make a folder and all that is in it a user's own."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def as_nobody(call: Callable[[], None]) -> int:
    """Run a function in a child process that is no longer root; give its exit code."""
    child = os.fork()
    if not child:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            call()
            code = 0
        except BaseException:  # noqa: BLE001  # it ends with the child
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_command_on_a_catalog_that_nobody_has_open_creates_nothing(
    command: tuple[str, ...], folder: Path, run: Run
):
    """No log of SQLite's, no folder and no file is new, and none has changed."""
    before = listed(folder)
    run(*command, "--data", folder)
    assert before == listed(folder)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_command_on_a_catalog_that_is_open_creates_nothing(command: tuple[str, ...], folder: Path, run: Run):
    """Beside the program that writes, the log and its index stay that program's own."""
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    with engine.connect() as connection:
        connection.execute(text("SELECT 1")).all()
        before = listed(folder)
        run(*command, "--data", folder)
        assert before == listed(folder)
    engine.dispose()


def test_reading_command_beside_a_writer_sees_what_was_committed_last(folder: Path, run: Run):
    """What is only in the log yet is read too."""
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    with engine.connect() as kept:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE newest (n INTEGER)"))
            connection.execute(text("INSERT INTO newest VALUES (7)"))
        code, output, _ = run("query", "SELECT n FROM newest", "--json", "--data", folder)
        kept.close()
    engine.dispose()
    assert (0, True) == (code, '"n": 7' in output)


@needs_root
@pytest.mark.parametrize("command", [*READING, *WRITING[:-1]], ids=" ".join)
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_command_of_root_leaves_every_file_to_the_owner(command: tuple[str, ...], umask: int, folder: Path, run: Run):
    """The program that owns the folder can go on: nothing in it is root's."""
    give(folder, NOBODY)
    before = os.umask(umask)
    try:
        run(*command, "--data", folder)
    finally:
        os.umask(before)
    assert {NOBODY} == {owner for _, owner, _, _ in listed(folder)}


@needs_root
def test_migrate_of_root_in_an_empty_folder_makes_the_owners_catalog(folder: Path, run: Run):
    """A folder that was made for a program's user gets a catalog that this user can write, and nobody else can read."""
    empty = folder.parent / "empty"
    empty.mkdir()
    os.chown(empty, NOBODY, NOBODY)
    assert 0 == run("migrate", "--data", empty)[0]
    found = (empty / "catalog.db").stat()
    assert (NOBODY, 0o600) == (found.st_uid, found.st_mode & 0o777)


@needs_root
@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_writing_command_of_another_user_is_refused_and_changes_nothing(
    command: tuple[str, ...], folder: Path, run: Run
):
    """Even where the folder's mode would let it, it makes no file that the owner could not use."""
    run(*command[:-1], "--help")  # what is imported when it is first called may be out of the other user's reach
    folder.chmod(0o777)
    (folder / "catalog.db").chmod(0o666)
    before = listed(folder)

    def call() -> None:
        code, _, error = run(*command, "--data", folder)
        assert (1, True) == (code, "belongs to another user: run the command as root" in error)

    assert 0 == as_nobody(call)
    assert before == listed(folder)


@needs_root
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_command_of_a_user_who_may_not_says_who_may(command: tuple[str, ...], folder: Path, run: Run):
    """A folder for its owner alone is no catalog without rows, and no internal error."""
    run(*command, "--data", folder)
    folder.chmod(0o700)

    def call() -> None:
        code, output, error = run(*command, "--data", folder)
        assert (1, "", True) == (code, output, "run the command as root" in error)

    assert 0 == as_nobody(call)


def test_rebuild_without_a_folder_of_objects_makes_none(folder: Path, run: Run):
    """A folder that is not there is said, and not made in the name of whoever calls."""
    (folder / "objects").rmdir()
    code, _, error = run("catalog", "rebuild", "--data", folder)
    assert (1, f"dicomflow: there is no folder {folder / 'objects'}\n") == (code, error)


@needs_root
def test_console_of_a_folder_to_which_nothing_was_sent_leaves_the_objects_to_the_owner(folder: Path):
    """It can be looked at before the first image, and the program that receives it can store it."""
    (folder / "objects").rmdir()
    give(folder, NOBODY)
    store_of(folder, None, may_create=True)
    found = (folder / "objects").stat()
    assert (NOBODY, 0o700) == (found.st_uid, found.st_mode & 0o777)
