"""What a user gets wrong at three in the morning: each is told in a line with what to do, and is no internal error."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomflow.errors import PermanentError
from dicomflow.network import listening

Run = Callable[..., tuple[int, str, str]]

READERS = ["status", "imports list", "catalog studies", "transfers list", "query 'SELECT * FROM patient'"]
EDGE = """name = "edge-1"
http_port = {http_port}
[dimse]
port = 0
{dimse}
[spool]
dir = "{folder}/spool"
[delivery]
store_url = "file://{folder}/objects"
"""


def _call(run: Run, command: str, *options: object) -> str:
    """Run a command that must fail in one line; return that."""
    words = [word.strip("'") for word in command.split(maxsplit=1)] if command.startswith("query") else command.split()
    code, output, errors = run(*words, *options)
    assert (1, "", 1) == (code, output, len(errors.splitlines()))
    assert "internal error" not in errors
    return errors


@pytest.mark.parametrize("command", [*READERS, "migrate"])
def test_database_that_is_away_is_said_with_what_to_look_at(run: Run, command: str):
    """Nobody listens there."""
    told = _call(run, command, "--database-url", "postgresql://someone:secret@127.0.0.1:1/x")
    assert told.startswith("dicomflow: the catalog does not answer: connection failed")
    assert "correct host, port, name and user in DICOMFLOW_DATABASE_URL" in told
    assert "secret" not in told


@pytest.mark.parametrize("url", ["nonsense", "postgresql:/x", "postgresql://u:secret@h:port/x"])
@pytest.mark.parametrize("command", ["status", "migrate"])
def test_url_that_is_none_is_said_with_one_that_is(run: Run, command: str, url: str):
    """The text is not repeated: a password may be in it."""
    told = _call(run, command, "--database-url", url)
    assert "the catalog's URL is no URL: use sqlite:////FOLDER/catalog.db or postgresql://" in told
    assert "secret" not in told


@pytest.mark.parametrize("command", [*READERS, "migrate", "local"])
def test_file_that_is_no_database_is_named_with_the_way_back(run: Run, tmp_path: Path, command: str):
    """As after a restore that went wrong."""
    (tmp_path / "catalog.db").write_text("this is no database, but long enough to be looked at " * 4)
    more = ("--port", 0, "--http-port", 0, "--bind", "127.0.0.1") if command == "local" else ()
    told = (
        _call(run, command, "--data", tmp_path, *more)
        if command != "local"
        else _last(run(command, "--data", tmp_path, *more))
    )
    assert "is no SQLite database: restore it from a backup, or move it away" in told


def _last(answer: tuple[int, str, str]) -> str:
    code, _, errors = answer
    assert 1 == code
    return errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "ports below 1024 need a right: take one above 1023, set AmbientCapabilities="),
        (errno.EADDRNOTAVAIL, "this machine has no such address"),
        (errno.EADDRINUSE, "`ss -ltnp | grep :104` tells"),
    ],
)
def test_port_that_cannot_be_had_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, number: int, advice: str):
    """Port 104 without the right to it, an address of another machine, and a port that something has."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(listening, "_listen", refuse)  # a machine may let anybody have port 104
    with pytest.raises(PermanentError, match="cannot listen on") as caught:
        listening.bind("127.0.0.1", 104)
    assert advice in str(caught.value)


def test_misspelt_setting_variable_and_command_are_answered_with_the_nearest(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the file, in the environment, and on the command line."""
    config = tmp_path / "edge.toml"
    config.write_text(EDGE.format(folder=tmp_path, http_port=1, dimse="prot = 104"))
    assert "dimse.prot: there is no such setting; did you mean dimse.port?" in _call(run, "edge", "--config", config)
    config.write_text(EDGE.format(folder=tmp_path, http_port=1, dimse=""))
    monkeypatch.setenv("DICOMFLOW_EDGE__DIMSE__PROT", "104")
    assert "did you mean DICOMFLOW_EDGE__DIMSE__PORT?" in _call(run, "edge", "--config", config)
    monkeypatch.delenv("DICOMFLOW_EDGE__DIMSE__PROT")
    monkeypatch.setenv("DICOMFLOW_DATABSE_URL", "x")
    assert "did you mean DICOMFLOW_DATABASE_URL?" in _call(run, "doctor", "--worker")
    code, _, errors = run("statsu")
    assert 2 == code
    assert "No such command 'statsu'; did you mean status?" in errors


@pytest.mark.parametrize("words", [(), ("status",), ("imports",), ("imports", "list")])
def test_short_help_is_help(run: Run, words: tuple[str, ...]):
    """`-h` is what many type first."""
    assert run(*words, "--help") == run(*words, "-h")
