"""What the edge tells of itself, and when."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from spool_files import receive
from waiting import WAIT_SECONDS

from dicomflow import __version__
from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.deliver.heartbeat import Heartbeats
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, Source, SpoolSettings
from dicomflow.edge.spool.compared import note_compared
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.network.settings import DimseSettings

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class Store:
    """Keeps what is put, or refuses it."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, Heartbeat]] = []
        self.is_away = False
        self.refused = 0

    async def put(self, key: str, content: bytes) -> None:
        """Store one object."""
        if self.is_away:
            self.refused += 1
            raise ConnectionError("no route to host")
        self.puts.append((key, Heartbeat.from_json(content)))

    async def fetch(self, key: str) -> bytes | None:
        """Return the last one."""
        return next((each.to_json() for stored, each in reversed(self.puts) if stored == key), None)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now


@pytest.fixture
def store() -> Store:
    """Give a store in memory."""
    return Store()


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands."""
    return Clock()


@pytest.fixture
def heartbeats(spool: Spool, store: Store, clock: Clock) -> Heartbeats:
    """Give the heartbeats of an edge with an empty spool."""
    settings = EdgeSettings(
        name="site-1",
        dimse=DimseSettings(ae_title="EDGE"),
        spool=SpoolSettings(dir=spool.root),
        delivery=DeliverySettings(store_url="file:///unused"),
    )
    return Heartbeats(settings, spool.aside, store.put, store.fetch, lambda: False, clock)


def test_beat_idle_edge_tells_once_a_minute(heartbeats: Heartbeats, store: Store, clock: Clock):
    """The first look puts a heartbeat, the next only when a minute has passed."""
    beats = []
    for seconds in (0, 30, 59, 60, 90, 120):
        clock.now = START + timedelta(seconds=seconds)
        beats.append(asyncio.run(heartbeats.beat()))
    assert [True, False, False, True, False, True] == beats
    key, heartbeat = store.puts[0]
    assert "status/site-1.json" == key
    assert heartbeat.free_bytes > 0
    assert ("site-1", __version__, START, "EDGE", 0, 0, 0, 0.0, ()) == (
        heartbeat.edge,
        heartbeat.version,
        heartbeat.at,
        heartbeat.ae_title,
        heartbeat.received,
        heartbeat.delivering,
        heartbeat.quarantined,
        heartbeat.oldest_seconds,
        heartbeat.peers,
    )


def test_beat_another_edge_of_the_name_is_told(
    heartbeats: Heartbeats, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
):
    """Who finds another's heartbeat where its own was says so, but for one that comes late from a run before."""

    def _beat(*, meets: str | None) -> bool:
        clock.now += timedelta(seconds=60)
        if meets is not None:
            store.puts.append(("status/site-1.json", replace(store.puts[-1][1], run=meets)))
        assert asyncio.run(heartbeats.beat())
        return store.puts[-1][1].is_shared

    assert asyncio.run(heartbeats.beat())
    assert [False] * 3 == [_beat(meets=None), _beat(meets="before"), _beat(meets=None)]
    assert [False, True, True] == [_beat(meets=run) for run in ("other", "other", "")]
    assert 1 == caplog.text.count("edge_name_shared name=site-1")
    assert not _beat(meets=None)


def test_beat_that_cannot_look_for_another_edge_is_put(heartbeats: Heartbeats, store: Store, clock: Clock):
    """A store that takes and does not give hears of the edge."""

    async def _refuse(_key: str) -> bytes | None:
        raise ConnectionError("reset")

    heartbeats._fetch = _refuse
    for _ in range(2):
        clock.now += timedelta(seconds=60)
        assert asyncio.run(heartbeats.beat())
    assert 2 == len(store.puts)


def test_beat_something_received_tells_at_once(
    heartbeats: Heartbeats, store: Store, spool: Spool, part10: Callable[..., bytes]
):
    """Work that begins, work that ends and an instance that is quarantined are each told without waiting."""
    asyncio.run(heartbeats.beat())
    received = receive(spool, part10("1.2.3"))
    assert asyncio.run(heartbeats.beat())
    spool.quarantine(received, "no reason")
    assert asyncio.run(heartbeats.beat())
    assert not asyncio.run(heartbeats.beat())
    assert [(0, 0), (1, 0), (0, 1)] == [(each.received, each.quarantined) for _, each in store.puts]


