"""An edge that is killed, senders that never give up, and the books of what was acknowledged."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow.bucket.manifest import Manifest
from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.dimse.command import Command, CommandField, encode_command
from dicomflow.dimse.events import AssociationAccepted, CommandReceived
from dicomflow.dimse.pdu import AssociateRequest, ProposedContext
from dicomflow.dimse.requestor import Requestor
from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.records import read_records
from dicomflow.edge.spool.rotation import segments_of
from dicomflow.edge.spool.view import scan
from dicomflow.errors import InternalError

collect_ignore = [] if os.environ.get("DICOMFLOW_TEST_FILE_SYSTEMS") == "1" else ["test_file_systems.py"]
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Ask until the answer is true and give it; fail when the time is over."""
    return lambda ask, explain=str: wait_for(ask, explain=explain)


def _object(uid: str, pixels: bytes) -> tuple[bytes, str]:
    """Return a data set and the SHA-256 of the file that the edge makes of it."""
    uids = ((0x0008, 0x0016, CT), (0x0008, 0x0018, uid), (0x0020, 0x000D, "1.2.3"), (0x0020, 0x000E, "1.2.3.1"))
    parts = []
    for group, element, text in uids:
        value = text.encode() + b"\0" * (len(text) % 2)
        parts.append(struct.pack("<HH2sH", group, element, b"UI", len(value)) + value)
    parts.append(struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", len(pixels)) + pixels)
    data_set = b"".join(parts)
    meta = encode_file_meta(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, "CRASH", "DICOMFLOW")
    return data_set, hashlib.sha256(meta + data_set).hexdigest()


class Sender:
    """A requestor on a blocking socket, one object at a time."""

    def __init__(self, port: int) -> None:
        contexts = (ProposedContext(1, CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),)
        self._requestor = Requestor(AssociateRequest("DICOMFLOW", "CRASH", contexts, 16384))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer: Any = None
        try:
            answer = self._exchange()
        finally:
            if not isinstance(answer, AssociationAccepted):
                self.close()
        if not isinstance(answer, AssociationAccepted):
            raise ConnectionError(type(answer).__name__)

    def store(self, uid: str, data_set: bytes) -> int:
        """Store and return the status; raises `OSError` when the association is over."""
        command = Command(CommandField.C_STORE_RQ, 1, None, CT.encode(), uid.encode(), priority=0, data_set_type=1)
        self._requestor.send(1, encode_command(command), data_set)
        event = self._exchange()
        if not isinstance(event, CommandReceived) or event.command.status is None:
            raise ConnectionError(type(event).__name__)
        return event.command.status

    def close(self) -> None:
        """Close without a word."""
        self.socket.close()

    def _exchange(self) -> Any:
        self.socket.sendall(b"".join(self._requestor.parts_to_send()))
        while True:
            received = self.socket.recv(1 << 16)
            if not received:
                raise ConnectionError("closed")
            events = list(self._requestor.receive(memoryview(received)))
            if events:
                return events[0]


class Load:
    """Associations that send new objects all the time, and the books: what was begun, what was acknowledged."""

    def __init__(self, port: int, associations: int, seed: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.begun: set[str] = set()
        self.acknowledged: dict[str, str] = {}
        self.refused = 0
        self._threads = [
            threading.Thread(target=self._send, args=(number, random.Random(f"{seed}.{number}")))
            for number in range(associations)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all associations."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)

    def _send(self, sender: int, chance: random.Random) -> None:
        number = 0
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, InternalError):
                connected = Sender(self._port)
                try:
                    while not self._stopping.is_set():
                        number += 1
                        self._store(connected, f"1.2.{sender + 1}.{number}", chance)
                finally:
                    connected.close()
            self._stopping.wait(0.01)

    def _store(self, connected: Sender, uid: str, chance: random.Random) -> None:
        size = 200_000 if chance.random() < 0.05 else chance.randrange(100, 8000)
        data_set, digest = _object(uid, chance.randbytes(size // 2 * 2))
        with self._lock:
            self.begun.add(digest)
        status = connected.store(uid, data_set)
        with self._lock:
            if status == 0:
                self.acknowledged[uid] = digest
            else:
                self.refused += 1


class Site:
    """One spool and one store, and the edge that runs on them, over many lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.spool = Spool(folder / "spool")
        self.objects = folder / "objects"
        (self.port,) = free_ports(1)
        sections: dict[str, dict[str, Any]] = {
            "dimse": {"port": self.port, "bind": "127.0.0.1"},
            "spool": {"dir": str(folder / "spool"), "workers": 2, "slow_below_bytes": 0, "refuse_below_bytes": 0},
            "delivery": {"store_url": self.objects.as_uri(), "quiet_seconds": 0.5, "max_seconds": 2},
        }
        lines = ['name = "crash"', "http_port = 0"]
        for name, section in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
        (folder / "edge.toml").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes]
        self._groups: list[subprocess.Popen[bytes]] = []
        self._log = folder / "edge.log"

    def start(self) -> None:
        """Start the edge and wait until it accepts connections."""
        self._launch()
        wait_for(self._is_started, explain=self.tail)

    def children(self) -> list[int]:
        """Return its workers and its deliverer, those that run now."""
        listed = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = sorted(int(pid) for each in listed for pid in each.read_text().split())
        return [pid for pid in pids if b"spawn_main" in _command_line(pid)]

    def kill_supervisor(self) -> None:
        """Kill the supervisor alone; its children find out by themselves."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def kill_all(self) -> None:
        """Kill every process of every life."""
        for process in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._groups:
            process.wait(WAIT_SECONDS)
        self._groups.clear()

    def instances(self) -> dict[str, str]:
        """Return the SHA-256 of each file that counts as an instance, and where it is."""
        folders = [*self.spool.received.iterdir(), *(each for each in self.spool.delivering.iterdir() if each.is_dir())]
        files = [file for folder in folders for file in scan(folder)]
        found = {}
        for file in files:
            digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
            assert file.sha256 == digest, f"{file.path.name} has other bytes than its name says"
            found[digest] = str(file.path)
        for segment in (path for lane in self.spool.received.iterdir() for path in segments_of(lane)):
            with segment.open("rb", buffering=0) as opened:
                whole = [each for each in read_records(opened) if each.is_whole]
            found |= {each.name.rpartition("_")[2]: f"{segment}:{each.start}" for each in whole}
        return found | self.delivered()

    def delivered(self) -> dict[str, str]:
        """Return the SHA-256 of each stored object, and its path."""
        paths = list(self.objects.glob("crash/*/*/*/*.dcm"))
        return {hashlib.sha256(path.read_bytes()).hexdigest(): str(path) for path in paths}

    def listed(self) -> list[str]:
        """Return the SHA-256 of each instance in a manifest."""
        paths = self.objects.glob("manifests/crash/*.json")
        return [each.sha256 for path in paths for each in Manifest.from_json(path.read_bytes()).instances()]

    def tail(self) -> str:
        """Return the end of the log."""
        return self._log.read_text()[-3000:]

    def remove(self) -> None:
        """Kill what runs and remove the folder."""
        self.kill_all()
        shutil.rmtree(self.folder)

    def _launch(self) -> None:
        self._log.write_bytes(b"")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFLOW_")}
        command = [sys.executable, "-m", "dicomflow", "edge", "--config", str(self.folder / "edge.toml")]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._groups.append(self.process)

    def _is_started(self) -> bool:
        """Tell whether it has; launch it again, as a service manager does, where a child of another life has its port.

        An edge waits for these as long as they may take to drain, which is not enough where one of them stands still.
        """
        if self.process.poll() is not None and "cannot listen" in self._log.read_text():
            self._launch()
        return "edge_started" in self._log.read_text()


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture
def site_with(tmp_path: Path) -> Iterator[Callable[[], Site]]:
    """Give sites in folders of their own."""
    made: list[Site] = []

    def _site_with() -> Site:
        made.append(Site(tmp_path / f"site-{len(made)}"))
        return made[-1]

    yield _site_with
    for site in made:
        if site.folder.exists():
            site.remove()


@pytest.fixture
def load_on() -> Iterator[Callable[..., Load]]:
    """Put a site under load."""
    made: list[Load] = []

    def _load_on(site: Site, associations: int, seed: int) -> Load:
        made.append(Load(site.port, associations, seed))
        return made[-1]

    yield _load_on
    for load in made:
        load.stop()


@pytest.fixture(scope="session")
def encoded_object() -> Callable[[str, bytes], tuple[bytes, str]]:
    """Encode an object and tell the SHA-256 of the file it becomes."""
    return _object


@pytest.fixture
def sender_to() -> Iterator[Callable[[int], Sender]]:
    """Associate with a port."""
    made: list[Sender] = []

    def _sender_to(port: int) -> Sender:
        made.append(Sender(port))
        return made[-1]

    yield _sender_to
    for sender in made:
        sender.close()
