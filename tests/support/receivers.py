"""A receiver in this process, requestors, edges as processes of their own, and small data sets."""

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock
from edge_daemon import EdgeDaemon
from scu import CT, Scu
from waiting import WAIT_SECONDS, wait_for

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.commitment.requests import Commitments
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.receive.services import Receiver
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import CommitmentSettings, DeliverySettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool import spares
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import Lane
from dicomflow.network.admission import Admission, table_length
from dicomflow.network.arrivals import Listener
from dicomflow.network.connections import DRAIN_SECONDS, Connections
from dicomflow.network.listening import bind
from dicomflow.network.services import Host
from dicomflow.network.settings import DimseSettings
from dicomflow.network.tls import TlsContexts
from dicomflow.network.users import Users


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Ask until the answer is true and give it; fail when the time is over."""
    return wait_for


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture(scope="session")
def data_set() -> Callable[..., bytes]:
    """Encode a small data set in Explicit VR Little Endian; a UID given as None is left out."""
    return _data_set


def _data_set(
    sop_instance_uid: str | None = "1.2.3.4",
    *,
    sop_class_uid: str | None = CT,
    study_instance_uid: str | None = "1.2.3",
    series_instance_uid: str | None = "1.2.3.1",
    pixels: bytes = bytes(range(256)) * 4,
) -> bytes:
    uids = (
        (0x0008, 0x0016, sop_class_uid),
        (0x0008, 0x0018, sop_instance_uid),
        (0x0020, 0x000D, study_instance_uid),
        (0x0020, 0x000E, series_instance_uid),
    )
    encoded = b"".join(_element(group, element, uid) for group, element, uid in uids if uid is not None)
    return encoded + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels


def _element(group: int, element: int, uid: str) -> bytes:
    value = uid.encode()
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, b"UI", len(value)) + value


@pytest.fixture(scope="session")
def part10() -> Callable[..., bytes]:
    """Encode the file that the receiver makes of `data_set`, with the same arguments."""

    def _part10(sop_instance_uid: str = "1.2.3.4", *, calling: str = "CT1", **fields: Any) -> bytes:
        meta = encode_file_meta(CT, sop_instance_uid, EXPLICIT_VR_LITTLE_ENDIAN, calling, "DICOMFLOW")
        return meta + _data_set(sop_instance_uid, **fields)

    return _part10


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Give an empty spool as the deliverer has it."""
    return Spool(tmp_path / "spool")


@pytest.fixture
def lane(spool: Spool) -> Lane:
    """Give a worker's lane in it."""
    return Lane(spool.root)


def witness_of(root: Path) -> StoreWitness:
    """Ask a folder beside a spool what it has."""
    return StoreWitness(DeliverySettings(store_url=(root.parent / "objects").as_uri()), root)


@pytest.fixture
def objects(spool: Spool) -> Path:
    """Give the folder that is the store, which is not made yet."""
    return spool.root.parent / "objects"


@pytest.fixture
def commitments(spool: Spool) -> Commitments:
    """Give the requests of an empty spool, over that folder."""
    return Commitments(spool.root, witness_of(spool.root))


class _Stoppable(Listener):
    """A listener whose threads end when they are told to; the program's end with their process."""

    is_stopped = False

    @property
    def is_over(self) -> bool:
        """Whether the threads are to end."""
        return self.is_stopped or super().is_over


