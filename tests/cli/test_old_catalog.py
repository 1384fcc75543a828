"""A catalog as commit 498dcf6 wrote it is taken over.

`tests/data/498dcf6-local.tar.xz` is of a folder of that commit's `dicomflow local`, after it had received a CT study of
two series of two images from `samples.ct_study(7, series=2, slices=2, side=16)` and imported both series: its
`catalog.db`, and its `objects` with images, manifest, feedback and the results of the imports.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ARCHIVE = Path(__file__).parents[1] / "data" / "498dcf6-local.tar.xz"
ROWS = {"Patient": 1, "Study": 1, "Series": 2, "Instance": 4, "Ahlijob": 2, "Ahliimageset": 2}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give the old folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def _rows(run: Run, data: Path) -> dict[str, list[Any]]:
    found = {}
    for table in ROWS:
        code, output, errors = run("query", "--data", data, f"SELECT * FROM {table}", "--json")
        assert 0 == code, errors
        found[table] = json.loads(output)
    return found


def test_old_catalog_is_migrated_with_all_its_rows(run: Run, old: Path):
    """What was imported is imported still, and a rebuild from the objects finds the same."""
    assert 0 == run("migrate", "--data", old)[0]
    rows = _rows(run, old)
    assert ROWS == {table: len(found) for table, found in rows.items()}
    code, output, _ = run("status", "--data", old, "--json")
    counts = json.loads(output)
    assert (0, 4, 2) == (code, counts["instances"], counts["image_sets"])
    assert 2 == counts["imports"].pop("completed")
    assert not any(counts["imports"].values())
    (old / "catalog.db").unlink()
    assert 0 == run("migrate", "--data", old)[0]
    code, output, errors = run("catalog", "rebuild", "--data", old)
    assert 0 == code, output + errors
    again = _rows(run, old)
    assert ROWS == {table: len(found) for table, found in again.items()}
    assert _ids(rows) == _ids(again)


def _ids(rows: dict[str, list[Any]]) -> set[str]:
    return {row["imagesetid"] for row in rows["Ahliimageset"]}
