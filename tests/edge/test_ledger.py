"""The ledger: what it keeps, and that it can be lost."""

import contextlib
import os
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
    opened = Ledger(path, store="s3://now")
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
    expected = replace(
        entry, stored_at="2026-01-02T03:04:06+00:00", imported_at="2026-01-02T03:04:07+00:00", store="s3://now"
    )
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
    ledger.note_problem(_entry("1.2.3"), "damaged")
    ledger.write()
    ledger.record_received([_entry(f"1.2.{number}", delivery="d2") for number in (1, 2, 3)])
    entries = {uid: ledger.find(uid) for uid in ("1.2.1", "1.2.2", "1.2.3")}
    assert {"1.2.1": ["d1", "d2"], "1.2.2": ["d1", "d2"], "1.2.3": ["d2"]} == {
        uid: [entry.delivery_id for entry in found] for uid, found in entries.items()
    }
    assert [True, False] == [entry.stored_at is not None for entry in entries["1.2.1"]]


def test_problem_of_one_delivery_says_nothing_of_another(ledger: Ledger):
    """A damaged second copy leaves the entry of the first, which is stored, as it is."""
    ledger.record_received([_entry(), _entry(delivery="d2")])
    ledger.note_problem(_entry(delivery="d2"), "damaged")
    ledger.write()
    assert [None, "damaged"] == [entry.problem for entry in ledger.find("1.2.1")]


def test_two_contents_of_one_instance_are_two_entries(ledger: Ledger):
    """Storing one of them says nothing of the other."""
    ledger.record_received([_entry(sha256="aa"), _entry(sha256="bb", delivery="d2")])
    ledger.record_stored([(_entry().object_key, NOW)])
    assert [("aa", True), ("bb", False)] == sorted((each.sha256, bool(each.stored_at)) for each in ledger.find("1.2.1"))


def test_problem_is_forgotten_when_the_instance_comes_again(ledger: Ledger):
    """A retried instance starts without its old reason."""
    ledger.record_received([_entry()])
    ledger.note_problem(_entry(), "damaged")
    ledger.write()
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_fifo_in_place_of_a_ledgers_file_is_damage(path: Path, suffix: str):
    """Neither the owner nor a reader waits for it; all files are put aside, and a new ledger works."""
    if suffix:
        kept = Ledger(path)
        kept.record_received([_entry()])
        kept.close()
    os.mkfifo(path.with_name(path.name + suffix))
    with pytest.raises(PermanentError, match="it is no regular file"):
        Ledger(path, read_only=True).find("1.2.1")
    ledger = Ledger(path)
    ledger.record_received([_entry(), _entry("1.2.2")])
    assert [_entry("1.2.2")] == ledger.find("1.2.2")
    ledger.close()
    assert list(path.parent.glob(f"ledger.db.damaged-*{suffix}"))


def test_content_that_came_after_the_clock_was_set_back_is_the_last(ledger: Ledger):
    """Of two contents of one instance the one that was gathered last is last, whatever the wall clock said."""
    earlier = replace(_entry(), received_at="2001-01-01T00:00:00+00:00", sha256="f" * 64, delivery_id="d2")
    ledger.record_received([_entry()])
    ledger.record_received([earlier])
    assert [_entry(), earlier] == ledger.find("1.2.1")
    ledger.record_received([_entry()])  # a start takes up what is in the spool
    assert [_entry(), earlier] == ledger.find("1.2.1")


