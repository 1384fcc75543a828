"""The command line as a whole: help, version, lazy imports, and one line for each failure."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest

from dicomflow import __version__, cli
from dicomflow.errors import PermanentError

HEAVY = ("sqlalchemy", "boto3", "botocore", "pynetdicom", "starlette", "rich", "alembic", "obstore")

Run = Callable[..., tuple[int, str, str]]


def test_version_prints_name_and_number(run: Run):
    """`--version` prints the installed version and exits 0."""
    assert (0, f"dicomflow {__version__}\n", "") == run("--version")


def test_help_lists_every_command_with_its_summary(run: Run):
    """`--help` names each command and shows its summary whole."""
    code, output, _ = run("--help")
    assert 0 == code
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in output
        assert entry.summary in output


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_summary_of_command_is_first_line_of_its_docstring(name: str):
    """The table's summary is what the command's own help says first."""
    assert cli.COMMANDS[name].summary == cli.load_command(name).help.strip().partition("\n")[0]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_command_explains_every_option(run: Run, name: str):
    """Each command has help, and each of its options has a sentence."""
    code, output, _ = run(name, "--help")
    assert 0 == code
    options = output.partition("Options:\n")[2].splitlines()
    unexplained = [
        line
        for line, following in zip(options, [*options[1:], ""], strict=True)
        if line.startswith("  -") and len(line.split("  ")) < 3 and following.startswith("  -")
    ]
    assert [] == unexplained


def test_help_imports_no_heavy_package(python: Callable[[str], str]):
    """The list of commands needs none of the packages that the commands need."""
    code = f"""
import sys
from dicomflow import cli
assert cli.run(["--help"]) == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert "[]" == python(code).splitlines()[-1]


@pytest.mark.parametrize("name", ["edge", "send"])
def test_edge_command_imports_nothing_of_the_pipeline(python: Callable[[str], str], name: str):
    """The commands that a site runs need no SQLAlchemy, no boto3 and no Starlette."""
    code = f"""
import sys
import dicomflow.cli.{name}
print([name for name in ("sqlalchemy", "boto3", "alembic", "starlette", "psycopg") if name in sys.modules])
"""
    assert "[]" == python(code).splitlines()[-1]


def test_unknown_command_exits_2(run: Run):
    """A command that does not exist is a wrong call, not a failure."""
    code, _, errors = run("quer")
    assert 2 == code
    assert "No such command 'quer'" in errors


def test_unknown_log_level_exits_2(run: Run, tmp_path: Path):
    """A log level that logging does not know is refused before anything runs."""
    code, _, errors = run("--log-level", "LOUD", "status", "--data", tmp_path)
    assert 2 == code
    assert "'LOUD' is not one of DEBUG, INFO" in errors


def test_error_of_ours_is_one_line_and_exit_1(run: Run, tmp_path: Path):
    """A failure that we name is one line on standard error, with what to do, and nothing on standard output."""
    code, output, errors = run("status", "--data", tmp_path / "nowhere")
    assert (1, "") == (code, output)
    assert 1 == len(errors.splitlines())
    assert errors.startswith("dicomflow: no catalog.db in ")
    assert "start `dicomflow local --data" in errors


def test_error_of_ours_over_several_lines_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Whatever the text of an error, the operator sees one line."""
    _replace_status(monkeypatch, PermanentError("first\n  second"))
    assert (1, "", "dicomflow: first second\n") == run("status")


def test_unexpected_error_shows_no_text_of_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    """The text of an error that is not ours may hold patient data, so only its kind is shown."""
    _replace_status(monkeypatch, KeyError("Demo^Patient"))
    code, _, errors = run("status")
    assert 1 == code
    assert "Demo" not in errors
    assert errors.startswith("dicomflow: internal error (KeyError); ")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (botocore.exceptions.NoRegionError(), "no AWS region: set AWS_REGION"),
        (botocore.exceptions.NoCredentialsError(), "no AWS credentials: set "),
        (botocore.exceptions.ProfileNotFound(profile="x"), "the AWS profile that AWS_PROFILE names is not there"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), "AWS cannot be used (Endpoint"),
    ],
)
def test_missing_aws_setting_is_no_internal_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
):
    """What is missing of AWS's settings is named, with what to do."""
    _replace_status(monkeypatch, error)
    code, _, errors = run("status")
    assert 1 == code
    assert errors.startswith(f"dicomflow: {advice}")


