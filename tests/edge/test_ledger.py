"""The ledger: what it keeps, and that it can be lost."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomflow.edge.ledger import Ledger, LedgerEntry
from dicomflow.errors import PermanentError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _entry(sop: str = "1.2.1", sha256: str = "aa", delivery: str = "d1", received_at: datetime = NOW) -> LedgerEntry:
    return LedgerEntry(
        sop_instance_uid=sop,
        sha256=sha256,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid="1.2",
        series_instance_uid="1.2.9",
        bytes=1_000,
        association_id="a1",
        calling_ae_title="CT1",
        called_ae_title="DICOMFLOW",
        peer="10.0.0.1",
        received_at=received_at.isoformat(),
        delivery_id=delivery,
        object_key=f"site/{delivery}/1.2/1.2.9/{sop}.dcm",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give where the ledger is."""
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """Give an empty ledger."""
    opened = Ledger(path)
    yield opened
    opened.close()


def test_chain_of_custody_is_kept_over_a_restart(ledger: Ledger, path: Path):
    """Received, stored and imported have their times in the ledger that is opened next."""
    entry = _entry()
    ledger.record_received([entry])
    ledger.record_stored([(entry.object_key, NOW + timedelta(seconds=1))])
    ledger.record_imported([entry.object_key], NOW + timedelta(seconds=2))
    ledger.close()
    again = Ledger(path)
    expected = replace(entry, stored_at="2026-01-02T03:04:06+00:00", imported_at="2026-01-02T03:04:07+00:00")
    assert [expected] == again.find("1.2.1") == again.of_delivery("d1") == list(again.entries())
    again.close()


def test_noted_instance_is_found_before_it_is_written(ledger: Ledger):
    """What was just received is known at once, and once only after the write."""
    ledger.note_received([_entry()])
    assert [_entry()] == ledger.find("1.2.1")
    ledger.write()
    assert [_entry()] == ledger.find("1.2.1") == list(ledger.entries())


