"""`dicomflow spool` lists what cannot be delivered and puts it back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from spool_files import receive

from dicomflow.edge.spool.folders import Spool
from dicomflow.folders import own_data_folder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Give the spool of a data folder, with two quarantined instances."""
    made = Spool(tmp_path / "spool", fsync=False)
    for number in range(2):
        made.quarantine(receive(made, b"content", number=number), f"reason {number}")
    return made


def test_list_shows_each_instance_with_its_reason(run: Run, tmp_path: Path, spool: Spool):
    """File, reason, peer and association are there, as JSON and as a table."""
    code, output, _ = run("spool", "list", "--data", tmp_path, "--json")
    rows = json.loads(output)
    assert 0 == code
    assert [("reason 0", "10.0.0.1", "a1"), ("reason 1", "10.0.0.1", "a1")] == [
        (row["reason"], row["peer"], row["association"]) for row in rows
    ]
    assert {path.name for path in spool.quarantined.glob("*.dcm")} == {row["file"] for row in rows}
    code, output, _ = run("spool", "list", "--data", tmp_path)
    assert 0 == code
    assert "reason 0" in output
    assert "reason 1" in output


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rescued.dcm", "rescued.dcm"),
        ("b\udcffd.dcm", "b\\xffd.dcm"),
        ("a\n\x1b[31m", "a\\n\\x1b[31m"),
        ("\u00e9", "\u00e9"),
    ],
    ids=["text", "bytes", "controls", "accent"],
)
def test_list_tells_of_a_file_that_nobody_takes(run: Run, tmp_path: Path, name: str, shown: str):
    """With what to do, whether an edge runs or not; any name is valid JSON and does nothing to a terminal."""
    made = Spool(tmp_path / "spool", fsync=False)
    (made.unpacked / name).write_bytes(b"somebody's")
    code, output, _ = run("spool", "list", "--data", tmp_path, "--json")
    (row,) = json.loads(output.encode("utf-8"))
    assert (0, f"received/unpacked/{shown}") == (code, row["file"])
    assert row["reason"].startswith("set aside: its name is none of the edge's")
    assert "dicomflow send" in row["reason"]
    code, output, _ = run("spool", "list", "--data", tmp_path)
    assert 0 == code
    assert "none of the edge's" in output
    assert "\x1b" not in output


def test_list_of_a_spool_without_problems_is_empty(run: Run, tmp_path: Path):
    """Nothing quarantined is no failure."""
    Spool(tmp_path / "spool", fsync=False)
    code, output, _ = run("spool", "list", "--data", tmp_path, "--json")
    assert (0, []) == (code, json.loads(output))


def test_retry_puts_every_instance_back_without_its_reason(run: Run, tmp_path: Path, spool: Spool):
    """What was quarantined is received again, and a second retry finds nothing."""
    code, output, _ = run("spool", "retry", "--data", tmp_path, "--json")
    assert (0, {"released": 2}) == (code, json.loads(output))
    assert [b"content"] * 2 == [file.path.read_bytes() for file in spool.scan_received()]
    assert [] == list(spool.quarantined.iterdir())
    assert "0 instances put back\n" == run("spool", "retry", "--data", tmp_path)[1]


def test_spool_of_an_edge_is_found_by_its_settings(run: Run, tmp_path: Path, spool: Spool):
    """With --config the spool is the one that the settings file names."""
    path = tmp_path / "edge.toml"
    path.write_text(f'name = "site-1"\n[spool]\ndir = "{spool.root}"\n[delivery]\nstore_url = "s3://bucket"\n')
    _, output, _ = run("spool", "list", "--config", path, "--json")
    assert 2 == len(json.loads(output))


@pytest.mark.parametrize("command", ["list", "retry"])
def test_spool_that_is_not_there_is_said_in_one_line(run: Run, tmp_path: Path, command: str):
    """A wrong folder is not made into a spool; no folder at all is the user's own, where there need be none either."""
    code, _, errors = run("spool", command, "--data", tmp_path / "nowhere")
    assert (1, f"dicomflow: there is no spool in {tmp_path / 'nowhere' / 'spool'}\n") == (code, errors)
    assert not (tmp_path / "nowhere").exists()
    code, _, errors = run("spool", command)
    assert (1, f"dicomflow: there is no spool in {own_data_folder() / 'spool'}\n") == (code, errors)
