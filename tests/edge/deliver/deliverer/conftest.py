"""A spool and a folder as store, over any number of deliverer's runs."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore
from waiting import WAIT_SECONDS

from dicomflow.bucket.keys import STATUS_PREFIX
from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.deliver import uploader as uploader_module
from dicomflow.edge.deliver.deliverer import Announce, Deliverer, StoredObject
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.ledger import LEDGER_FILE, Ledger, LedgerEntry
from dicomflow.edge.settings import DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.errors import PermanentError


class Site:
    """One spool and one store over any number of deliverer's runs."""

    def __init__(self, spool: Spool, objects: Path, part10: Callable[..., bytes], name: str = "site-1") -> None:
        self.spool = spool
        self.lane = Lane(spool.root)
        self.objects = objects
        self.name = name
        self.uploader_with: Callable[[], Uploader] = lambda: Uploader(lambda: LocalStore(objects, mkdir=True), objects)
        self.announced: list[StoredObject] = []
        self.announce: Announce | None = self.announced.extend
        self._part10 = part10
        self._number = 0

    def receive(self, sop: str, *, association: str = "a1", **fields: Any) -> Any:
        """Spool an instance as an association does; return its file, if it has one."""
        if association not in self.spool.associations.read_states():
            self.spool.associations.note_open(association)
        file = self.lane.create(association, self._number)
        self._number += 1
        return ReceivedFile.of(file.write([self._part10(sop, **fields)]).commit("10.0.0.1"))

    def run(
        self, until: Callable[[], Any], reload: Callable[[], DeliverySettings] | None = None, **delivery: Any
    ) -> None:
        """Run a deliverer until something is true, then cut it off."""
        settings = EdgeSettings(
            name=self.name,
            spool=SpoolSettings(dir=self.spool.root),
            delivery=DeliverySettings(**({"store_url": "file:///unused", "quiet_seconds": 0} | delivery)),
        )
        deliverer = Deliverer(settings, self.spool, self.uploader_with(), self.announce, reload)
        asyncio.run(_run_until(deliverer, until))

    def stored_keys(self) -> list[str]:
        """Return the keys of all objects but the edge's heartbeat."""
        keys = (str(path.relative_to(self.objects)) for path in self.objects.rglob("*") if path.is_file())
        return sorted(key for key in keys if not key.startswith(STATUS_PREFIX))

    def manifests(self) -> list[Manifest]:
        """Return all manifests."""
        return [Manifest.from_json(path.read_bytes()) for path in sorted(self.objects.glob("manifests/*/*.json"))]

    def entries(self) -> list[LedgerEntry]:
        """Return what the ledger has."""
        ledger = Ledger(self.spool.root / LEDGER_FILE, read_only=True)
        try:
            return list(ledger.entries())
        finally:
            ledger.close()

    def has_noted(self, count: int) -> bool:
        """Tell whether the ledger says of so many instances that they are stored: each was announced before."""
        with contextlib.suppress(PermanentError):
            return count == sum(entry.stored_at is not None for entry in self.entries())
        return False  # there is none yet

    def is_empty(self) -> bool:
        """Tell whether nothing is left to deliver."""
        return not any(self.spool.scan_received()) and not any(self.spool.delivering.iterdir())


async def _run_until(deliverer: Deliverer, until: Callable[[], Any]) -> None:
    running = asyncio.create_task(deliverer.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while not until() and not running.done():  # noqa: ASYNC110  # what is waited for is in the file system
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.fixture
def site_with(
    tmp_path: Path, part10: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Spool], Site]:
    """Make sites of one store whose deliverers look often and retry at once."""
    monkeypatch.setattr("dicomflow.edge.deliver.deliverer._POLL_SECONDS", 0.02)
    monkeypatch.setattr(uploader_module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(uploader_module, "_LONGEST_PAUSE_SECONDS", 0.05)
    return lambda name, spool: Site(spool, tmp_path / "objects", part10, name)


@pytest.fixture
def site(site_with: Callable[[str, Spool], Site], spool: Spool) -> Site:
    """Give a site."""
    return site_with("site-1", spool)


class FlakyStore:
    """A folder whose puts fail as a test says; obstore is called with it in the store's place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], bool]) -> None:
        self.puts: list[str] = []
        original = obstore.put_async

        async def _put(store: Any, key: str, *arguments: Any, **keywords: Any) -> Any:
            if not key.startswith(STATUS_PREFIX):
                self.puts.append(key)
            if fails(key):
                raise OSError(104, "connection reset")
            return await original(store, key, *arguments, **keywords)

        monkeypatch.setattr(obstore, "put_async", _put)


@pytest.fixture
def flaky_store() -> type[FlakyStore]:
    """Make puts fail as a function of the key says, as long as the given monkeypatch lasts; it keeps what was put."""
    return FlakyStore


@pytest.fixture(params=[False, True], ids=["open", "closed"])
def left_behind(request: Any, site: Site, monkeypatch: pytest.MonkeyPatch, flaky_store: Any) -> Site:
    """Give a site with a delivery of two instances, as a run leaves it that ends while the store is away."""
    site.receive("1.2.1")
    site.receive("1.2.2")
    with monkeypatch.context() as patched:
        flaky_store(patched, lambda _key: True)
        if request.param:
            site.spool.associations.note_end("a1", "released")
            site.run(lambda: list(site.spool.delivering.glob("*/manifest.json")))
        else:
            site.run(lambda: len(list(site.spool.delivering.glob("*/*.dcm"))) == 2)
    return site
