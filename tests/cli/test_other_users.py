"""Commands that another user than the edge's runs, root for one: who looks creates nothing, who writes sets no trap."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spool_files import receive

from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.spool.folders import Spool

Run = Callable[..., tuple[int, str, str]]
Tree = dict[str, tuple[int, int, int]]
NOBODY = 65534
READING = (
    ("spool", "list", "--config", "{config}"),
    ("spool", "list", "--json", "--config", "{config}"),
    ("ledger", "show", "1.2.3", "--config", "{config}"),
    ("ledger", "verify", "--config", "{config}"),
    ("doctor", "--quick", "--config", "{config}"),
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Give the folder of a stopped edge with something in quarantine, all of it another user's where root runs this."""
    spool = Spool(tmp_path / "spool", fsync=False)
    spool.quarantine(receive(spool, b"content"), "reason")
    Ledger(spool.root / LEDGER_FILE).close()
    (tmp_path / "objects").mkdir()
    (tmp_path / "edge.toml").write_text(
        f'name = "site-1"\nhttp_port = 0\n[dimse]\nport = 0\nbind = "127.0.0.1"\n[spool]\ndir = "{spool.root}"\n'
        f'slow_below_bytes = 0\nrefuse_below_bytes = 0\n[delivery]\nstore_url = "{(tmp_path / "objects").as_uri()}"\n'
    )
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    return tmp_path


@pytest.fixture(params=[0o077, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run with the umask of one who is careful, and of one who is not."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def _tree(root: Path) -> Tree:
    """Return what is there: whose it is, who may use it, and which file it is."""
    found = {path: path.lstat() for path in root.rglob("*")}
    return {str(path): (each.st_uid, each.st_mode, each.st_ino) for path, each in found.items()}


def test_reading_commands_leave_everything_as_it_was(run: Run, site: Path, umask: None):
    """Not a folder, not a lock, not a file of the database beside it."""
    before = _tree(site)
    for command in READING:
        run(*(each.format(config=site / "edge.toml") for each in command))
        assert before == _tree(site), command


def test_doctor_makes_no_folder_that_the_edge_is_to_make(run: Run, site: Path, umask: None):
    """Before the first start it says that there is none yet, and what is made later is the edge's."""
    config = site / "edge.toml"
    config.write_text(config.read_text().replace("/spool", "/new/spool").replace("/objects", "/new/objects"))
    before = _tree(site)
    code, output, _ = run("doctor", "--quick", "--json", "--config", config)
    findings = {each["name"]: each for each in json.loads(output)}
    assert (0, "ok") == (code, findings["spool folder"]["state"]), findings
    assert "is not there yet" in findings["spool folder"]["text"]
    assert before == _tree(site)


def test_doctor_finds_what_another_user_has_left(run: Run, site: Path):
    """The edge cannot use it, and the finding says how to mend it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's files")
    (site / "spool" / "received" / "retried").mkdir(mode=0o700)
    code, output, _ = run("doctor", "--quick", "--json", "--config", site / "edge.toml")
    (finding,) = (each for each in json.loads(output) if each["name"] == "spool owner")
    assert (1, "failed") == (code, finding["state"])
    assert "received/retried" in finding["text"]


def test_writing_commands_leave_the_spool_to_its_owner(run: Run, site: Path, umask: None):
    """What they make belongs to whom the spool belongs."""
    owner = site.stat().st_uid
    assert 0 == run("spool", "retry", "--config", site / "edge.toml")[0]
    assert {owner} == {uid for uid, _, _ in _tree(site).values()}
    assert 1 == len(list(Spool(site / "spool", make=False).scan_received()))
    assert 1 == run("ledger", "forget", "--all", "--config", site / "edge.toml")[0]
    assert {owner} == {uid for uid, _, _ in _tree(site).values()}


def test_ledger_of_a_running_edge_is_read_with_what_was_not_moved_yet(site: Path):
    """Its log is there, and is read too."""
    path = site / "spool" / LEDGER_FILE
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO instance (sop_instance_uid, sha256, delivery_id) VALUES ('1', '2', '3')")
    writer.commit()
    before = _tree(site)
    reader = Ledger(path, read_only=True)
    assert (
        1
        == sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True).execute("SELECT count(*) FROM instance").fetchone()[0]
    )
    reader.close()
    assert before == _tree(site)
    writer.close()


def test_users_file_stays_its_owners(run: Run, site: Path, umask: None, monkeypatch: pytest.MonkeyPatch):
    """The edge could read it before root put a line into it, and can afterwards."""
    import io

    path = site / "users"
    for name in ("ct1", "ct2"):
        monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
        assert 0 == run("users", "hash", name, "--file", path)[0]
        assert (site.stat().st_uid, 0o600) == (path.stat().st_uid, path.stat().st_mode & 0o777)