def test_instance_delivered_again_has_an_entry_for_each_delivery(ledger: Ledger):
    """The first delivery keeps its entry and its times, stored or not; one that was given up follows its file."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2"), _entry("1.2.3")])
    ledger.record_stored([(_entry("1.2.1").object_key, NOW)])
    ledger.record_problem("1.2.3", "aa", "damaged", "d1")
    ledger.record_received([_entry(f"1.2.{number}", delivery="d2") for number in (1, 2, 3)])
    entries = {uid: ledger.find(uid) for uid in ("1.2.1", "1.2.2", "1.2.3")}
    assert {"1.2.1": ["d1", "d2"], "1.2.2": ["d1", "d2"], "1.2.3": ["d2"]} == {
        uid: [entry.delivery_id for entry in found] for uid, found in entries.items()
    }
    assert [True, False] == [entry.stored_at is not None for entry in entries["1.2.1"]]


def test_problem_of_one_delivery_says_nothing_of_another(ledger: Ledger):
    """A damaged second copy leaves the entry of the first, which is stored, as it is."""
    ledger.record_received([_entry(), _entry(delivery="d2")])
    ledger.record_problem("1.2.1", "aa", "damaged", "d2")
    assert [None, "damaged"] == [entry.problem for entry in ledger.find("1.2.1")]


def test_two_contents_of_one_instance_are_two_entries(ledger: Ledger):
    """Storing one of them says nothing of the other."""
    ledger.record_received([_entry(sha256="aa"), _entry(sha256="bb", delivery="d2")])
    ledger.record_stored([(_entry().object_key, NOW)])
    assert [("aa", True), ("bb", False)] == sorted((each.sha256, bool(each.stored_at)) for each in ledger.find("1.2.1"))


def test_problem_is_forgotten_when_the_instance_comes_again(ledger: Ledger):
    """A retried instance starts without its old reason."""
    ledger.record_received([_entry()])
    ledger.record_problem("1.2.1", "aa", "damaged")
    assert ["damaged"] == [entry.problem for entry in ledger.find("1.2.1")]
    ledger.record_received([_entry()])
    assert [None] == [entry.problem for entry in ledger.find("1.2.1")]


def test_old_entries_go_only_when_they_are_stored(ledger: Ledger):
    """After `ledger_days` what is stored is forgotten; what is not stays whatever its age."""
    old = NOW - timedelta(days=31)
    ledger.record_received([_entry("1.1", received_at=old), _entry("1.2", received_at=old), _entry("1.3")])
    ledger.record_stored([(_entry("1.1").object_key, old), (_entry("1.3").object_key, NOW)])
    assert 1 == ledger.forget_before(NOW, 30)
    assert ["1.2", "1.3"] == [entry.sop_instance_uid for entry in ledger.entries()]


def test_unimported_deliveries_are_those_with_something_left(ledger: Ledger):
    """Neither imported nor unstored nor too old deliveries are asked for."""
    old = NOW - timedelta(days=8)
    entries = [_entry("1.1", delivery="d1"), _entry("1.2", delivery="d2"), _entry("1.3", delivery="d3")]
    entries.append(_entry("1.4", delivery="d4", received_at=old))
    ledger.record_received(entries)
    ledger.record_stored([(entry.object_key, NOW) for entry in entries if entry.delivery_id != "d3"])
    ledger.record_imported([entries[0].object_key], NOW)
    assert ["d2"] == ledger.unimported_deliveries(NOW - timedelta(days=7))


@pytest.mark.parametrize("content", [b"no database", b"no database at all " * 1000])
def test_damaged_ledger_is_put_aside_and_begun_anew(path: Path, content: bytes):
    """What cannot be read is kept for whoever wants to look, and a new ledger works."""
    path.write_bytes(content)
    ledger = Ledger(path)
    ledger.record_received([_entry()])
    assert [_entry()] == ledger.find("1.2.1")
    ledger.close()
    assert [content] == [each.read_bytes() for each in path.parent.glob("ledger.db.damaged-*")]


def test_ledger_of_the_first_layout_keeps_its_entries(ledger: Ledger, path: Path):
    """A ledger from before import problems were kept is taken over whole, and works like a new one."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2")])
    ledger.record_stored([(_entry("1.2.1").object_key, NOW)])
    expected = list(ledger.entries())
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "ALTER TABLE instance RENAME TO later; DROP INDEX instance_delivery; DROP INDEX instance_received;"
            " DROP INDEX instance_unimported;"
        )
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(later)") if name != "import_problem"]
        names = ", ".join(columns)
        connection.executescript(
            f"CREATE TABLE instance ({names}, PRIMARY KEY (sop_instance_uid, sha256)) WITHOUT ROWID;"
            " CREATE INDEX instance_delivery ON instance (delivery_id);"
            " CREATE INDEX instance_received ON instance (received_at);"
            " CREATE INDEX instance_unimported ON instance (received_at, delivery_id)"
            " WHERE stored_at IS NOT NULL AND imported_at IS NULL;"
            f" INSERT INTO instance SELECT {names} FROM later; DROP TABLE later;"
        )
    with contextlib.closing(Ledger(path)) as again:
        assert expected == list(again.entries())
        again.record_received([_entry("1.2.1", delivery="d2")])
        assert 2 == len(again.find("1.2.1"))
    assert [path] == list(path.parent.glob("*.db*"))


def test_locked_ledger_is_not_taken_for_damaged(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody else's lock is an error of the moment: the file stays where it is."""
    monkeypatch.setattr("dicomflow.edge.ledger._BUSY_SECONDS", 0.01)
    ledger.record_received([_entry()])
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            Ledger(path)
    assert [] == list(path.parent.glob("ledger.db.damaged-*"))
    with contextlib.closing(Ledger(path, read_only=True)) as again:
        assert [_entry()] == again.find("1.2.1")


def test_reader_sees_what_the_writer_wrote_and_changes_nothing(ledger: Ledger, path: Path):
    """A command may read while the deliverer has the ledger open."""
    ledger.record_received([_entry()])
    reader = Ledger(path, read_only=True)
    assert [_entry()] == reader.find("1.2.1")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.record_received([_entry("1.2.2")])
    reader.close()


@pytest.mark.parametrize("content", [None, b"no database at all " * 1000])
def test_reader_of_a_missing_or_damaged_ledger_says_so(path: Path, content: bytes | None):
    """Reading neither makes a ledger nor puts one aside."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PermanentError, match="cannot read the ledger"):
        Ledger(path, read_only=True)
    assert content == (path.read_bytes() if path.exists() else None)


def test_what_cannot_be_written_is_kept_for_the_next_time(path: Path, caplog: pytest.LogCaptureFixture):
    """A ledger that is locked for long loses nothing that was noted."""
    ledger = Ledger(path)
    ledger._connection.execute("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.note_received([_entry()])
        ledger.note_stored(_entry().object_key, NOW)
        ledger.write()
        assert [] == list(ledger.entries())
        other.rollback()
    assert ["ledger_not_written"] == [line.getMessage().split()[0] for line in caplog.records]
    ledger.write()
    assert [NOW.isoformat()] == [entry.stored_at for entry in ledger.entries()]
    ledger.close()
