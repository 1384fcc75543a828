"""Receivers that die at a chosen system call: a process forked for each line of standard input.

A line is `FOLDER IS_NAMED_BY_FSYNC SPARES STEP SEGMENT_BYTES`: receive into FOLDER, over as many files of before as
SPARES or into segments of that size, and end by SIGKILL before the call of number STEP that a store makes. With STEP -1
every system call is interrupted by a signal again and again instead.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicomflow.edge.receive.services import Receiver
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool import spares
from dicomflow.edge.spool.lane import Lane
from dicomflow.network.admission import Admission, table_length
from dicomflow.network.arrivals import Listener
from dicomflow.network.connections import Connections
from dicomflow.network.listening import bind
from dicomflow.network.services import Host
from dicomflow.network.settings import DimseSettings

CALLS = (
    *("open", "write", "writev", "ftruncate", "fsync", "rename", "replace", "link", "close", "unlink"),
    *("pwrite", "fdatasync"),
)
SPARE_BYTES = 32_000  # longer than what is sent, and of its class
STORM_SECONDS = 0.0005


def _serve(folder: Path, step: int, count: int, segment_bytes: int, *, is_named_by_fsync: bool) -> None:
    spares.LEAST_BYTES = 1
    lane = Lane(folder, spare_bytes=1 << 20, segment_bytes=segment_bytes)
    for number in range(count):
        (folder / str(number)).write_bytes(b"before" * (SPARE_BYTES // 6))
        lane.spares.keep([folder / str(number)])
    if not segment_bytes:
        lane.last_bytes = SPARE_BYTES
    lane.is_named_by_fsync = is_named_by_fsync
    dimse = DimseSettings()
    settings = SpoolSettings(dir=folder, slow_below_bytes=0, refuse_below_bytes=0)
    table = [0] * table_length(1, dimse.max_associations)
    admission = Admission(table, 0, dimse.max_associations, 0)
    stopping = threading.Event()
    receiver = Receiver(lane, Watermark(settings), stopping)
    connections = Connections(Host(dimse, receiver.serve, stopping, admission))
    listener = bind("127.0.0.1", 0)
    if step < 0:
        signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        signal.setitimer(signal.ITIMER_REAL, STORM_SECONDS, STORM_SECONDS)
    else:
        _die_before(step)
    print(listener.getsockname()[1], flush=True)  # noqa: T201  # to the test
    threading.Thread(target=connections.accept_from, args=(Listener(listener, None, admission),), daemon=True).start()
    while True:
        signal.pause()


def _die_before(step: int) -> None:
    main = threading.main_thread()
    calls = iter(range(1 << 30))

    def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def _call(*arguments: Any, **keywords: Any) -> Any:
            if threading.current_thread() is not main and next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        return _call

    for name in CALLS:
        setattr(os, name, _wrapped(getattr(os, name)))


def main() -> None:
    """Fork for each line, and wait until that process has ended."""
    for line in sys.stdin:
        folder, is_named_by_fsync, count, step, segment_bytes = line.split()
        child = os.fork()
        if child == 0:
            is_named = is_named_by_fsync == "True"
            _serve(Path(folder), int(step), int(count), int(segment_bytes), is_named_by_fsync=is_named)
        os.waitpid(child, 0)
        print("ended", flush=True)  # noqa: T201  # to the test


main()
