"""Fuzz targets of what an edge keeps and is told: ledgers, requests, feedback, spoiled in every way, stop nothing.

DICOMFLOW_FUZZ_EXAMPLES is the number of inputs for each target, DICOMFLOW_FUZZ_SEED makes a run different.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from spoiling import spoil_bytes, spoil_document

from dicomflow.bucket.feedback import FailedObject, Feedback
from dicomflow.dicom.references import Reference
from dicomflow.edge.commitment.reporter import Reporter
from dicomflow.edge.commitment.requests import CommitmentRequest, Commitments, count_requests, make_report
from dicomflow.edge.deliver.feedback import FeedbackReader
from dicomflow.edge.ledger import Ledger, LedgerEntry
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings
from dicomflow.errors import PermanentError

EXAMPLES: Final = int(os.environ.get("DICOMFLOW_FUZZ_EXAMPLES", "100"))
SEED: Final = int(os.environ.get("DICOMFLOW_FUZZ_SEED", "1"))
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STORE: Final = "s3://bucket"
FILES: Final = ("", "-wal", "-shm")
COLUMNS: Final = tuple(field.name for field in fields(LedgerEntry))
ODD: Final = (
    "CAST(x'41FF42' AS TEXT)",
    "x'00FF'",
    "''",
    "NULL",
    "-1",
    "9223372036854775807",
    "1.5",
    "1e999",
    "'../..'",
    "char(0)",
    "char(55296)",
    "'\u00e4\u4e2d'",
    "'9999-99-99T99:99:99'",
    "zeroblob(70000)",
)


def _entry(number: int, delivery: str = "d1") -> LedgerEntry:
    uid = f"1.2.{number}"
    fixed = ("1.2.840", "1.2.840.1", "1.2", "1.2.9", 1000, "a1", "CT1", "DICOMFLOW", "10.0.0.1", NOW.isoformat())
    return LedgerEntry(uid, f"{number:064x}", *fixed, delivery, f"site/{delivery}/1.2/1.2.9/{uid}.dcm")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give the three files of a ledger in use: some pages are in the file, some in the log."""
    path = tmp_path_factory.mktemp("clean") / "ledger.db"
    ledger = Ledger(path, store=STORE)
    ledger.record_received(_entry(number) for number in range(40))
    ledger.record_stored([(_entry(number).object_key, NOW) for number in range(30)])
    ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]  # it is open
    ledger.record_imported([_entry(number).object_key for number in range(20)], NOW)
    found = {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in FILES}
    ledger.close()
    return found


def _spoil_files(path: Path, clean: dict[str, bytes], chance: random.Random) -> None:
    hit = chance.choice([("",), ("-wal",), ("-shm",), ("", "-wal"), FILES])
    for suffix, content in clean.items():
        path.with_name(path.name + suffix).write_bytes(spoil_bytes(content, chance) if suffix in hit else content)


def _spoil_rows(path: Path, clean: dict[str, bytes], chance: random.Random) -> None:
    for suffix, content in clean.items():
        path.with_name(path.name + suffix).write_bytes(content)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for _ in range(chance.randint(1, 4)):
            column, value, uid = chance.choice(COLUMNS), chance.choice(ODD), f"1.2.{chance.randrange(40)}"
            with contextlib.suppress(sqlite3.Error):
                connection.execute(f"UPDATE instance SET {column} = {value} WHERE sop_instance_uid = ?", (uid,))  # ours


def _use(ledger: Ledger) -> None:
    """Do all that the deliverer and a report do with a ledger, and see that what is noted now is in it then."""
    ledger.note_received([_entry(number, "d2") for number in (1, 77)])
    ledger.note_stored(_entry(77, "d2").object_key, NOW)
    ledger.note_problem(_entry(1, "d2"), "damaged")
    ledger.write()
    for number in (1, 35, 77):
        ledger.find(f"1.2.{number}")
    ledger.of_delivery("d1")
    ledger.unimported_deliveries(NOW - timedelta(days=1))
    ledger.record_imported([_entry(2).object_key], NOW)
    ledger.record_not_imported([(_entry(3).object_key, "reason")])
    ledger.forget_before(NOW, 1)
    ledger.distrust()
    ledger.write()
    ledger.entries()
    request = CommitmentRequest("1.9", "CT1", "EDGE", (Reference("1.2.840", "1.2.5"),), 0.0)
    make_report(request, ledger, CommitmentSettings(), 1e6, None, 1e6)