@pytest.mark.parametrize("unknown", [("import_problem", "store"), ("store",), ()])
def test_ledger_of_an_earlier_layout_keeps_its_entries(ledger: Ledger, path: Path, unknown: tuple[str, ...]):
    """A ledger of an earlier version is taken over whole and works like a new one; what it had not is not known."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2")])
    ledger.record_stored([(_entry("1.2.1").object_key, NOW)])
    expected = [replace(entry, store=entry.store if not unknown else None) for entry in ledger.entries()]
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "ALTER TABLE instance RENAME TO later; DROP INDEX instance_delivery; DROP INDEX instance_received;"
            " DROP INDEX instance_unimported;"
        )
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(later)") if name not in unknown]
        names = ", ".join(columns)
        keys = "sop_instance_uid, sha256" + (", delivery_id" if "import_problem" in columns else "")
        connection.executescript(
            f"CREATE TABLE instance ({names}, PRIMARY KEY ({keys})) WITHOUT ROWID;"
            " CREATE INDEX instance_delivery ON instance (delivery_id);"
            " CREATE INDEX instance_received ON instance (received_at);"
            " CREATE INDEX instance_unimported ON instance (received_at, delivery_id)"
            " WHERE stored_at IS NOT NULL AND imported_at IS NULL;"
            f" INSERT INTO instance SELECT {names} FROM later; DROP TABLE later;"
        )
    with contextlib.closing(Ledger(path)) as again:
        assert expected == list(again.entries())
        again.record_received([_entry("1.2.1", delivery="d2")])
        assert ["d1", "d2"] == [entry.delivery_id for entry in again.find("1.2.1")]
    assert [path] == list(path.parent.glob("*.db*"))


def test_locked_ledger_is_not_taken_for_damaged(ledger: Ledger, path: Path):
    """Somebody else's lock is an error of the moment: opening waits for nothing, what is noted is written later."""
    ledger.record_received([_entry()])
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        late = Ledger(path, busy_seconds=0.01)
        late.note_received([_entry("1.2.2")])
        late.write()
        assert not late.is_written
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            late.find("1.2.1")
    late._retry_at = 0
    late.write()
    assert late.is_written
    assert ["1.2.1", "1.2.2"] == [entry.sop_instance_uid for entry in late.entries()]
    late.close()
    assert [] == list(path.parent.glob("ledger.db.damaged-*"))


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
    ledger = Ledger(path, busy_seconds=0.01)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.note_received([_entry()])
        ledger.note_stored(_entry().object_key, NOW)
        ledger.write()
        assert [] == list(ledger.entries())
        other.rollback()
    assert ["ledger_not_written"] == [line.getMessage().split()[0] for line in caplog.records]
    ledger._retry_at = 0
    ledger.write()
    assert [NOW.isoformat()] == [entry.stored_at for entry in ledger.entries()]
    ledger.close()


@contextlib.contextmanager
def _spoiled(ledger: Ledger, path: Path, statement: str) -> Iterator[Ledger]:
    """Spoil what an open ledger has, as a bad disk does, and open it as the next run does, and as the running one."""
    ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute(statement)
    opened = Ledger(path, store="s3://now")
    yield opened
    opened.close()


_SPOILED = [
    *(
        f"UPDATE instance SET {column} = CAST(x'41FF42' AS TEXT) WHERE sop_instance_uid = '1.2.1'"
        for column in ("calling_ae_title", "received_at", "stored_at", "object_key", "peer", "store")
    ),
    "UPDATE instance SET peer = x'FF' WHERE sop_instance_uid = '1.2.1'",
    "UPDATE instance SET peer = NULL WHERE sop_instance_uid = '1.2.1'",
    "UPDATE instance SET bytes = 'many' WHERE sop_instance_uid = '1.2.1'",
    "UPDATE instance SET bytes = 1.5 WHERE sop_instance_uid = '1.2.1'",
]


@pytest.mark.parametrize("statement", _SPOILED)
def test_damage_that_shows_in_a_statement_costs_what_is_damaged(
    ledger: Ledger, path: Path, statement: str, caplog: pytest.LogCaptureFixture
):
    """A text that is none passes every check of the file: it is put aside when it is read, the others are kept."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2")])
    with _spoiled(ledger, path, statement) as spoiled:
        assert not spoiled.take_begun_anew()
        assert [] == spoiled.find("1.2.1")
        assert [_entry("1.2.2")] == spoiled.find("1.2.2")
        assert (True, False) == (spoiled.take_begun_anew(), spoiled.take_begun_anew())
        spoiled.record_received([_entry("1.2.1")])
        assert ["1.2.1", "1.2.2"] == sorted(entry.sop_instance_uid for entry in spoiled.entries())
    assert 1 == len(list(path.parent.glob("ledger.db.damaged-*[0-9]")))
    assert ["ledger_damaged"] == [line.getMessage().split()[0] for line in caplog.records]
    assert "A\\xff" not in caplog.text


def _spoil_index(path: Path) -> None:
    """Change a key in an index, whose page stays well-formed: the row is there, and is not found."""
    content = bytearray(path.read_bytes())
    pages = [at for at in range(0, len(content), 4096) if content[at] == 0x0A]  # leaves of indexes
    (spot,) = [at + content[at : at + 4096].find(b"1.2.30aa") for at in pages if b"1.2.30aa" in content[at : at + 4096]]
    content[spot : spot + 6] = b"1.2.31"
    path.write_bytes(content)


def test_index_that_lacks_a_row_is_damage(ledger: Ledger, path: Path, caplog: pytest.LogCaptureFixture):
    """An instance that it hides was received: with the next start it is known again."""
    ledger.record_received([_entry(f"1.2.{number}") for number in (10, 30, 50)])
    ledger.close()
    _spoil_index(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert [("ok",)] == connection.execute("PRAGMA quick_check").fetchall()
        count = "SELECT count(*) FROM instance WHERE sop_instance_uid = '1.2.30'"
        assert [(0,)] == connection.execute(count).fetchall()
    with contextlib.closing(Ledger(path)) as again:
        assert [_entry("1.2.30")] == again.find("1.2.30")
        assert again.take_begun_anew()
    assert "ledger_damaged" in caplog.text


def test_damage_that_a_reader_finds_is_mended_by_the_owner(ledger: Ledger, path: Path):
    """A reader changes nothing and says what is wrong; the owner, told of it, looks before its next write."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2")])
    with _spoiled(ledger, path, _SPOILED[0]) as spoiled:
        reader = Ledger(path, read_only=True)
        with pytest.raises(PermanentError, match="is damaged"):
            reader.find("1.2.1")
        reader.close()
        spoiled.distrust()
        spoiled.write()
        assert spoiled.take_begun_anew()
        assert ["1.2.2"] == [entry.sop_instance_uid for entry in spoiled.entries()]