class InProcessReceiver:
    """The server's own accept loop and associations, in this process, so that tests can reach their system calls."""

    def __init__(
        self,
        lane: Lane,
        *,
        refuse_below_bytes: int = 1,
        slow_below_bytes: int = 0,
        commitment: CommitmentSettings | None = None,
        metrics: Any = None,
        asked: tuple[str, ...] = (),
        **dimse: Any,
    ) -> None:
        self.lane = lane
        self.spool = Spool(lane.root)
        self.draining = threading.Event()
        settings = EdgeSettings(
            name="test",
            dimse=DimseSettings(**dimse),
            spool=SpoolSettings(
                dir=lane.root,
                slow_below_bytes=slow_below_bytes or refuse_below_bytes,
                refuse_below_bytes=refuse_below_bytes,
            ),
            delivery=DeliverySettings(store_url="file:///unused"),
        )
        self._listener = bind("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        limit = settings.dimse.max_associations
        admission = Admission([0] * table_length(1, limit), 0, limit, settings.dimse.max_associations_per_ae_title)
        users = Users(settings.dimse.users_file) if settings.dimse.users_file else None
        self._receiver = Receiver(
            lane,
            Watermark(settings.spool),
            self.draining,
            metrics,
            Commitments(lane.root, witness_of(lane.root)) if commitment else None,
            commitment or CommitmentSettings(),
            Questions(lane.root) if asked else None,
            frozenset(asked),
        )
        note_end = metrics.ended if metrics is not None else lambda _how, _calling: None
        host = Host(settings.dimse, self._receiver.serve, self.draining, admission, users, note_end)
        tls = TlsContexts(settings.dimse.tls) if settings.dimse.tls else None
        self._connections = Connections(host)
        self._source = _Stoppable(self._listener, tls, admission)
        self._connections.accept_from(self._source)

    def stored(self) -> list[bytes]:
        """Return the files that were acknowledged, in order of arrival."""
        files = sorted(self.spool.scan_received(), key=lambda file: (file.association_id, file.number))
        return [file.path.read_bytes() for file in files]

    def drain(self, seconds: float = WAIT_SECONDS) -> None:
        """Stop as a worker does after SIGTERM, which cuts in time what a test may take longer for."""
        self.draining.set()
        self._connections.drain(seconds)

    def close(self) -> None:
        """End every thread."""
        self._source.is_stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait in accept
        self.drain(DRAIN_SECONDS)
        self._listener.close()


@pytest.fixture
def receiver_with(lane: Lane) -> Iterator[Callable[..., InProcessReceiver]]:
    """Start receivers on the one lane, with DIMSE settings as given."""
    started: list[InProcessReceiver] = []

    def _receiver_with(**settings: Any) -> InProcessReceiver:
        started.append(InProcessReceiver(lane, **settings))
        return started[-1]

    yield _receiver_with
    for receiver in started:
        receiver.close()


@pytest.fixture
def spare(lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Have the spool keep spares: add one that holds these bytes, for the next instance of about that size."""
    monkeypatch.setattr(spares, "_LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(spares, "LEAST_BYTES", 1)
    lane.spares = spares.Spares(lane.spares_folder, 1 << 20)

    def _spare(content: bytes) -> None:
        (tmp_path / "stored.dcm").write_bytes(content)
        lane.spares.keep([tmp_path / "stored.dcm"])
        lane.last_bytes = len(content)

    return _spare


@pytest.fixture
def receiver(receiver_with: Callable[..., InProcessReceiver]) -> InProcessReceiver:
    """Give a receiver with default settings."""
    return receiver_with()


@pytest.fixture
def scu_with() -> Iterator[Callable[..., Scu]]:
    """Connect a requestor that has not associated yet."""
    opened: list[Scu] = []

    def _scu_with(port: int, **fields: Any) -> Scu:
        opened.append(Scu(port, **fields))
        return opened[-1]

    yield _scu_with
    for scu in opened:
        scu.socket.close()


@pytest.fixture
def scu(scu_with: Callable[..., Scu], receiver: InProcessReceiver) -> Scu:
    """Give a requestor with an association to `receiver`: context 1 is for CT, 3 for Verification."""
    (connected := scu_with(receiver.port)).associate()
    return connected


@pytest.fixture
def raw() -> Iterator[Callable[..., bytes]]:
    """Send raw bytes on a connection of their own and return what comes back; `shut` ends our side first."""
    opened: list[socket.socket] = []

    def _raw(port: int, data: bytes, *, shut: bool = False) -> bytes:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS))
        opened[-1].sendall(data)
        if shut:
            opened[-1].shutdown(socket.SHUT_WR)
        received = b""
        while part := opened[-1].recv(1 << 16):
            received += part
            if received[:1] in {b"\x07", b"\x03"} and len(received) >= 10:
                break  # the peer now waits for our close
        return received

    yield _raw
    for each in opened:
        each.close()


@pytest.fixture
def ended_lines(caplog: pytest.LogCaptureFixture, until: Callable[..., Any]) -> Callable[[int], list[str]]:
    """Wait for a number of associations to end, and give the lines that were logged of them."""
    caplog.set_level(logging.INFO, "dicomflow")

    def _ended_lines(count: int) -> list[str]:
        def ended() -> list[str]:
            return [r.getMessage() for r in caplog.records if r.name == "dicomflow.network.association"]

        until(lambda: sum("association_ended" in line for line in ended()) >= count, explain=lambda: str(ended()))
        return ended()

    return _ended_lines


@pytest.fixture
def edge_with(tmp_path: Path) -> Iterator[Callable[..., EdgeDaemon]]:
    """Give edges in folders of their own, not started; settings by section."""
    made: list[EdgeDaemon] = []

    def _edge_with(name: str = "edge", **sections: dict[str, Any]) -> EdgeDaemon:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(EdgeDaemon(folder, **sections))
        return made[-1]

    yield _edge_with
    for edge in made:
        edge.close()
