"""What the pipeline tells the edge, read from a folder as store."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore
from waiting import WAIT_SECONDS

from dicomflow.bucket.feedback import FailedObject, Feedback
from dicomflow.bucket.keys import feedback_key
from dicomflow.edge.deliver.feedback import FeedbackReader
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.ledger import Ledger, LedgerEntry

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Place:
    """A ledger and a store between which the reader stands."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "objects", mkdir=True)
        self.ledger = Ledger(folder / "ledger.db")
        self.asked: list[str] = []
        self.uploader = Uploader(lambda: self.store, folder / "objects")
        self.reader = FeedbackReader("site-1", self._fetch, self.ledger)

    async def _fetch(self, key: str) -> bytes | None:
        self.asked.append(key)
        return await self.uploader.fetch(key)

    def stored(self, delivery: str, sop: str) -> str:
        """Record a stored instance; give its key."""
        key = f"site-1/{delivery}/1.2/1.2.9/{sop}.dcm"
        fixed = ("1.2.840", "1.2.840.1", "1.2", "1.2.9", 1, "a1", "CT1", "DICOMFLOW", "10.0.0.1", NOW.isoformat())
        self.ledger.record_received([LedgerEntry(sop, "aa", *fixed, delivery, key)])
        self.ledger.record_stored([(key, NOW)])
        return key

    def tell(self, delivery: str, imported: tuple[str, ...], failed: tuple[FailedObject, ...] = ()) -> None:
        """Put feedback as the pipeline does."""
        feedback = Feedback("site-1", delivery, NOW + timedelta(minutes=5), imported, failed)
        obstore.put(self.store, feedback_key("site-1", delivery), feedback.to_json())

    def read(self) -> int:
        """Read one round."""
        return asyncio.run(self.reader.read(NOW + timedelta(minutes=6)))

    def imported(self) -> dict[str, str | None]:
        """Return when each instance was imported, as the ledger has it."""
        return {entry.sop_instance_uid: entry.imported_at for entry in self.ledger.entries()}

    def import_problems(self) -> dict[str, str | None]:
        """Return why each instance is not imported, as the ledger has it."""
        return {entry.sop_instance_uid: entry.import_problem for entry in self.ledger.entries()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give an empty ledger and an empty store."""
    made = Place(tmp_path)
    yield made
    made.ledger.close()


def test_imported_objects_are_recorded_and_failed_ones_are_not(place: Place):
    """Each object has what the feedback says of it."""
    good, bad = place.stored("d1", "1.1"), place.stored("d1", "1.2")
    place.tell("d1", (good,), (FailedObject(bad, "not DICOM"),))
    assert 1 == place.read()
    assert {"1.1": "2026-01-02T03:09:05+00:00", "1.2": None} == place.imported()


def test_reason_of_a_failed_import_is_kept_until_it_is_imported(place: Place):
    """Why an object is in no image set is in the ledger; after a retry that worked it is forgotten."""
    bad = place.stored("d1", "1.2")
    foreign = place.stored("d2", "1.3")
    place.tell("d1", (), (FailedObject(bad, "not DICOM"), FailedObject(foreign, "said of another delivery")))
    place.read()
    assert {"1.2": "not DICOM", "1.3": None} == place.import_problems()
    place.tell("d1", (bad,))
    assert 1 == place.read()
    assert {"1.2": None, "1.3": None} == place.import_problems()


def test_delivery_without_feedback_is_asked_for_again(place: Place):
    """Feedback that comes later is read later."""
    key = place.stored("d1", "1.1")
    assert 0 == place.read()
    place.tell("d1", (key,))
    assert 1 == place.read()


def test_delivery_that_is_imported_is_not_asked_for_again(place: Place):
    """When the ledger has nothing open, the store is left alone."""
    place.tell("d1", (place.stored("d1", "1.1"),))
    place.read()
    place.asked.clear()
    assert 0 == place.read()
    assert [] == place.asked


def test_many_open_deliveries_are_asked_for_in_turn(place: Place, monkeypatch: pytest.MonkeyPatch):
    """What never comes does not hold up the others, however many they are."""
    monkeypatch.setattr("dicomflow.edge.deliver.feedback._DELIVERIES_A_ROUND", 2)
    for number in range(5):
        place.stored(f"d{number}", f"1.{number}")
    for _ in range(3):
        place.read()
    assert {feedback_key("site-1", f"d{number}") for number in range(5)} == set(place.asked)
    assert 6 == len(place.asked)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": 99}'])
def test_feedback_that_cannot_be_read_is_skipped(place: Place, content: bytes):
    """A foreign object in its place says nothing, and the next delivery is read."""
    place.stored("d1", "1.1")
    obstore.put(place.store, feedback_key("site-1", "d1"), content)
    place.tell("d2", (place.stored("d2", "1.2"),))
    assert 1 == place.read()


def test_feedback_says_nothing_of_other_deliveries(place: Place):
    """Keys outside its delivery are not believed."""
    place.stored("d1", "1.1")
    other = place.stored("d2", "1.2")
    place.tell("d1", (other,))
    assert 0 == place.read()
    assert {"1.1": None, "1.2": None} == place.imported()


def test_store_that_does_not_answer_is_asked_again(place: Place, caplog: pytest.LogCaptureFixture):
    """Following goes on after an error, with a line in the log."""
    place.tell("d1", (place.stored("d1", "1.1"),))
    fetch, errors = place.reader._fetch, [OSError("away"), TimeoutError()]

    async def _fetch(key: str) -> bytes | None:
        if errors:
            raise errors.pop()
        return await fetch(key)

    place.reader._fetch = _fetch

    async def _run() -> None:
        following = asyncio.create_task(place.reader.follow(0.01))
        async with asyncio.timeout(WAIT_SECONDS):
            while not any(place.imported().values()):  # noqa: ASYNC110  # what is waited for is in the ledger
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])

    with place.ledger._connection as connection:  # received just now by the reader's own clock
        connection.execute("UPDATE instance SET received_at = ?", (datetime.now(UTC).isoformat(),))
    asyncio.run(_run())
    expected = ["feedback_not_read error=TimeoutError", "feedback_not_read error=OSError"]
    assert expected == [line.getMessage() for line in caplog.records]


def test_feedback_that_fails_in_an_unknown_way_holds_up_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It is logged with its delivery, and those after it are read in the same round."""
    keys = [place.stored(delivery, f"1.2.{number}") for number, delivery in enumerate(("d1", "d2"))]
    for delivery, key in zip(("d1", "d2"), keys, strict=True):
        place.tell(delivery, (key,))
    original = Feedback.from_json

    def _from_json(content: bytes) -> Feedback:
        if b"/d1/" in content:
            raise ZeroDivisionError
        return original(content)

    monkeypatch.setattr(Feedback, "from_json", _from_json)
    assert 1 == place.read()
    assert "feedback_not_taken delivery=d1" in caplog.text
