"""What delivery costs: CT objects of 525 KB for each second of CPU, over TLS to a sink on this machine.

The deliverer runs whole, as the edge runs it: it gathers what lies in the spool, checks each digest, keeps its ledger,
puts the objects and their manifest, and empties the spool. Beside it stands boto3's `upload_file`, which only uploads,
with the same checksum and as many uploads at once. From both the CPU of a run without objects is taken off.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dicomflow.dicom.part10 import encode_file_meta
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomflow.edge.spool.lane import Lane
from machine import describe
from peers import warm_memory
from report import replace_section

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from tls_sink import TlsSink, make_certificate  # the sink that the tests use

OBJECT_BYTES: Final = 525_000
CONCURRENCY: Final = 8
CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
WAIT_SECONDS: Final = 600

DELIVERER: Final = """
import json, sys
from dicomflow.edge.deliver.process import DelivererStart, run_deliverer
from dicomflow.logs import LogSettings
from dicomflow.edge.settings import EdgeSettings
run_deliverer(DelivererStart(EdgeSettings(**json.loads(sys.argv[1])), LogSettings("WARNING", False), None))
"""
BOTO3: Final = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import boto3
from botocore.config import Config
folder, url, authority, concurrency = sys.argv[1:]
config = Config(max_pool_connections=int(concurrency))
client = boto3.client("s3", endpoint_url=url, verify=authority, config=config)
options = {"ChecksumAlgorithm": "SHA256"}
def put(path):
    client.upload_file(str(path), "bench", path.name, ExtraArgs=options)
with ThreadPoolExecutor(int(concurrency)) as pool:
    list(pool.map(put, sorted(Path(folder).iterdir())))
Path(folder).rename(folder + ".done")
time.sleep(3600)
"""
ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def main() -> int:
    """Run both, print the comparison, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench deliver", description=__doc__)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"dicomflow": [], "boto3 upload_file": []}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        base = Path(name)
        authority, certificate, key = make_certificate(base)
        sink = TlsSink(certificate, key)
        for number in range(arguments.rounds):
            for peer, run in (("dicomflow", _deliver), ("boto3 upload_file", _upload)):
                idle = run(base / f"{peer[:5]}-idle-{number}", 0, sink, authority)
                cost = run(base / f"{peer[:5]}-{number}", arguments.objects, sink, authority)
                rates[peer].append(arguments.objects / (cost - idle))
                print(f"{peer}: {rates[peer][-1]:,.0f} per CPU second", file=sys.stderr, flush=True)
        sink.close()
    text = _report(rates, arguments.objects, arguments.rounds)
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "deliver", text)
    return 0


def _deliver(folder: Path, count: int, sink: TlsSink, authority: Path) -> float:
    """Deliver objects from a spool until it is empty; return the CPU seconds."""
    spool = Lane(folder / "spool")
    for number in range(count):
        file = spool.create("bench", number)
        file.write([_encode(number)])
        file.commit("127.0.0.1")
    settings = {
        "name": "bench",
        "spool": {"dir": str(spool.root), "slow_below_bytes": 0, "refuse_below_bytes": 0},
        "delivery": {
            "store_url": "s3://bench",
            "endpoint": sink.url,
            "ca_certificate": str(authority),
            "concurrency": CONCURRENCY,
            "quiet_seconds": 1,
        },
    }

    def _is_done() -> bool:
        return not any(spool.received.rglob("*.dcm")) and not any(spool.delivering.iterdir())

    before = sink.objects
    cost = _run([sys.executable, "-c", DELIVERER, json.dumps(settings)], _is_done, is_idle=not count)
    if sink.objects - before < count + bool(count):
        raise SystemExit(f"the sink got {sink.objects - before:,} of {count:,} objects and a manifest")
    return cost


def _upload(folder: Path, count: int, sink: TlsSink, authority: Path) -> float:
    """Upload files with boto3 until it renames their folder; return the CPU seconds."""
    files = folder / "files"
    files.mkdir(parents=True)
    for number in range(count):
        (files / f"{number}.dcm").write_bytes(_encode(number))
    before = sink.objects
    command = [sys.executable, "-c", BOTO3, str(files), sink.url, str(authority), str(CONCURRENCY)]
    cost = _run(command, (folder / "files.done").exists, is_idle=not count)
    if sink.objects - before != count:
        raise SystemExit(f"the sink got {sink.objects - before:,} of {count:,} objects")
    return cost


def _run(command: Sequence[str], is_done: Callable[[], bool], *, is_idle: bool) -> float:
    """Run a command until it is done, one without objects for some seconds; return its CPU seconds."""
    warm_memory()
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | ENVIRONMENT)
    try:
        while not is_done() or (is_idle and time.perf_counter() - started < 5):
            if process.poll() is not None:
                raise SystemExit(f"{command[2][:40]!r} ended with {process.returncode}")
            if time.perf_counter() - started > WAIT_SECONDS:
                raise SystemExit(f"not done within {WAIT_SECONDS} s")
            time.sleep(0.05)
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")
    finally:
        process.kill()
        process.wait()


def _encode(number: int) -> bytes:
    uids = ((0x08, 0x16, CT_IMAGE), (0x08, 0x18, f"1.2.3.{number}"), (0x20, 0x0D, "1.2.3"), (0x20, 0x0E, "1.2.3.1"))
    parts = [encode_file_meta(CT_IMAGE, f"1.2.3.{number}", EXPLICIT_VR_LITTLE_ENDIAN, "BENCH", "DICOMFLOW")]
    for group, element, uid in uids:
        value = uid.encode() + b"\0" * (len(uid) % 2)
        head = group.to_bytes(2, "little") + element.to_bytes(2, "little") + b"UI" + len(value).to_bytes(2, "little")
        parts.append(head + value)
    pixels = os.urandom(OBJECT_BYTES)
    parts.append(b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little") + pixels)
    return b"".join(parts)


def _report(rates: dict[str, list[float]], count: int, rounds: int) -> str:
    medians = {peer: statistics.median(found) for peer, found in rates.items()}
    reference = medians["boto3 upload_file"]
    lines = [
        f"Measured with `scripts/bench deliver --objects {count} --rounds {rounds}` on {describe()}.",
        (
            f"Objects of {OBJECT_BYTES:,} bytes over TLS, {CONCURRENCY} at once, medians of {rounds};"
            " start-up is not counted."
        ),
        "",
        "| | objects per CPU second | ratio |",
        "|---|---|---|",
        *(f"| {peer} | {rate:,.0f} | {rate / reference:.2f}x |" for peer, rate in medians.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
