"""An edge with routes in this process: a spool, a deliverer, and the threads that send destinations their shares."""

import asyncio
import contextlib
import hashlib
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obstore.store import LocalStore
from waiting import WAIT_SECONDS, wait_for

from dicomflow.bucket.keys import STATUS_PREFIX
from dicomflow.bucket.manifest import Manifest
from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.edge.deliver.deliverer import Announce, Deliverer
from dicomflow.edge.deliver.uploader import Uploader
from dicomflow.edge.destinations import Route
from dicomflow.edge.forward.process import Forwarding
from dicomflow.edge.ledger import LEDGER_FILE, Ledger, LedgerEntry, RoutedEntry
from dicomflow.edge.settings import EdgeSettings, build_settings
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.handedover import HandedOver
from dicomflow.edge.spool.lane import Lane
from dicomflow.errors import DicomflowError

__all__ = ["RoutedSite", "instance"]

CT = "1.2.840.10008.5.1.4.1.1.2"


def instance(
    sop: str,
    *,
    series: str = "1.2.3.1",
    modality: str = "CT",
    calling: str = "CT1",
    pixels: int = 512,
    study: str = "1.2.3",
) -> bytes:
    """Encode a file as the receiver makes it."""
    values = (
        (0x00080016, b"UI", CT),
        (0x00080018, b"UI", sop),
        (0x00080060, b"CS", modality),
        (0x0020000D, b"UI", study),
        (0x0020000E, b"UI", series),
    )
    data = b"".join(_element(*value) for value in values)
    data += struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", pixels) + sop.encode().ljust(pixels, b"p")
    return encode_file_meta(CT, sop, EXPLICIT_VR_LITTLE_ENDIAN, calling, "DICOMFLOW") + data


def _element(tag: int, vr: bytes, text: str) -> bytes:
    value = text.encode()
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


class RoutedSite:
    """One spool and its stores, over any number of runs; a run ends as by a kill once something is true."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.objects = folder / "objects"
        self.research = folder / "research"
        self.spool = Spool(folder / "spool", spare_bytes=1 << 20)
        self.handed = HandedOver(self.spool.root)
        self.sent: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.announce: Announce | None = None
        self._lane = Lane(self.spool.root)
        self._number = 0
        document: dict[str, Any] = {
            "name": "site-1",
            "spool": {"dir": str(self.spool.root), "spare_bytes": 1 << 20},
            "delivery": {"store_url": self.objects.as_uri(), "quiet_seconds": 0},
        }
        self._document = document | settings

    @property
    def settings(self) -> EdgeSettings:
        """What the next run has."""
        return build_settings(self._document, "edge.toml")

    def set(self, **settings: Any) -> None:
        """Change the settings."""
        self._document |= settings

    def receive(self, sop: str, *, association: str = "a1", **fields: Any) -> None:
        """Spool an instance as an association does."""
        self.receive_content(sop, instance(sop, **fields), association)

    def receive_content(self, sop: str, content: bytes, association: str = "a1") -> None:
        """Spool a file as an association does."""
        self.sent[sop] = content
        if association not in self.spool.associations.read_states():
            self.spool.associations.note_open(association)
        self._lane.create(association, self._number).write([content]).commit("10.0.0.1")
        self._number += 1

    def receive_and_end(self, *sops: str, association: str = "a1", **fields: Any) -> None:
        """Spool instances of an association that ends."""
        for sop in sops:
            self.receive(sop, association=association, **fields)
        self.spool.associations.note_end(association, "released")

    def deliver(self, until: Callable[[], Any], routes: Callable[[], tuple[Route, ...]] | None = None) -> None:
        """Run a deliverer."""
        store = Uploader(lambda: LocalStore(self.objects, mkdir=True), self.objects)
        spool = Spool(self.spool.root, spare_bytes=1 << 20)
        asyncio.run(_run_until(Deliverer(self.settings, spool, store, self.announce, routes=routes), until))

    def forward(self, until: Callable[[], Any]) -> None:
        """Run the threads that send."""
        stopping = threading.Event()
        forwarding = Forwarding(self.settings, stopping, lambda *what: self.counts.update([" ".join(what)]))
        forwarding.start()
        try:
            wait_for(until)
        finally:
            stopping.set()
            forwarding.join(WAIT_SECONDS)

    def run(self, until: Callable[[], Any]) -> None:
        """Run both."""
        stopping = threading.Event()
        forwarding = Forwarding(self.settings, stopping, lambda *what: self.counts.update([" ".join(what)]))
        forwarding.start()
        try:
            self.deliver(until)
        finally:
            stopping.set()
            forwarding.join(WAIT_SECONDS)

    def is_level(self, *dead: str) -> bool:
        """Tell whether nothing is left to deliver, and nothing handed over but to those that are dead."""
        return (
            not any(self.spool.scan_received())
            and not any(self.spool.delivering.iterdir())
            and not any(self.handed.of(name) for name in self.handed.names() if name not in dead)
        )

    def stored(self, root: Path) -> dict[str, str]:
        """Return the digests of the instances in a store, by SOP Instance UID; each is there once."""
        paths = [path for path in root.rglob("*.dcm") if path.is_file()]
        found = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        assert len(found) == len(paths)
        return found

    def manifests(self, root: Path) -> list[Manifest]:
        """Return the manifests of a store."""
        return [Manifest.from_json(path.read_bytes()) for path in sorted(root.rglob("manifests/*/*.json"))]

    def digests(self, *sops: str) -> dict[str, str]:
        """Return the digests of what was received."""
        return {sop: hashlib.sha256(self.sent[sop]).hexdigest() for sop in sops}

    def entries(self) -> dict[str, LedgerEntry]:
        """Return the ledger's entries by SOP Instance UID."""
        with contextlib.closing(Ledger(self.spool.root / LEDGER_FILE, read_only=True)) as ledger:
            return {each.sop_instance_uid: each for each in ledger.entries()}

    def has_entries(self) -> bool:
        """Tell whether the ledger can be read, and has any."""
        with contextlib.suppress(DicomflowError):
            return bool(self.entries())
        return False

    def routed(self, sop: str) -> list[RoutedEntry]:
        """Return where the ledger says that an instance goes."""
        with contextlib.closing(Ledger(self.spool.root / LEDGER_FILE, read_only=True)) as ledger:
            return ledger.routed(sop)

    def keys(self, root: Path) -> list[str]:
        """Return the keys of a store but the heartbeat."""
        keys = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return sorted(key for key in keys if not key.startswith(STATUS_PREFIX))


async def _run_until(deliverer: Deliverer, until: Callable[[], Any]) -> None:
    running = asyncio.create_task(deliverer.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while not until() and not running.done():  # noqa: ASYNC110  # what is waited for is in the file system
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
