"""`dicomflow ledger` shows the chain of custody and compares objects with their digests."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from dicomflow.catalog import tables
from dicomflow.catalog.engine import create_engine_for
from dicomflow.edge.ledger import LEDGER_FILE, Ledger, LedgerEntry

Run = Callable[..., tuple[int, str, str]]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENTS = {"1.2.1": b"first", "1.2.2": b"second", "1.2.3": b"third"}


def _key(sop: str, delivery: str = "d1") -> str:
    return f"site/{delivery}/1.2/1.2.9/{sop}.dcm"


def _entry(sop: str, content: bytes, delivery: str = "d1") -> LedgerEntry:
    fixed = ("1.2.840", "1.2.840.1", "1.2", "1.2.9", len(content), "a1", "CT1", "DICOMFLOW", "10.0.0.1")
    return LedgerEntry(sop, hashlib.sha256(content).hexdigest(), *fixed, NOW.isoformat(), delivery, _key(sop, delivery))


@pytest.fixture
def delivered(data: Path) -> Path:
    """Give a data folder with an empty catalog, three stored objects, and the ledger of them."""
    (data / "spool").mkdir()
    ledger = Ledger(data / "spool" / LEDGER_FILE)
    for sop, content in CONTENTS.items():
        ledger.record_received([_entry(sop, content)])
        path = data / "objects" / _key(sop)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    ledger.record_stored([(_key(sop), NOW) for sop in CONTENTS])
    ledger.record_received([_entry("1.2.4", b"on its way")])
    ledger.close()
    return data


def test_show_prints_the_chain_of_custody(run: Run, delivered: Path):
    """From whom, when, the digest, where and since when it is stored; as JSON and as text."""
    code, output, _ = run("ledger", "show", "1.2.1", "--data", delivered, "--json")
    (row,) = json.loads(output)
    assert 0 == code
    assert ("CT1", "10.0.0.1", hashlib.sha256(b"first").hexdigest(), _key("1.2.1"), NOW.isoformat(), None) == (
        row["calling_ae_title"],
        row["peer"],
        row["sha256"],
        row["object_key"],
        row["stored_at"],
        row["imported_at"],
    )
    _, output, _ = run("ledger", "show", "1.2.1", "--data", delivered)
    assert f"object key            {_key('1.2.1')}\n" in output
    assert "imported at           -\n" in output


def test_show_adds_what_the_catalog_knows(run: Run, delivered: Path):
    """Indexed and imported are the catalog's word, the last job's outcome counting."""
    engine = create_engine_for(f"sqlite:///{delivered / 'catalog.db'}")
    key = _key("1.2.1")
    with engine.begin() as connection:
        connection.execute(insert(tables.stored_object).values(object_key=key, indexed_at=NOW))
        for number, outcome, image_set in [(1, "failed", None), (2, "imported", "i" * 32)]:
            connection.execute(
                insert(tables.import_job).values(
                    import_job_id=number,
                    client_token=str(number),
                    job_name="job",
                    datastore_id="d",
                    input_s3_uri="s3://b/i/",
                    output_s3_uri="s3://b/o/",
                    state="completed",
                    created_at=NOW,
                    updated_at=NOW,
                )
            )
            connection.execute(
                insert(tables.import_outcome).values(
                    object_key=key, import_job_id=number, outcome=outcome, image_set_id=image_set
                )
            )
    engine.dispose()
    _, output, _ = run("ledger", "show", "1.2.1", "--data", delivered, "--json")
    (row,) = json.loads(output)
    assert (NOW.isoformat(), "imported", "i" * 32) == (row["indexed_at"], row["import_outcome"], row["image_set_id"])
    _, output, _ = run("ledger", "show", "1.2.2", "--data", delivered, "--json")
    assert "indexed_at" not in json.loads(output)[0]


@pytest.mark.parametrize("catalog", ["missing", "without a schema"])
def test_show_without_a_catalog_shows_the_ledger(run: Run, delivered: Path, catalog: str):
    """A catalog that cannot be asked takes nothing from what the edge itself knows."""
    for path in delivered.glob("catalog.db*"):
        path.unlink()
    if catalog != "missing":
        (delivered / "catalog.db").write_bytes(b"")
    code, output, errors = run("ledger", "show", "1.2.1", "--data", delivered, "--json")
    assert (0, "1.2.1") == (code, json.loads(output)[0]["sop_instance_uid"])
    assert (catalog != "missing") == ("the catalog is not shown" in errors)


def test_show_flags_other_bytes_under_one_uid(run: Run, delivered: Path):
    """Both contents are shown, and that there are two is said first."""
    ledger = Ledger(delivered / "spool" / LEDGER_FILE)
    ledger.record_received([_entry("1.2.1", b"changed", "d2")])
    ledger.close()
    _, output, _ = run("ledger", "show", "1.2.1", "--data", delivered)
    assert output.startswith("2 different contents were received under this UID\n")
    assert output.count("sha256 ") == 2


def test_show_of_an_instance_delivered_twice_shows_both(run: Run, delivered: Path):
    """One content in two deliveries is no second content, and why one of them is not imported is shown."""
    ledger = Ledger(delivered / "spool" / LEDGER_FILE)
    (first,) = ledger.find("1.2.1")
    ledger.record_received([replace(first, delivery_id="d2", object_key=_key("1.2.1", "d2"), stored_at=None)])
    ledger.record_not_imported([(_key("1.2.1", "d2"), "the pixel data is too short")])
    ledger.close()
    _, output, _ = run("ledger", "show", "1.2.1", "--data", delivered)
    assert output.startswith("it is part of 2 deliveries\n")
    assert ["-", "the pixel data is too short"] == [
        line.removeprefix("import problem").strip() for line in output.splitlines() if line.startswith("import problem")
    ]


def test_show_of_an_unknown_instance_fails(run: Run, delivered: Path):
    """An instance that was never received is said so, with exit code 1."""
    code, _, errors = run("ledger", "show", "9.9", "--data", delivered)
    assert (1, "dicomflow: the ledger has no instance 9.9\n") == (code, errors)


def test_verify_of_whole_objects_succeeds(run: Run, delivered: Path):
    """Every stored object is read and has its digest; what is on its way is not asked for."""
    assert (0, "3 of 3 objects are what was received\n", "") == run("ledger", "verify", "--data", delivered)


def test_verify_finds_missing_and_changed_objects(run: Run, delivered: Path):
    """A missing object and a changed one are named, and the exit code is 1."""
    (delivered / "objects" / _key("1.2.1")).unlink()
    (delivered / "objects" / _key("1.2.3")).write_bytes(b"THIRD")
    code, output, _ = run("ledger", "verify", "--data", delivered, "--json")
    problems = {row["object_key"]: row["problem"] for row in json.loads(output)}
    assert 1 == code
    assert {_key("1.2.1"), _key("1.2.3")} == set(problems)
    assert "the object is not in the store" == problems[_key("1.2.1")]
    assert problems[_key("1.2.3")].startswith(f"SHA-256 is {hashlib.sha256(b'THIRD').hexdigest()}")
    code, output, _ = run("ledger", "verify", "--data", delivered)
    assert (1, True) == (code, output.endswith("1 of 3 objects are what was received\n"))


@pytest.mark.parametrize("command", [("show", "1.2.1"), ("verify",)])
def test_ledger_that_is_not_there_is_said_and_not_made(run: Run, data: Path, command: tuple[str, ...]):
    """A spool that nothing was delivered from has no ledger, and asking makes none."""
    (data / "spool").mkdir()
    code, _, errors = run("ledger", *command, "--data", data)
    assert 1 == code
    assert "cannot read the ledger" in errors
    assert not (data / "spool" / LEDGER_FILE).exists()


@pytest.mark.parametrize(("what", "code", "left"), [("1.2.2", 0, 3), ("1.2", 0, 1), ("--all", 0, 1), ("1.9", 1, 4)])
def test_forget_removes_what_is_stored(run: Run, delivered: Path, what: str, code: int, left: int):
    """An instance, a study or all of it; what waits stays, and nothing to forget is told apart."""
    found, output, _ = run("ledger", "forget", what, "--data", delivered)
    assert (code, f"{4 - left} entries forgotten") == (found, output.strip())
    ledger = Ledger(delivered / "spool" / LEDGER_FILE)
    assert left == len(ledger.entries())
    ledger.close()


@pytest.mark.parametrize("arguments", [(), ("1.2.1", "--all")])
def test_forget_asks_what(run: Run, delivered: Path, arguments: tuple[str, ...]):
    """Neither nothing nor both: everything is forgotten only when that is said."""
    code, _, errors = run("ledger", "forget", *arguments, "--data", delivered)
    assert 0 != code
    assert "name UIDs, or --all" in errors
