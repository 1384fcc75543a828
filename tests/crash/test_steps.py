"""Death at each system call of a commit, and system calls that are interrupted: what is answered Success is there."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.spool.folders import Spool
from dicomflow.edge.spool.lane import discard_incoming

OBJECTS = 2
# Holds two of them, so that another one is begun.
SEGMENT_BYTES = 64 << 10
# More than `OBJECTS` stores can make; the test ends at the first step that is not reached.
MOST_STEPS = 100


class Victim:
    """A process that forks receivers; `serve` gives the port of the next."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def serve(self, folder: Path, step: int, spares: int, *, is_named_by_fsync: bool, segment_bytes: int = 0) -> int:
        """Fork a receiver with some spares that dies at a step, and return its port."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {is_named_by_fsync} {spares} {step} {segment_bytes}\n")
        self.process.stdin.flush()
        return int(self.read())

    def read(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        """Kill it and what it forked."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def victim() -> Iterator[Victim]:
    """Give a process that forks receivers."""
    started = Victim()
    yield started
    started.close()


def instances(folder: Path) -> dict[str, str]:
    """Return the digests of what counts as an instance after a restart, by name and by content."""
    spool = Spool(folder)
    discard_incoming(spool)
    spool.associations.note_lost()
    spool.unpack(1000)
    found = {file.sha256: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in spool.scan_received()}
    others = {".segment", ".at", ".end", ".free"}
    assert len(found) == len([path for path in spool.received.rglob("*.*") if path.suffix not in others])
    assert "open" not in spool.associations.read_states().values()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_named_by_fsync", "spares", "segment_bytes"),
    [
        (True, 0, 0),
        (False, 0, 0),
        (True, 1, 0),
        (True, OBJECTS, 0),
        (True, 0, SEGMENT_BYTES),
        (False, 0, SEGMENT_BYTES),
    ],
)
def test_kill_9_at_every_step_loses_no_acknowledged_object(
    victim: Victim,
    sender_to: Any,
    encoded_object: Callable[..., Any],
    tmp_path: Path,
    spares: int,
    segment_bytes: int,
    *,
    is_named_by_fsync: bool,
):
    """Before whichever system call the receiver dies: acknowledged is whole, and what is there was sent whole."""
    deaths = 0
    objects = 2 * OBJECTS if segment_bytes else OBJECTS
    for step in range(MOST_STEPS):
        folder = tmp_path / str(step)
        port = victim.serve(folder, step, spares, is_named_by_fsync=is_named_by_fsync, segment_bytes=segment_bytes)
        sender = sender_to(port)
        begun, acknowledged = set(), set()
        for number in range(objects):
            data_set, digest = encoded_object(f"1.2.{number + 1}", b"x" * 20_000)
            begun.add(digest)
            try:
                assert 0 == sender.store(f"1.2.{number + 1}", data_set)
            except OSError:
                deaths += 1
                break
            acknowledged.add(digest)
        else:
            break  # it was not reached
        sender.close()
        assert "ended" == victim.read()
        found = instances(folder)
        assert all(name == content for name, content in found.items())
        assert acknowledged <= found.keys() <= begun
    assert deaths >= OBJECTS * 5


@pytest.mark.parametrize(("is_named_by_fsync", "segment_bytes"), [(True, 0), (False, 0), (True, 1 << 20)])
def test_interrupted_system_calls_lose_nothing(
    victim: Victim,
    sender_to: Any,
    encoded_object: Callable[..., Any],
    tmp_path: Path,
    segment_bytes: int,
    *,
    is_named_by_fsync: bool,
):
    """A signal every half millisecond (EINTR) neither refuses an object nor changes a byte."""
    port = victim.serve(tmp_path / "spool", -1, 0, is_named_by_fsync=is_named_by_fsync, segment_bytes=segment_bytes)
    sender = sender_to(port)
    expected = set()
    for number in range(40):
        data_set, digest = encoded_object(f"1.2.{number + 1}", os.urandom(50_000))
        assert 0 == sender.store(f"1.2.{number + 1}", data_set)
        expected.add(digest)
    assert expected == instances(tmp_path / "spool").keys()
