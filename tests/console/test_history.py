"""Edges, their silence, and what the console remembers of the last hour."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import LocalStore
from sqlalchemy import Engine

from dicomflow.bucket.heartbeat import Heartbeat, SeenPeer
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.console.edges import read_edges
from dicomflow.console.history import History

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def beat(name: str, at: datetime, received: int = 0, seen: int = 0) -> Heartbeat:
    """Return a heartbeat."""
    peers = (SeenPeer("CT", "10.0.0.1", seen, at),)
    return Heartbeat(name, "0.1.0", at, "AE", received, 2, 0, 10**12, 0.0, peers)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Give an empty store."""
    return LocalStore(tmp_path / "objects", mkdir=True)


def tell(store: LocalStore, heartbeat: Heartbeat) -> None:
    """Put a heartbeat."""
    store.put(heartbeat_key(heartbeat.edge), heartbeat.to_json())


def test_edge_is_silent_after_three_minutes(store: LocalStore):
    """A heartbeat of just now is a living edge, one of long ago a silent one, rubbish a problem."""
    tell(store, beat("here", NOW - timedelta(seconds=170), received=3))
    tell(store, beat("gone/far", NOW - timedelta(seconds=190)))
    store.put("status/odd.json", b"{}")
    store.put("status/readme.txt", b"no heartbeat")
    gone, here, odd = read_edges(store, NOW)
    assert ("gone/far", True) == (gone.name, gone.is_silent)
    assert ("here", False, 170.0, 5) == (here.name, here.is_silent, here.age_seconds, here.waiting)
    assert (True, None, 0) == (odd.is_silent, odd.heartbeat, odd.waiting)
    assert "not a heartbeat" in (odd.problem or "")


def test_edge_whose_clock_is_ahead_is_not_silent(store: LocalStore):
    """A clock that is wrong is no silence, and no negative age."""
    tell(store, beat("ahead", NOW + timedelta(minutes=10)))
    (edge,) = read_edges(store, NOW)
    assert (False, 0.0) == (edge.is_silent, edge.age_seconds)


def test_history_counts_what_edges_received_between_their_heartbeats(engine: Engine, store: LocalStore):
    """An edge's counter begins at 0 with the edge; the first heartbeat says nothing of when."""
    times = iter([NOW + timedelta(minutes=each) for each in range(4)])
    current = [NOW]
    history = History(engine, store, lambda: current[0])
    for seen, received in ((500, 7), (520, 0), (520, 0), (6, 1)):
        current[0] = next(times)
        tell(store, beat("edge", current[0], received, seen))
        history.sample()
        history.sample()
    assert (0, 20, 0, 6) == history.received(NOW, 4)
    assert [9, 9, 2, 2, 2, 2, 3, 3] == [each["to_deliver"] for each in history.document()]


def test_history_forgets_what_is_older_than_its_window(engine: Engine, store: LocalStore):
    """It stays as small after a year as after an hour."""
    current = [NOW]
    history = History(engine, store, lambda: current[0])
    for number in range(70):
        current[0] = NOW + timedelta(minutes=number)
        tell(store, beat("edge", current[0], 0, number))
        history.sample()
    assert 360 == history._samples.maxlen
    assert len(history._received) <= 61
