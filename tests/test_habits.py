"""Habits that CONTRIBUTING names and no other tool checks: the size of files and functions, and where tests stand."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
MOST_LINES: Final = 400
MOST_LINES_OF_A_FUNCTION: Final = 50

LONG_FILES: Final = {
    "src/dicomflow/catalog/tables.py": "one table after the other",
    "src/dicomflow/edge/supervisor.py": "start, care and stop of the processes, which share their locks",
    "src/dicomflow/healthimaging/client.py": "one call of the service after the other",
}
LONG_FUNCTIONS: Final = {
    "src/dicomflow/catalog/migrations/versions/r0001_pre_first_tables.py": "tables, one after the other",
    "src/dicomflow/catalog/outcomes.py:adopt_outcomes": "one statement",
    "src/dicomflow/console/app.py:create_console": "the table of routes",
    "src/dicomflow/dicom/scan.py:_walk": "the bulk path: a call for each element would cost half of it again",
}


def _sources() -> Iterator[Path]:
    for folder in ("src", "infra", "scripts"):
        yield from (ROOT / folder).rglob("*.py")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_long_files_have_a_reason():
    """A file over 400 lines stands above with why, and none stands there that is short."""
    found = {_name(path) for path in _sources() if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES}
    assert sorted(LONG_FILES) == sorted(found)


def test_long_functions_have_a_reason():
    """So does a function with over 50 lines after its docstring."""
    found = set()
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                if (node.end_lineno or 0) - first.lineno >= MOST_LINES_OF_A_FUNCTION:
                    whole = _name(path)
                    found.add(whole if whole in LONG_FUNCTIONS else f"{whole}:{node.name}")
    assert sorted(LONG_FUNCTIONS) == sorted(found)


def test_each_folder_of_the_program_has_its_tests():
    """What lies in a folder of `src/dicomflow` is tested in the folder of that name, where one looks for it."""
    folders = {path.parent.relative_to(ROOT / "src" / "dicomflow") for path in (ROOT / "src").rglob("*.py")}
    lacking = [
        folder.as_posix()
        for folder in folders
        if folder.name not in {"pages", "versions", "migrations"}
        and not list((ROOT / "tests" / folder).rglob("test_*.py"))
    ]
    assert [] == sorted(lacking)


@pytest.mark.xdist_group("habits")
def test_groups_stay_together(request: pytest.FixtureRequest):
    """pytest-xdist knows the group of a test, or each of its processes would make what one makes for all."""
    assert request.node.nodeid.endswith("@habits") == ("PYTEST_XDIST_WORKER" in os.environ)
