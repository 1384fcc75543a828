"""Receivers side by side: dicomflow, DCMTK storescp, Orthanc and pynetdicom, in one run on one machine.

Each load runs on each receiver in turn, `--rounds` times over; the medians are compared. The sender is `load`:
pre-encoded objects in PDUs of 16 KiB, Nagle off. Objects stay in the spool: what is measured is receiving.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from foreign import compare
from load import Load, encode_objects, send
from machine import describe, digest_milliseconds, durable_writes_per_second
from peers import PEERS, Peer, is_installed, running, warm_memory
from report import replace_section

_CT_BYTES: Final = 525_000
LOADS: Final = (
    Load("CT 525 KB, 1 association", 400, _CT_BYTES),
    Load("CT 525 KB, 4 associations", 400, _CT_BYTES, associations=4),
    Load("10 KB, 1 association", 2000, 10_000),
    Load("10 KB, 4 associations", 2000, 10_000, associations=4),
    Load("10 KB, 4 associations, for some seconds", 20_000, 10_000, associations=4),
    Load("100 MB multi-frame, 1 association", 8, 100_000_000),
    Load("10 KB, an association each, 1 sender", 200, 10_000, association_per_object=True),
    Load("10 KB, an association each, 4 senders", 400, 10_000, associations=4, association_per_object=True),
)
REFERENCE: Final = "DCMTK storescp"
# It would take minutes with a load that others take in seconds.
SLOW: Final = "pynetdicom storescp"
MANY: Final = 10_000
DISK: Final = "the disk alone"


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench receive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=int, action="append", choices=range(len(LOADS)), help="only these loads")
    parser.add_argument("--peer", action="append", help="only peers whose name contains this")
    parser.add_argument("--foreign", action="store_true", help="instead, DCMTK's senders while deliveries go to S3")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    if arguments.foreign:
        return _foreign(arguments.rounds, is_written=arguments.write)
    loads = [LOADS[number] for number in arguments.load or range(len(LOADS))]
    peers = [peer for peer in PEERS if is_installed(peer) and _is_wanted(peer, arguments.peer)]
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base:
        for load in loads:
            for run in range(arguments.rounds):
                objects = encode_objects(load, run + 1)
                warm_memory()
                disk = durable_writes_per_second(load.count, load.size_bytes, load.associations, Path(base))
                rates.setdefault((load.name, DISK), []).append(disk)
                for peer in peers:
                    if load.count >= MANY and peer.name == SLOW:
                        continue
                    rates.setdefault((load.name, peer.name), []).append(_measure(peer, load, objects, Path(base)))
            print(_row(load, peers, rates), file=sys.stderr, flush=True)
    text = _report(loads, peers, rates, arguments.rounds)
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "receive", text)
    return 0


def _foreign(rounds: int, *, is_written: bool) -> int:
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base:
        text = compare(Path(base), rounds)
    print(text)
    if is_written:
        replace_section(Path("docs/performance.md"), "foreign senders", text)
    return 0


def _measure(peer: Peer, load: Load, objects: Sequence[bytes], base: Path) -> float:
    """Return objects a second; 0 for a receiver that did not store them all, or failed."""
    try:
        with running(peer, base, load) as (port, _):
            result = send("127.0.0.1", port, load, objects)
    except (RuntimeError, OSError) as error:
        print(f"{peer.name}: {load.name}: {error}", file=sys.stderr)
        return 0.0
    return result.per_second if result.stored == load.count else 0.0


def _is_wanted(peer: Peer, names: Sequence[str] | None) -> bool:
    return names is None or any(name.lower() in peer.name.lower() for name in names)


def _row(load: Load, peers: Sequence[Peer], rates: dict[tuple[str, str], list[float]]) -> str:
    cells = []
    reference = statistics.median(rates.get((load.name, REFERENCE), [0.0]))
    for peer in peers:
        found = rates.get((load.name, peer.name))
        if found is None:
            cells.append("not run")
            continue
        rate = statistics.median(found)
        ratio = f" ({rate / reference:.2f}x)" if reference and peer.name != REFERENCE else ""
        cells.append(f"{_figure(rate)}/s{ratio}" if rate else "failed")
    disk = f"{_figure(statistics.median(rates[load.name, DISK]))}/s"
    return f"| {load.name} | " + " | ".join([*cells, disk]) + " |"


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _report(
    loads: Sequence[Load], peers: Sequence[Peer], rates: dict[tuple[str, str], list[float]], rounds: int
) -> str:
    lines = [
        f"Measured with `scripts/bench receive --rounds {rounds}` on {describe()}.",
        f"Objects a second, medians of {rounds}; in brackets the ratio to {REFERENCE}, which syncs nothing.",
        (
            "dicomflow writes instances of 64 KiB and more over files of those that were stored before, as it does"
            " once a delivery is done; beside it with new files only, as right after the first start."
        ),
        (
            "dicomflow gathers what it received into deliveries beside that. Of small instances it makes files once a"
            " second: some of the short loads are gathered when the clock has stopped, little of the long one is."
        ),
        "The disk alone: as many new files written, renamed and synced, with nothing received.",
        (
            f"The SHA-256 of {_CT_BYTES:,} bytes, which only dicomflow computes while it receives, takes"
            f" {digest_milliseconds(_CT_BYTES):.2f} ms of a core here."
        ),
        "",
        "| load | " + " | ".join([*(peer.name for peer in peers), DISK]) + " |",
        "|---" * (len(peers) + 2) + "|",
        *(_row(load, peers, rates) for load in loads),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