@pytest.mark.parametrize("spoil", [_spoil_files, _spoil_rows])
def test_spoiled_ledger_stops_nothing(
    tmp_path: Path, clean: dict[str, bytes], spoil: Callable[..., None], restore_level: None
):
    """Whatever is wrong with its files or its rows, a ledger is used to the end, and knows what comes from then on."""
    del restore_level
    for number in range(EXAMPLES // 2):
        chance = random.Random(f"{SEED} {spoil.__name__} {number}")  # a test's
        for left in tmp_path.iterdir():
            left.unlink()
        path = tmp_path / "ledger.db"
        spoil(path, clean, chance)
        with contextlib.closing(Ledger(path, store=STORE, busy_seconds=0.0)) as ledger:
            _use(ledger)
            known = {entry.delivery_id: entry for entry in ledger.find("1.2.77")}
            if ledger.take_begun_anew() and "d2" not in known:  # it was noted before the damage showed
                ledger.record_received([_entry(77, "d2")])
                known = {entry.delivery_id: entry for entry in ledger.find("1.2.77")}
            assert known["d2"].object_key == _entry(77, "d2").object_key, f"seed {SEED} number {number}"


@pytest.fixture
def restore_level() -> Iterator[None]:
    """Keep thousands of expected lines out of the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


FEEDBACK: Final = Feedback(
    "site",
    "d1",
    NOW,
    tuple(_entry(number).object_key for number in range(5)),
    tuple(FailedObject(_entry(number).object_key, "not readable") for number in range(5, 8)),
)


def test_spoiled_feedback_stops_nothing(tmp_path: Path, restore_level: None):
    """It is taken or it is left, each object of it for its own delivery only; the next delivery's is taken."""
    del restore_level
    with contextlib.closing(Ledger(tmp_path / "ledger.db", store=STORE)) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")  # type: ignore[union-attr]  # it is open
        others = [_entry(number, "d2") for number in range(8)]
        ledger.record_received([*(_entry(number) for number in range(8)), *others])
        reader = FeedbackReader("site", _never, ledger)
        document = json.loads(FEEDBACK.to_json())
        for number in range(EXAMPLES):
            content = spoil_document(document, random.Random(f"{SEED} {number}"))  # a test's
            reader._take("d1", content)
            with contextlib.suppress(PermanentError):
                Feedback.from_json(content)
        assert others == ledger.of_delivery("d2")
        assert 5 == reader._take("d1", FEEDBACK.to_json())
        ledger.record_received([replace(each, delivery_id="d3") for each in others])


def test_spoiled_commitment_request_holds_up_no_other(tmp_path: Path, restore_level: None):
    """It is reported as it says, or set aside; the next one of the same peer is reported."""
    del restore_level
    commitments = Commitments(tmp_path, fsync=False)
    kept = CommitmentRequest("1.9", "CT1", "EDGE", tuple(Reference("1.2", f"1.3.{n}") for n in range(4)), 1e6)
    other = replace(kept, transaction_uid="1.10")
    peers = {"CT1": CommitmentPeer(host="127.0.0.1", port=1, without_role=True)}
    settings = CommitmentSettings(level="spooled", settle_seconds=0, report_days=1e-9, peers=peers)
    for number in range(EXAMPLES):
        for request in (kept, other):
            commitments.add(request)
        (path,) = (tmp_path / "commitments").glob("1.9_*.json")
        chance = random.Random(f"{SEED} {number}")  # a test's
        path.write_bytes(spoil_document(json.loads(path.read_bytes()), chance))
        with contextlib.closing(Ledger(tmp_path / "ledger.db", store=STORE)) as ledger:
            Reporter(commitments, ledger, settings).run_due()
        left = {each.transaction_uid: each for each in commitments.open_requests()}
        assert left["1.10"].undelivered, f"seed {SEED} number {number}"
        assert all(datetime.fromtimestamp(each.requested_at, UTC) for each in left.values())  # as it is listed
        assert count_requests(tmp_path)["open"] == sum(not each.undelivered for each in left.values())
        shutil.rmtree(tmp_path / "commitments")


async def _never(_: str) -> bytes | None:
    raise AssertionError("nothing is fetched here")
