"""How the edge's processes beside receiving begin and learn that they are to end: transfers and pulls."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomflow import logs
from dicomflow.edge.children import beat, beat_until
from dicomflow.edge.settings import EdgeSettings
from dicomflow.logs import LogSettings

__all__ = ["NICENESS", "ProcessStart", "begin_process", "watch_until_stop"]

NICENESS: Final = 10
"""Receiving goes first: a sender waits for its answer, what is done beside it does not."""
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class ProcessStart:
    """What a process is started with; `beats` and `slots` are as the deliverer's, the end of `stop` is the stop."""

    settings: EdgeSettings
    logs: LogSettings
    beats: MutableSequence[int] | None = None
    slots: Sequence[int] = ()
    stop: multiprocessing.connection.Connection | None = None


def begin_process(start: ProcessStart) -> threading.Event:
    """Begin, on the main thread of the process: its log, its priority, its beats; return what a signal sets."""
    logs.configure(start.logs.level, as_json=start.logs.as_json)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())
    if start.beats is not None:
        beat_until(threading.Event(), start.beats, start.slots[0])
    return stopping


def watch_until_stop(start: ProcessStart, stopping: threading.Event, look: Callable[[], None] = lambda: None) -> None:
    """Beat, and call `look` some times a second, until a signal, the supervisor's word or its end."""
    parent = multiprocessing.parent_process()
    ends: list[Any] = [each for each in (parent and parent.sentinel, start.stop) if each is not None]
    while not stopping.is_set():
        look()
        if start.beats is not None:
            beat(start.beats, start.slots[1])
        if ends and multiprocessing.connection.wait(ends, timeout=0):
            stopping.set()
        stopping.wait(_LOOK_SECONDS)
