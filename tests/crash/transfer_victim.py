"""Edges that die at a chosen call while they send a transfer: a process forked for each line of standard input.

A line is `FOLDER PORT STEP COMMITMENT`: take what `FOLDER/objects` offers, send it to a destination on PORT, with
COMMITMENT 1 ask that to commit to it, tell of it, and die of SIGKILL before the call of number STEP that is made for
that; with STEP -1 not at all.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore

from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.settings import Destination
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.edge.transfer import lane as lane_module
from dicomflow.edge.transfer.asker import Asker
from dicomflow.edge.transfer.board import Board
from dicomflow.edge.transfer.courier import Courier
from dicomflow.edge.transfer.lane import Copies, Lane, Route
from dicomflow.edge.transfer.store import TransferStore

CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("open", "write", "fsync", "rename", "replace", "close", "unlink", "mkdir", "utime")),
    (socket.socket, ("connect", "sendmsg", "recv_into", "close")),
    (obstore, ("get", "put")),
)
MOST_ROUNDS = 20


def _send(folder: Path, port: int, step: int, *, commitment: bool) -> None:
    lane_module._FETCHES_AT_ONCE = 1  # so that a number means the same call each time
    spool = folder / "spool"
    store = TransferStore("edge-1", lambda: LocalStore(folder / "objects"))
    destination = Destination(host="127.0.0.1", port=port, ae_title="PACS", commitment=commitment)
    destinations = {"PACS": destination}
    if step >= 0:
        _die_before(step)
    folders = TransferFolders(spool)
    board = Board()
    courier = Courier("edge-1", destinations, folders, board, store)
    route, stopping = Route("PACS", destination, "EDGE"), threading.Event()
    lane = Lane(route, board, Copies(folders, store, 0), stopping=stopping)
    asker = Asker(route, board, Questions(spool), stopping=stopping, listen_seconds=30.0)
    courier.take_up()
    for _ in range(MOST_ROUNDS):
        courier.step()
        lane.step()
        if commitment:
            asker.step()
        if (spool / "transfers" / "t1" / "told").exists():
            return
    raise AssertionError("it did not end")


def _die_before(step: int) -> None:
    calls = iter(range(1 << 30))

    def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def _call(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keywords)

        return _call

    for owner, names in CALLS:
        for name in names:
            setattr(owner, name, _wrapped(getattr(owner, name)))


def main() -> None:
    """Fork for each line, wait until that process has ended, and tell how."""
    for line in sys.stdin:
        folder, port, step, commitment = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _send(Path(folder), int(port), int(step), commitment=commitment == "1")
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitpid(child, 0)[1], flush=True)  # noqa: T201  # to the test


main()
