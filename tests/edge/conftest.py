"""A receiver in this process, a requestor that can misbehave, an edge as a process of its own, and small data sets."""

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import CommandReceived, ConnectionLost, Event
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext
from dicomflow.dimse.requestor import Requestor
from dicomflow.edge.admission import Admission
from dicomflow.edge.association import Receiver
from dicomflow.edge.server import _Worker
from dicomflow.edge.settings import DeliverySettings, DimseSettings, EdgeSettings, SpoolSettings
from dicomflow.edge.spool import Spool
from dicomflow.edge.supervisor import bind
from dicomflow.edge.tls import TlsContexts
from dicomflow.edge.users import Users
from dicomflow.edge.watermark import Watermark

CT = "1.2.840.10008.5.1.4.1.1.2"
WAIT_SECONDS = 60


def _until(ask: Callable[[], Any], seconds: float = WAIT_SECONDS, explain: Callable[[], str] = lambda: "") -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {seconds} s {explain()}"
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Ask until the answer is true and give it; fail when the time is over."""
    return _until


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
    """Give an empty spool."""
    return Spool(tmp_path / "spool")


class InProcessReceiver:
    """The server's own accept loop and associations, in this process, so that tests can reach their system calls."""

    def __init__(self, spool: Spool, *, refuse_below_bytes: int = 1, slow_below_bytes: int = 0, **dimse: Any) -> None:
        self.spool = spool
        self.draining = threading.Event()
        settings = EdgeSettings(
            name="test",
            dimse=DimseSettings(**dimse),
            spool=SpoolSettings(
                dir=spool.root,
                slow_below_bytes=slow_below_bytes or refuse_below_bytes,
                refuse_below_bytes=refuse_below_bytes,
            ),
            delivery=DeliverySettings(store_url="file:///unused"),
        )
        self._listener = bind("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        limit = settings.dimse.max_associations
        admission = Admission([0] * limit, 0, limit, settings.dimse.max_associations_per_ae_title)
        users = Users(settings.dimse.users_file) if settings.dimse.users_file else None
        receiver = Receiver(settings.dimse, spool, Watermark(spool, settings.spool), self.draining, admission, users)
        tls = TlsContexts(settings.dimse.tls) if settings.dimse.tls else None
        self._worker = _Worker(receiver)
        self._thread = threading.Thread(target=self._worker.accept_from, args=(self._listener, tls), daemon=True)
        self._thread.start()

    def stored(self) -> list[bytes]:
        """Return the files that were acknowledged, in order of arrival."""
        files = sorted(self.spool.scan_received(), key=lambda file: (file.association_id, file.number))
        return [file.path.read_bytes() for file in files]

    def drain(self) -> None:
        """Stop as a worker does after SIGTERM."""
        self.draining.set()
        self._worker.drain()

    def close(self) -> None:
        """End every thread."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        self._thread.join(WAIT_SECONDS)
        self.drain()


@pytest.fixture
def receiver_with(spool: Spool) -> Iterator[Callable[..., InProcessReceiver]]:
    """Start receivers on the one spool, with DIMSE settings as given."""
    started: list[InProcessReceiver] = []

    def _receiver_with(**settings: Any) -> InProcessReceiver:
        started.append(InProcessReceiver(spool, **settings))
        return started[-1]

    yield _receiver_with
    for receiver in started:
        receiver.close()


@pytest.fixture
def receiver(receiver_with: Callable[..., InProcessReceiver]) -> InProcessReceiver:
    """Give a receiver with default settings."""
    return receiver_with()


class Scu:
    """A requestor on a blocking socket that sends whatever a test wants to see refused."""

    def __init__(self, port: int, contexts: Any = None, **request: Any) -> None:
        proposed = contexts or ((CT, (EXPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)))
        fields = {
            "called_ae_title": "DICOMFLOW",
            "calling_ae_title": "CT1",
            "contexts": tuple(ProposedContext(2 * i + 1, *each) for i, each in enumerate(proposed)),
            "max_length": 16384,
        }
        self.requestor = Requestor(AssociateRequest(**(fields | request)))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._events: deque[Event] = deque()
        self._message_id = 0

    def associate(self) -> Event:
        """Ask for the association and return the peer's answer."""
        self.flush()
        return self.next_event()

    def flush(self) -> None:
        """Send what the protocol core has to send."""
        self.socket.sendall(b"".join(self.requestor.parts_to_send()))

    def next_event(self) -> Event:
        """Return the next event; the end of the connection is one."""
        while not self._events:
            received = self.socket.recv(1 << 16)
            events = self.requestor.receive(memoryview(received)) if received else self.requestor.receive_eof()
            self._events.extend(events)
            if not received and not self._events:
                self._events.append(ConnectionLost())
        return self._events.popleft()

    def has_answer(self, seconds: float) -> bool:
        """Tell whether anything arrives within a time."""
        return bool(self._events or select.select([self.socket], [], [], seconds)[0])

    def begin_store(self, data_set: bytes | None, **fields: Any) -> None:
        """Send a C-STORE-RQ and its data set; UIDs are those of `data_set` unless given."""
        self._message_id += 1
        command = {
            "message_id": self._message_id,
            "affected_sop_class_uid": CT.encode(),
            "affected_sop_instance_uid": b"1.2.3.4",
            "priority": 0,
            "data_set_type": 1,
        }
        context_id = fields.pop("context_id", 1)
        encoded = encode_command(Command(CommandField.C_STORE_RQ, **(command | fields)))
        self.requestor.send(context_id, encoded, data_set)
        self.flush()

    def store(self, data_set: bytes | None, **fields: Any) -> Command:
        """Store and return the response."""
        self.begin_store(data_set, **fields)
        return self.response()

    def echo(self, context_id: int = 3) -> Command:
        """Send a C-ECHO and return the response."""
        command = Command(CommandField.C_ECHO_RQ, message_id=9, affected_sop_class_uid=VERIFICATION.encode())
        self.requestor.send(context_id, encode_command(command))
        self.flush()
        return self.response()

    def response(self) -> Command:
        """Return the next response."""
        event = self.next_event()
        assert isinstance(event, CommandReceived), event
        return event.command

    def release(self) -> Event:
        """Release and return the peer's answer."""
        self.requestor.release()
        self.flush()
        return self.next_event()

    def rest(self) -> bytes:
        """Read raw bytes until the peer closes; a reset fails the test."""
        received = b""
        while data := self.socket.recv(1 << 16):
            received += data
        return received


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
    caplog.set_level(logging.INFO, "dicomflow.edge")

    def _ended_lines(count: int) -> list[str]:
        def ended() -> list[str]:
            return [r.getMessage() for r in caplog.records if r.name == "dicomflow.edge.association"]

        until(lambda: sum("association_ended" in line for line in ended()) >= count, explain=lambda: str(ended()))
        return ended()

    return _ended_lines


class EdgeDaemon:
    """`dicomflow edge` as a process of its own; its log tells the ports."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.log = folder / "edge.log"
        self.spool = Spool(folder / "spool")
        self.objects = folder / "objects"
        settings: dict[str, dict[str, Any]] = {
            "dimse": {"port": 0, "bind": "127.0.0.1"},
            "spool": {"dir": str(folder / "spool"), "workers": 2, "slow_below_bytes": 0, "refuse_below_bytes": 0},
            "delivery": {"store_url": self.objects.as_uri(), "quiet_seconds": 0.2},
        }
        lines = ['name = "site-1"', "http_port = 0"]
        for name, section in settings.items():
            values = (section | sections.get(name, {})).items()
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values)]
        self.config = folder / "edge.toml"
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes]

    def start(self) -> "EdgeDaemon":
        """Start it and wait until it is ready."""
        self.launch()
        _until(lambda: self.http_port and self.get("/readyz")[0] == 200, explain=self.tail)
        return self

    def launch(self) -> None:
        """Start it."""
        self.log.write_bytes(b"")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}
        command = [sys.executable, "-m", "dicomflow", "edge", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def port(self) -> int:
        """The DIMSE port."""
        return int(re.findall(r"edge_started .*port=(\d+)", self.log.read_text())[0])

    @property
    def http_port(self) -> int:
        """The HTTP port; 0 before it is known."""
        return int((re.findall(r"http_started .*port=(\d+)", self.log.read_text()) or [0])[0])

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def children(self) -> list[int]:
        """Return the ids of the processes it started that run now, the oldest first."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        listed = sorted(int(pid) for each in threads for pid in each.read_text().split())
        return [pid for pid in listed if b"spawn_main" in _command_line(pid)]

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-4000:]

    def close(self) -> None:
        """Kill whatever is left of it."""
        if hasattr(self, "process"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


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
