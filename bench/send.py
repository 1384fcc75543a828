"""Senders side by side: `dicomflow send`, DCMTK's storescu and dcmsend, to DCMTK's storescp and to our edge.

What is measured is what a user waits for: the whole command, from its start to its end, over files in a folder. DCMTK's
senders run with TCP_NODELAY=1, without which they are many times slower.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dicomflow.edge.spool.view import count_files
from load import Load, encode_files
from machine import describe
from peers import PEERS, Peer, is_installed, running
from report import replace_section

LOADS: Final = (
    Load("400 CT of 525 KB", 400, 525_000),
    Load("2,000 of 10 KB", 2000, 10_000),
    Load("20,000 of 10 KB", 20_000, 10_000),
    Load("100 of 10 KB", 100, 10_000),
)
RECEIVERS: Final = ("dicomflow", "DCMTK storescp")
NAGLE: Final = "DCMTK storescp, Nagle's algorithm on"
REFERENCE: Final = "storescu"
FEW: Final = 100
MANY: Final = 2000


def _ours(*options: str) -> Callable[[int, Path], list[str] | None]:
    start = [sys.executable, "-m", "dicomflow", "send"]
    return lambda port, folder: [*start, *options, "127.0.0.1", str(port), str(folder)]


def _installed(name: str, *options: str) -> Callable[[int, Path], list[str] | None]:
    def command(port: int, folder: Path) -> list[str] | None:
        program = shutil.which(name)
        return None if program is None else [program, *options, "127.0.0.1", str(port), str(folder)]

    return command


SENDERS: Final = {
    "dicomflow send": _ours(),
    "one association": _ours("--associations", "1"),
    "storescu": _installed("storescu", "--scan-directories"),
    "dcmsend": _installed("dcmsend", "--scan-directories"),
}


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench send", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    receivers = [peer for peer in PEERS if peer.name in RECEIVERS and is_installed(peer)]
    patient = [Peer(NAGLE, _storescp_as_it_comes)]
    seconds: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base:
        for load in LOADS:
            folder = Path(base) / f"files-{load.count}-{load.size_bytes}"
            folder.mkdir()
            for number, encoded in enumerate(encode_files(load)):
                (folder / f"{number:05}.dcm").write_bytes(encoded)
            for _ in range(arguments.rounds):
                for receiver in _receivers(load, receivers, patient):
                    for sender in SENDERS:
                        key = (load.name, receiver.name, sender)
                        seconds.setdefault(key, []).append(_measure(sender, receiver, folder, Path(base), load.count))
                        print(*key, f"{seconds[key][-1]:.2f} s", file=sys.stderr, flush=True)
    text = _report(receivers + patient, seconds, arguments.rounds)
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "send", text)
    return 0


def _receivers(load: Load, quick: Sequence[Peer], patient: Sequence[Peer]) -> Sequence[Peer]:
    """Return the receivers that a load is for: where each object waits 40 ms only a few are sent."""
    return patient if load.count <= FEW else [peer for peer in quick if load.count <= MANY or peer.name != "dicomflow"]


def _storescp_as_it_comes(folder: Path, port: int) -> list[str] | None:
    storescp = shutil.which("storescp")
    command = ["env", "-u", "TCP_NODELAY", str(storescp), "--fork", "--output-directory", str(folder), str(port)]
    return command if storescp else None


def _measure(sender: str, receiver: Peer, folder: Path, base: Path, count: int) -> float:
    """Return the seconds that a command took; infinity when it failed or the receiver lacks files."""
    with running(receiver, base) as (port, _):
        command = SENDERS[sender](port, folder)
        if command is None:
            return float("inf")
        before = _stored(base)
        started = time.perf_counter()
        ended = subprocess.run(
            command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, check=False, timeout=300
        )
        taken = time.perf_counter() - started
        stored = _stored(base) - before
    if ended.returncode or stored < count:
        print(f"{sender} ended with {ended.returncode}, {stored} files stored", file=sys.stderr)
        return float("inf")
    return taken


def _stored(base: Path) -> int:
    """Return how many instances all receivers have."""
    spools = [folder / "spool" for folder in base.glob("receiver-*") if (folder / "spool").is_dir()]
    others = [folder for folder in base.glob("receiver-*") if not (folder / "spool").is_dir()]
    files = sum(path.is_file() for folder in others for path in folder.rglob("*"))
    return files + sum(sum(count_files(spool).values()) for spool in spools)


def _report(receivers: Sequence[Peer], seconds: dict[tuple[str, str, str], list[float]], rounds: int) -> str:
    lines = [
        f"Measured with `scripts/bench send --rounds {rounds}` on {describe()}.",
        f"Objects a second over the whole command, medians of {rounds}; in brackets the ratio to {REFERENCE}.",
        "",
        "| files | to | " + " | ".join(f"`{sender}`" for sender in SENDERS) + " |",
        "|---" * (len(SENDERS) + 2) + "|",
    ]
    for load in LOADS:
        for receiver in receivers:
            if (load.name, receiver.name, REFERENCE) not in seconds:
                continue
            medians = {name: statistics.median(seconds[load.name, receiver.name, name]) for name in SENDERS}
            cells = [
                f"{load.count / taken:,.0f}/s"
                + (f" ({medians[REFERENCE] / taken:.2f}x)" if name != REFERENCE and taken else "")
                for name, taken in medians.items()
            ]
            lines.append(f"| {load.name} | {receiver.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
