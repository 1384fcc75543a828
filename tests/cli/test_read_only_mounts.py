"""A spool, store and data folder on a volume that is mounted read-only: who looks is answered, and nothing is made."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spool_files import receive

from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.spool.folders import Spool

Run = Callable[..., tuple[int, str, str]]
READING: dict[str, str] = {
    "status --json --data {data}": '"instances": 0',
    "spool list --config {config}": "the reason",
    "spool list --data {data}": "0 rows",
    "ledger show 1.2.3 --config {config}": "the ledger has no instance",
    "ledger verify --config {config}": "0 of 0",
    "commitments list --config {config}": "0 rows",
    "catalog problems --data {data}": "0 rows",
    "imports list --data {data}": "0 rows",
    "query --data {data} SELECT+1": "1 row",
    "doctor --quick --config {config}": "mount -o remount,rw",
    "doctor --quick --data {data}": "mount -o remount,rw",
}
# Its own names of what is mounted, which go with it; `$0` is mounted on itself, and that read-only.
ENTER = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
CALLS = """
import contextlib, io, json, sys
from dicomflow import cli
told = {}
for call in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
        code = cli.run(call)
    told[" ".join(call)] = code, text.getvalue()
json.dump(told, sys.stdout)
"""


@pytest.fixture
def volume(tmp_path: Path, run: Run) -> Path:
    """Give a folder with a site's spool, and with a data folder."""
    volume = tmp_path / "volume"
    spool = Spool(volume / "spool", fsync=False)
    spool.quarantine(receive(spool, b"content"), "the reason")
    Ledger(spool.root / LEDGER_FILE).close()
    (volume / "objects").mkdir()
    (volume / "edge.toml").write_text(
        f'name = "site-1"\nhttp_port = 0\n[dimse]\nport = 0\nbind = "127.0.0.1"\n[spool]\ndir = "{spool.root}"\n'
        f'[delivery]\nstore_url = "{(volume / "objects").as_uri()}"\n'
    )
    assert 0 == run("migrate", "--data", volume / "data")[0]
    Spool(volume / "data" / "spool", fsync=False)
    (volume / "data" / "objects").mkdir(exist_ok=True)
    return volume


def _in_read_only(volume: Path, calls: list[list[str]]) -> dict[str, Any]:
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, volume, sys.executable, "-c", CALLS],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode and "mount" in done.stderr.splitlines()[-1]:
        pytest.skip("nothing may be mounted here")
    assert 0 == done.returncode, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.skipif(
    shutil.which("unshare") is None or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts"
)
def test_reading_commands_on_a_read_only_volume_answer_and_make_nothing(volume: Path):
    """Each answers as ever, and doctor says what to do; no folder, no lock, no file of a database."""
    calls = {
        name: [part.format(data=volume / "data", config=volume / "edge.toml") for part in name.split()]
        for name in READING
    }
    before = {path: path.stat().st_mtime_ns for path in volume.rglob("*")}
    told = _in_read_only(volume, list(calls.values()))
    assert before == {path: path.stat().st_mtime_ns for path in volume.rglob("*")}
    for name, answer in READING.items():
        code, text = told[" ".join(calls[name])]
        assert (answer in text, "internal error" in text, "chown" in text) == (True, False, False), (name, code, text)
