"""What goes back to a site beside what is sent from it: an edge's transfers and `dicomflow send`, to DCMTK's storescp.

Both send the same files to a receiver with TCP_NODELAY=1. Of a transfer the time counts from the first object that the
receiver has to the last, since the edge asks every three seconds whether there is something; of the command likewise.
The edge reads its copies from a folder, compares their digests, and writes each answer down, synced, before the next.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import obstore
from obstore.store import LocalStore

from dicomflow.bucket.keys import job_key, outbound_key, pending_key
from dicomflow.bucket.transfer import Job, JobInstance, Pending, PendingTransfer, encode
from dicomflow.dicom.part10 import decode_file_meta
from load import Load, encode_files
from machine import describe
from peers import PEERS, running
from report import replace_section

LOADS: Final = (Load("400 CT of 525 KB", 400, 525_000),)
RECEIVER: Final = next(peer for peer in PEERS if peer.name == "DCMTK storescp")
EDGE: Final = "bench"
MOST_SECONDS: Final = 120.0


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench transfer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        for load in LOADS:
            files = list(encode_files(load))
            for number in range(arguments.rounds):
                for sender in (_transfer, _send):
                    folder = Path(name) / f"{sender.__name__}-{number}"
                    folder.mkdir()
                    taken = sender(load, files, folder, Path(name))
                    seconds.setdefault((load.name, sender.__name__), []).append(taken)
                    print(load.name, sender.__name__, f"{taken:.2f} s", file=sys.stderr, flush=True)
    text = _report(seconds, arguments.rounds)
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "transfer", text)
    return 0


def _transfer(load: Load, files: list[bytes], folder: Path, base: Path) -> float:
    """Have an edge send a transfer; return the seconds from the first object to the last."""
    store = LocalStore(folder / "objects", mkdir=True)
    instances = []
    for number, content in enumerate(files):
        meta = decode_file_meta(content[:1024])
        obstore.put(store, outbound_key(EDGE, "t", number), content)
        instances.append(
            JobInstance(
                number,
                meta.sop_class_uid,
                meta.sop_instance_uid,
                meta.transfer_syntax_uid,
                len(content),
                hashlib.sha256(content).hexdigest(),
            )
        )
    obstore.put(store, job_key(EDGE, "t"), encode(Job(EDGE, "t", 1, "PACS", tuple(instances))))
    with running(RECEIVER, base) as (port, _), _edge(folder, port):
        obstore.put(store, pending_key(EDGE), encode(Pending(EDGE, (PendingTransfer("t", 1),))))
        return _await(load.count, base)


@contextmanager
def _edge(folder: Path, port: int) -> Iterator[None]:
    config = folder / "edge.toml"
    config.write_text(
        f'name = "{EDGE}"\nhttp_port = 0\n[dimse]\nport = 0\n[spool]\ndir = "{folder / "spool"}"\n'
        f'slow_below_bytes = 1\nrefuse_below_bytes = 1\n[delivery]\nstore_url = "{(folder / "objects").as_uri()}"\n'
        f'[destinations.PACS]\nhost = "127.0.0.1"\nport = {port}\nae_title = "PACS"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dicomflow", "edge", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _send(load: Load, files: list[bytes], folder: Path, base: Path) -> float:
    """Have `dicomflow send` send the files; return the seconds from the first object to the last."""
    for number, content in enumerate(files):
        (folder / f"{number:05}.dcm").write_bytes(content)
    with running(RECEIVER, base) as (port, _):
        command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(port), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        taken = _await(load.count, base)
        process.wait()
        return taken


def _await(count: int, base: Path) -> float:
    """Return the seconds from the first object in the newest receiver's folder to the last."""
    folder = max(base.glob("receiver-*"), key=lambda each: each.stat().st_mtime_ns)
    began = time.perf_counter()
    first = None
    while (now := time.perf_counter()) - began < MOST_SECONDS:
        found = sum(each.is_file() for each in os.scandir(folder))
        if found and first is None:
            first = now
        if found >= count and first is not None:
            return now - first
        time.sleep(0.005)
    return float("inf")


def _report(seconds: dict[tuple[str, str], list[float]], rounds: int) -> str:
    lines = [
        f"Measured with `scripts/bench transfer --rounds {rounds}` on {describe()}.",
        (
            f"Objects a second from the first to the last at DCMTK's storescp, medians of {rounds};"
            " in brackets the ratio to `dicomflow send`."
        ),
        "",
        "| files | a transfer | `dicomflow send` |",
        "|---|---|---|",
    ]
    for load in LOADS:
        transfer, send = (statistics.median(seconds[load.name, each]) for each in ("_transfer", "_send"))
        lines.append(
            f"| {load.name} | {load.count / transfer:,.0f}/s ({send / transfer:.2f}x) | {load.count / send:,.0f}/s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