def test_beat_new_peer_is_told_with_what_it_sent(heartbeats: Heartbeats, store: Store):
    """A sender is told when it is first heard of; the latest is the first of the list."""
    asyncio.run(heartbeats.beat())
    heartbeats.saw(_instance("CT1", "10.0.0.1", 1))
    heartbeats.saw(_instance("MR1", "10.0.0.2", 2))
    assert asyncio.run(heartbeats.beat())
    heartbeats.saw(_instance("CT1", "10.0.0.1", 3))
    assert not asyncio.run(heartbeats.beat())
    (_, first), (_, second) = store.puts
    assert () == first.peers
    assert [("MR1", "10.0.0.2", 1), ("CT1", "10.0.0.1", 1)] == [
        (peer.ae_title, peer.address, peer.instances) for peer in second.peers
    ]
    assert START + timedelta(seconds=2) == second.peers[0].seen_at


def test_beat_many_peers_keeps_the_object_small(heartbeats: Heartbeats, store: Store):
    """Of thousands of senders the last fifty are told."""
    for number in range(2000):
        heartbeats.saw(_instance(f"AE{number}", "10.0.0.1", number))
    asyncio.run(heartbeats.beat())
    peers = store.puts[0][1].peers
    assert [f"AE{number}" for number in range(1999, 1949, -1)] == [peer.ae_title for peer in peers]


def test_follow_store_away_tells_when_it_is_back(heartbeats: Heartbeats, store: Store, monkeypatch: pytest.MonkeyPatch):
    """A store that refuses ends nothing: the heartbeat comes when it takes it again."""
    monkeypatch.setattr("dicomflow.edge.deliver.heartbeat._EVERY_SECONDS", 0.01)
    store.is_away = True

    async def _follow() -> None:
        following = asyncio.create_task(heartbeats.follow(0.01))
        async with asyncio.timeout(WAIT_SECONDS):
            while store.refused < 2:  # noqa: ASYNC110  # a number tells nobody
                await asyncio.sleep(0.01)
            store.is_away = False
            while not store.puts:  # noqa: ASYNC110  # a list tells nobody
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(_follow())
    assert "site-1" == store.puts[0][1].edge


def _instance(ae_title: str, peer: str, second: int) -> ReceivedInstance:
    return ReceivedInstance(
        file=ReceivedFile(Path("x"), "a1", 0, peer, "0" * 64),
        sop_instance_uid="1.2",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2",
        study_instance_uid="1.2",
        series_instance_uid="1.2",
        bytes=1,
        received_at=START + timedelta(seconds=second),
        calling_ae_title=ae_title,
        called_ae_title="EDGE",
    )


def test_sources_that_are_compared_at_night_are_told_before_they_were(spool: Spool, store: Store, clock: Clock):
    """So that one that never reported is missed; an old note of a source that is compared no more is not told."""
    kinds = {"PACS1": "02:00", "PACS2": "03:00", "PACS3": None}
    source = {"host": "127.0.0.1", "port": 104, "ae_title": "PACS"}
    settings = EdgeSettings(
        name="site-1",
        dimse=DimseSettings(ae_title="EDGE"),
        spool=SpoolSettings(dir=spool.root),
        delivery=DeliverySettings(store_url="file:///unused"),
        sources={name: Source(**source, nightly=nightly) for name, nightly in kinds.items()},
    )
    found = ComparedSource("PACS1", START, 40, 2, is_whole=False)
    for each in (found, replace(found, name="PACS3")):
        note_compared(spool.root, each)
    heartbeats = Heartbeats(settings, spool.aside, store.put, store.fetch, lambda: False, clock)
    asyncio.run(heartbeats.beat())
    ((_, told),) = store.puts
    assert {"PACS1": found, "PACS2": None} == told.compared()
