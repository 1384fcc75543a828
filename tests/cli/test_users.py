"""`dicomflow users hash`: what it prints is what the edge and the console take."""

import io
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from dicomflow.passcodes import PasscodeFile


@pytest.fixture
def passcode(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a passcode on standard input."""

    def _passcode(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return _passcode


def test_hash_prints_a_line_that_is_accepted(run: Any, passcode: Any, tmp_path: Path):
    """The line lets the user in with the passcode, and with no other."""
    passcode("open sesame\n")
    code, output, _ = run("users", "hash", "ct:1")
    assert 0 == code
    assert "sesame" not in output
    (tmp_path / "users").write_text(output)
    users = PasscodeFile(tmp_path / "users", "users")
    assert users.accepts(b"ct:1", b"open sesame")
    assert not users.accepts(b"ct:1", b"open")


def test_hash_into_a_file_replaces_the_users_line_only(run: Any, passcode: Any, tmp_path: Path):
    """Comments and other users stay, the file is its owner's, and the last passcode holds."""
    file = tmp_path / "users"
    for name, text in (("ct1", "one"), ("mr1", "two"), ("ct1", "three")):
        passcode(text)
        assert 0 == run("users", "hash", name, "--file", file)[0]
        if name == "ct1" and text == "one":
            assert 0o600 == stat.S_IMODE(file.stat().st_mode)
            file.write_text("# devices\n" + file.read_text())
    lines = file.read_text().splitlines()
    assert ["# devices", "mr1", "ct1"] == [line.partition(":")[0] for line in lines]
    users = PasscodeFile(file, "users")
    assert [False, True, True] == [
        users.accepts(*each) for each in ((b"ct1", b"one"), (b"ct1", b"three"), (b"mr1", b"two"))
    ]
    assert ["users"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "text", "code"), [("ct1", "", 1), ("ct1", "x" * 1001, 1), ("", "x", 2), ("#a", "x", 2)]
)
def test_hash_of_nothing_is_refused(run: Any, passcode: Any, name: str, text: str, code: int):
    """An empty passcode and a name that the file cannot hold make no line."""
    passcode(text)
    assert (code, "") == run("users", "hash", name)[:2]