def test_aws_region_is_the_region_of_every_client(monkeypatch: pytest.MonkeyPatch):
    """It goes before AWS_DEFAULT_REGION, as in every SDK but boto3, which reads that one alone."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setattr(sys, "argv", ["dicomflow", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "eu-west-1" == botocore.session.Session().get_config_variable("region")


def test_unexpected_error_at_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch):
    """With `--log-level DEBUG` the traceback precedes the line."""
    _replace_status(monkeypatch, KeyError("x"))
    code, _, errors = run("--log-level", "DEBUG", "status")
    assert 1 == code
    assert "Traceback (most recent call last)" in errors
    assert errors.splitlines()[-1].startswith("dicomflow: internal error (KeyError)")


def test_missing_package_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Where a command's packages are not installed, the line says which extra brings them."""
    monkeypatch.setitem(sys.modules, "dicomflow.catalog.report", None)
    monkeypatch.delitem(sys.modules, "dicomflow.cli.query", raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "dicomflow.catalog.report")
    code, _, errors = run("query", "SELECT 1")
    assert 1 == code
    assert "'query' needs the package sqlalchemy; install the extra pipeline too: python -m pip " in errors
    assert f"'dicomflow-{__version__}-py3-none-any.whl[pipeline]'" in errors


def test_operating_system_error_names_the_file(run: Run, tmp_path: Path):
    """A folder that cannot be made is named, with the reason the system gives."""
    (tmp_path / "file").write_text("")
    code, _, errors = run("migrate", "--data", tmp_path / "file" / "data")
    assert 1 == code
    assert f"dicomflow: Not a directory: {tmp_path}/file/data; " in errors


def test_module_call_is_the_command(python: Callable[[str], str]):
    """`python -m dicomflow` is the command line."""
    code = (
        "import runpy, sys; sys.argv = ['dicomflow', '--version']; runpy.run_module('dicomflow', run_name='__main__')"
    )
    assert f"dicomflow {__version__}\n" == python(code)


def _replace_status(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the command `status` raise: the boundary is under test, not the command."""

    def status() -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("dicomflow.cli.status"), "status", status)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("dicomflow s", {"samples", "send", "spool", "status", "simulator"}),
        ("dicomflow imports ", {"list", "show", "retry", "repair"}),
        ("dicomflow send --assoc", {"--associations"}),
    ],
)
def test_completion_knows_commands_and_options(words: str, wanted: set[str]):
    """The shell is told commands, their commands and their options, though none is imported before it is needed."""
    environment = {
        **os.environ,
        "_DICOMFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    program = Path(sys.executable).with_name("dicomflow")
    result = subprocess.run([program], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert wanted == set(result.stdout.split())


def test_exit_codes_are_those_that_are_documented(run: Run, data: Path, tmp_path: Path):
    """Done is 0, failed is 1, called wrongly is 2; the document has no other and lacks none."""
    seen = {
        run("status", "--data", data)[0],
        run("status", "--data", tmp_path / "nowhere")[0],
        run("status", "--no-such-option")[0],
    }
    assert seen == cli.EXIT_CODES.keys()
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in cli.EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in text


def test_reference_is_what_the_commands_say():
    """docs/cli.md is made by `python -m dicomflow.cli.reference docs/cli.md`, and was."""
    from dicomflow.cli.reference import reference

    assert reference() == (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_command_shows_an_example_or_its_commands(run: Run, name: str):
    """`--help` teaches: a command shows a call of itself, a group its commands."""
    _, output, _ = run(name, "--help")
    assert f"For example: dicomflow {name} " in " ".join(output.split()) or "Commands:" in output
