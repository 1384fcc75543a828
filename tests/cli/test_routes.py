"""`dicomflow routes test`."""

import json
from pathlib import Path
from typing import Any

import pytest

from dicomflow.cli import run
from dicomflow.samples import demo_studies, write

_SETTINGS = """
name = "edge-1"
[spool]
dir = "spool"
[delivery]
store_url = "file:///nowhere"
[destinations.pacs]
host = "127.0.0.1"
port = 104
ae_title = "PACS"
[[routes]]
name = "arterial"
when = {modality = "CT", series_description = "arterial*"}
to = ["pacs", "store"]
[[routes]]
when = {modality = "US", not = {calling_ae_title = "US2"}}
to = ["pacs"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Give the settings of an edge with two routes."""
    path = tmp_path / "edge.toml"
    path.write_text(_SETTINGS)
    return path


def _ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["routes", "test", *arguments, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_files_are_decided_by_their_headers(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file has a line for each destination, with the route or why there is none."""
    write(demo_studies(), tmp_path / "studies")
    rows = _ask(capsys, str(tmp_path / "studies"), "--config", str(config))
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        counted[row["destination"], row["why"]] = counted.get((row["destination"], row["why"]), 0) + 1
    assert counted == {
        ("pacs", "arterial"): 6,
        ("store", "arterial"): 6,
        ("pacs", "route 2"): 1,
        ("store", "no route fits"): 11,
    }
    assert all(row["required"] for row in rows)


def test_titles_are_as_given(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is decided as if its association had been another's; what a destination sent goes not back to it."""
    paths = write(demo_studies(), tmp_path / "studies")
    last = str(paths[-1])
    assert [row["destination"] for row in _ask(capsys, last, "--config", str(config))] == ["pacs"]
    rows = _ask(capsys, last, "--config", str(config), "--calling-ae-title", "US2")
    assert [(row["destination"], row["why"]) for row in rows] == [("store", "no route fits")]
    rows = _ask(capsys, last, "--config", str(config), "--calling-ae-title", "PACS")
    assert [(row["destination"], row["why"]) for row in rows] == [("store", "not to pacs, which sent it")]


def test_what_is_no_instance_is_told_and_the_rest_is_decided(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bad file ends in exit code 1 and costs no other its line."""
    paths = write(demo_studies(), tmp_path / "studies")
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no DICOM")
    assert run(["routes", "test", str(bad), str(paths[-1]), "--config", str(config)]) == 1
    told = capsys.readouterr()
    assert "route 2" in told.out
    assert str(bad) in told.err
