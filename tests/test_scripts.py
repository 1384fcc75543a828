"""The scripts a newcomer runs: what they say when called wrongly, and that they are plain POSIX sh."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_posix_sh(script: Path):
    """Each script is executable, says sh, and has no syntax error for it."""
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    assert 0 == _run("sh", "-n", script).returncode


def test_bootstrap_with_unknown_profile_exits_2():
    """A profile that does not exist is a wrong call."""
    result = _run("sh", ROOT / "scripts" / "bootstrap", "everything")
    assert 2 == result.returncode
    assert "unknown profile 'everything'" in result.stderr


def test_bootstrap_without_python_says_so(tmp_path: Path):
    """Where no Python is found the line says which one is needed."""
    for tool in ("dirname", "sh", "pwd"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/bin/true")
    result = _run("sh", ROOT / "scripts" / "bootstrap", "run", PATH=str(tmp_path), PYTHON="")
    assert 1 == result.returncode
    assert "no Python 3.11 or newer found" in result.stderr


def test_demo_with_path_that_does_not_exist_exits_2():
    """A path that is not there is a wrong call, found before anything starts."""
    result = _run(sys.executable, ROOT / "scripts" / "demo.py", "/nowhere/at/all")
    assert 2 == result.returncode
    assert "/nowhere/at/all does not exist" in result.stderr


def test_demo_with_files_that_are_no_dicom_exits_1(tmp_path: Path):
    """A folder without DICOM in it is a failure that says so."""
    (tmp_path / "note.txt").write_text("not DICOM")
    result = _run(sys.executable, ROOT / "scripts" / "demo.py", tmp_path)
    assert 1 == result.returncode
    assert "no DICOM file found" in result.stdout


def test_pictures_are_drawn_from_their_texts():
    """Each picture of the documents is what `scripts/pictures.py` makes of the text beside it."""
    specification = importlib.util.spec_from_file_location("pictures", ROOT / "scripts" / "pictures.py")
    assert specification is not None
    assert specification.loader is not None
    pictures = importlib.util.module_from_spec(specification)
    sys.modules["pictures"] = pictures  # its dataclass looks itself up
    specification.loader.exec_module(pictures)
    texts = sorted((ROOT / "docs" / "pictures").glob("*.txt"))
    assert texts
    for text in texts:
        assert pictures.draw(text.read_text(encoding="utf-8")) == text.with_suffix(".svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="is no title"):
        pictures.draw("circle a 0 0 x")
