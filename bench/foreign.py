"""Foreign senders beside each other: what storescu and a C-MOVE from dcmqrscp get, while deliveries go to S3.

The store is a sink on this machine that is put to over TLS; storescp, which syncs and delivers nothing, stands beside.
"""

import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from archives import COUNT, ENVIRONMENT, archive, fill_archive, move, per_second
from machine import describe
from peers import PEERS, Peer, running

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from tls_sink import TlsSink, make_certificate  # the sink that the tests use

__all__ = ["compare"]

_WITH_NAGLE: Final = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
_SENDERS: Final = {
    "storescu": ENVIRONMENT,
    "storescu, Nagle's algorithm on": _WITH_NAGLE,
    "C-MOVE from dcmqrscp": None,
}


def compare(base: Path, rounds: int) -> str:
    """Run each sender to each receiver, `rounds` times over; return the table of medians."""
    authority, certificate, key = make_certificate(base)
    sink = TlsSink(certificate, key)
    delivery = f'endpoint = "{sink.url}"\nca_certificate = "{authority}"\nconcurrency = 8\nquiet_seconds = 1\n'
    (edge,), (storescp,) = ([each for each in PEERS if each.name == name] for name in ("dicomflow", "DCMTK storescp"))
    delivering = Peer(
        "dicomflow, delivering to S3", lambda folder, port: _delivering(edge.command, folder, port, delivery)
    )
    pacs = fill_archive(base)
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for sender in _SENDERS:
            for peer in (delivering, storescp):
                rate = _send(base, pacs, sender, peer)
                rates.setdefault((sender, peer.name), []).append(rate)
                print(f"round {number + 1}: {sender} to {peer.name}: {rate:,.0f}/s", file=sys.stderr, flush=True)
    sink.close()
    lines = [
        f"Measured with `scripts/bench receive --foreign --rounds {rounds}` on {describe()}.",
        f"{COUNT} CT of 525 KB on one association; images a second, medians of {rounds}.",
        "",
        f"| sender | {delivering.name} | {storescp.name} | ratio |",
        "|---|---|---|---|",
    ]
    for sender in _SENDERS:
        ours, theirs = (statistics.median(rates[sender, peer.name]) for peer in (delivering, storescp))
        lines.append(f"| {sender} | {ours:,.0f}/s | {theirs:,.0f}/s | {ours / theirs:.2f}x |")
    return "\n".join(lines)


def _delivering(
    command: Callable[[Path, int], list[str] | None], folder: Path, port: int, delivery: str
) -> list[str] | None:
    """Write the edge's settings, and put the sink in the place of the store that refuses connections."""
    found = command(folder, port)
    config = folder / "edge.toml"
    head, _, _ = config.read_text(encoding="utf-8").partition("concurrency")
    config.write_text(f"{head}{delivery}", encoding="utf-8")
    return found


def _send(base: Path, pacs: Path, sender: str, peer: Peer) -> float:
    environment = _SENDERS[sender]
    with running(peer, base) as (port, _):
        if environment is None:
            with archive(base, pacs, {"TARGET": port}) as source:
                return per_second(move(source, "TARGET"))
        files = str(base / "files")
        return per_second(["storescu", "-aec", "ANY-SCP", "+sd", "127.0.0.1", str(port), files], environment)
