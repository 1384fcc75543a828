"""Edges with routes that die at a chosen call: a process forked for each line of standard input.

A line is `FOLDER PEER STEP`: deliver what `FOLDER/spool` has received to the default store, a second store and a
destination, and die of SIGKILL before the call of number STEP that is made for that; with STEP -1 not at all. PEER is
the port of a node; or the URL of an origin, which then gets de-identified copies, as the second store does.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import obstore
from routed_site import RoutedSite

from dicomflow.edge.deliver import deliverer as deliverer_module
from dicomflow.edge.forward import process as process_module
from dicomflow.edge.transfer import lane as lane_module

CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "link", "rmdir", "utime")),
    (socket.socket, ("connect", "sendall", "sendmsg", "recv_into")),
    (obstore, ("put_async",)),
)


def _run(folder: Path, peer: str, step: int) -> None:
    deliverer_module._POLL_SECONDS = 0.01
    process_module._LOOK_SECONDS = 0.01
    lane_module._LOOK_SECONDS = 0.01
    site = RoutedSite(folder, **(_copied(folder, peer) if "://" in peer else _routed(folder, int(peer))))
    if step >= 0:
        _die_before(step)
    site.run(site.is_level)


def _routed(folder: Path, port: int) -> dict[str, Any]:
    return {
        "destinations": {
            "research": {"kind": "store", "url": (folder / "research").as_uri()},
            "pacs": {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "associations": 1},
        },
        "routes": [
            {"when": {"modality": "CT"}, "to": ["pacs", "research"]},
            {"when": {"modality": "MR"}, "to": ["store", "pacs"]},
        ],
    }


def _copied(folder: Path, url: str) -> dict[str, Any]:
    return {
        "site_secret": "a secret of a site, long enough to be one",
        "destinations": {
            "research": {"kind": "store", "url": (folder / "research").as_uri(), "profile": "basic"},
            "web": {"kind": "stow", "url": url, "profile": "basic", "concurrency": 1},
        },
        "routes": [{"to": ["store", "research", "web"]}],
    }


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
        folder, peer, step = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _run(Path(folder), peer, int(step))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitpid(child, 0)[1], flush=True)  # noqa: T201  # to the test


main()
