"""Receivers to compare: each started on a free port with a folder of its own, and stopped."""

import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.spares import LEAST_BYTES
from load import Load

__all__ = ["PEERS", "Peer", "is_installed", "running", "warm_memory"]

_START_SECONDS: Final = 30
_IDLE_SECONDS: Final = 0.5
_WARM_BYTES: Final = 1000 << 20
_META_BYTES: Final = 500  # preamble and file meta information, about
_NO_STORE: Final = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
}


class Peer:
    """A receiver: its name, how to start it in a folder, and whether it finds files of stored instances there."""

    def __init__(
        self, name: str, command: Callable[[Path, int], list[str] | None], *, has_spares: bool = False
    ) -> None:
        self.name = name
        self.command = command
        self.has_spares = has_spares


def _dicomflow(folder: Path, port: int, *, fsync: bool) -> list[str]:
    config = folder / "edge.toml"
    # What is measured is receiving, so the store is one that refuses connections: instances gather in the spool.
    config.write_text(
        f"""name = "bench"
http_port = 0
[dimse]
bind = "127.0.0.1"
port = {port}
[spool]
dir = "{folder / "spool"}"
fsync = {str(fsync).lower()}
slow_below_bytes = 0
refuse_below_bytes = 0
[delivery]
store_url = "s3://bench"
concurrency = 1
quiet_seconds = 3600
""",
        encoding="utf-8",
    )
    return [sys.executable, "-m", "dicomflow", "--log-level", "WARNING", "edge", "--config", str(config)]


def _storescp(folder: Path, port: int) -> list[str] | None:
    storescp = shutil.which("storescp")
    return None if storescp is None else [storescp, "--fork", "--output-directory", str(folder), str(port)]


def _pynetdicom(folder: Path, port: int) -> list[str] | None:
    return [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(folder), "-q"]


def _orthanc(folder: Path, port: int) -> list[str] | None:
    orthanc = shutil.which("Orthanc")
    if orthanc is None:
        return None
    config = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "HttpServerEnabled": False,
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    return [orthanc, str(config)]


PEERS: Final = (
    Peer("dicomflow", lambda folder, port: _dicomflow(folder, port, fsync=True), has_spares=True),
    Peer("dicomflow, new files", lambda folder, port: _dicomflow(folder, port, fsync=True)),
    Peer("dicomflow, fsync = false", lambda folder, port: _dicomflow(folder, port, fsync=False), has_spares=True),
    Peer("DCMTK storescp", _storescp),
    Peer("Orthanc", _orthanc),
    Peer("pynetdicom storescp", _pynetdicom),
)


def is_installed(peer: Peer) -> bool:
    """Tell whether a receiver can be run here."""
    with tempfile.TemporaryDirectory() as folder:
        return peer.command(Path(folder), 0) is not None


@contextlib.contextmanager
def running(peer: Peer, base: Path, load: Load | None = None) -> Iterator[tuple[int, int]]:
    """Start a receiver and yield its port and process id.

    With a load, one that keeps spares finds those that this load would leave once it was stored.

    Its folder is left for the caller: files deleted here would slow down the next receiver's (ext4 steps over inodes
    that were deleted seconds ago). What earlier receivers wrote is on disk before this one starts, and as much memory
    as a run fills has been in use a moment ago: a virtual machine's host takes back memory that lies free, and hands
    a page out again at many times the cost of writing it.
    """
    os.sync()
    folder = Path(tempfile.mkdtemp(prefix="receiver-", dir=base))
    if peer.has_spares and load is not None:
        _leave_spares(folder / "spool", load)
    port = _free_port()
    command = peer.command(folder, port)
    assert command is not None
    process = subprocess.Popen(
        command,
        env={**os.environ, "TCP_NODELAY": "1", **_NO_STORE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_port(port, process)
        _await_idle(process.pid)
        warm_memory()
        yield port, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def warm_memory() -> None:
    """Use as much memory as a run fills, and give it back."""
    with mmap.mmap(-1, _WARM_BYTES) as memory:
        memory[:: mmap.PAGESIZE] = bytes([1]) * (_WARM_BYTES // mmap.PAGESIZE)


def _leave_spares(spool: Path, load: Load) -> None:
    """Leave as many files as an edge that stored this load would, up to its limit."""
    limit = SpoolSettings(dir=spool).spare_bytes
    content = bytes(load.size_bytes + _META_BYTES)
    (spool / "spares").mkdir(parents=True)
    count = min(load.count, limit // len(content)) if len(content) >= LEAST_BYTES else 0
    for number in range(count):
        (spool / "spares" / f"{number:020}_{len(content)}.spare").write_bytes(content)
    os.sync()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the receiver ended with code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no listener on port {port} after {_START_SECONDS} s")


def _await_idle(session: int) -> None:
    """Wait until the processes of a session have done what they do at their start."""
    deadline = time.monotonic() + _START_SECONDS
    used = _cpu_seconds(session)
    while time.monotonic() < deadline:
        time.sleep(_IDLE_SECONDS)
        before, used = used, _cpu_seconds(session)
        if used - before < _IDLE_SECONDS / 10:
            return
    raise RuntimeError(f"the receiver is still busy {_START_SECONDS} s after its start")


def _cpu_seconds(session: int) -> float:
    """Return the processor time that the processes of a session have taken (proc(5))."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