def test_schema_that_is_no_text_is_damage(ledger: Ledger, path: Path):
    """SQLite quotes it in its message, which is no text either: Python raises no error of SQLite's then."""
    ledger.record_received([_entry()])
    ledger.close()
    content = path.read_bytes()
    assert b"indexinstance_received" in content
    spoiled = content.replace(b"indexinstance_received", b"index\xfdnstance_received")
    path.write_bytes(spoiled.replace(b"CREATE INDEX instance_received", b"CREATE INDEX instance-received"))
    with pytest.raises(PermanentError, match="cannot read the ledger"):
        Ledger(path, read_only=True)
    with contextlib.closing(Ledger(path)) as again:
        again.record_received([_entry("1.2.2")])
        assert "1.2.2" in [entry.sop_instance_uid for entry in again.entries()]
    assert 1 == len(list(path.parent.glob("ledger.db.damaged-*[0-9]")))


def test_ledger_that_is_removed_under_its_owner_is_begun_anew(ledger: Ledger, path: Path):
    """What is written into a file without a name nobody would find: the owner makes a new one, to be filled."""
    ledger.record_received([_entry("1.2.1")])
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    ledger.note_received([_entry("1.2.2")])
    ledger.write()
    assert ledger.take_begun_anew()
    with contextlib.closing(Ledger(path, read_only=True)) as reader:
        assert ["1.2.2"] == [entry.sop_instance_uid for entry in reader.entries()]
    assert [] == list(path.parent.glob("ledger.db.damaged-*"))


def test_object_that_another_store_takes_has_that_store_from_then_on(ledger: Ledger, path: Path):
    """Put into the store that is configured now, an object that another one had is noted anew; a repeat is not."""
    ledger.record_received([_entry()])
    ledger.record_stored([(_entry().object_key, NOW)])
    ledger.record_stored([(_entry().object_key, NOW + timedelta(seconds=5))])
    assert [("s3://now", NOW.isoformat())] == [(each.store, each.stored_at) for each in ledger.entries()]
    ledger.close()
    with contextlib.closing(Ledger(path, store="s3://next")) as again:
        again.note_stored(_entry().object_key, NOW + timedelta(seconds=9))
        again.write()
        assert [("s3://next", "2026-01-02T03:04:14+00:00")] == [(e.store, e.stored_at) for e in again.entries()]


@pytest.mark.parametrize(
    ("uid", "left"), [("1.2.1", ["1.2.2"]), ("1.2.9", []), ("1.2", []), ("1.9", ["1.2.1", "1.2.2"])]
)
def test_forgotten_entries_are_those_of_an_instance_series_or_study(ledger: Ledger, uid: str, left: list[str]):
    """What is stored and is meant goes; what waits in the spool stays."""
    ledger.record_received([_entry("1.2.1"), _entry("1.2.2"), _entry("1.2.3")])
    ledger.record_stored([(_entry(sop).object_key, NOW) for sop in ("1.2.1", "1.2.2")])
    assert 2 - len(left) == ledger.forget([uid])
    assert [*left, "1.2.3"] == [entry.sop_instance_uid for entry in ledger.entries()]
    assert len(left) == ledger.forget_all()
