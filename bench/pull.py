"""Retrievals side by side from one DCMTK archive: by movescu to storescp and to our edge, by Orthanc, and by our pull.

Each is timed from its command to the last image acknowledged; our pull to its report too, which it makes after it has
asked for everything a second time. All programs of DCMTK's run with TCP_NODELAY=1.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable  # noqa: TC003  # the annotation of `ways` is of a local
from pathlib import Path
from typing import Any, Final

from archives import (
    COUNT,
    ENVIRONMENT,
    IMAGES,
    PATIENT,
    STUDIES,
    archive,
    fill_archive,
    free_ports,
    move,
    per_second,
    study_uids,
    wait_until,
)
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from machine import describe
from peers import PEERS, running
from report import replace_section

ORTHANC: Final = "Orthanc's own retrieve"
_ANSWER_SECONDS: Final = 120


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Path, Path], float]] = {
        "movescu to storescp": lambda base, pacs: _move(base, pacs, "DCMTK storescp"),
        "movescu to dicomflow": lambda base, pacs: _move(base, pacs, "dicomflow"),
        "dicomflow pull": lambda base, pacs: _pull(base, pacs, report=False),
        "dicomflow pull, to its report": lambda base, pacs: _pull(base, pacs, report=True),
        ORTHANC: _orthanc,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        pacs = fill_archive(base)
        for number in range(arguments.rounds):
            for name, measure in ways.items():
                rates[name].append(measure(base, pacs))
                print(f"round {number + 1}: {name}: {rates[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    lines = [
        f"Measured with `scripts/bench pull --rounds {arguments.rounds}` on {describe()}.",
        (
            f"{STUDIES} studies of {IMAGES} CT of 525 KB from DCMTK's dcmqrscp; images a second, medians of"
            f" {arguments.rounds}, and the ratio to {ORTHANC}, which runs already and has asked before the time begins."
        ),
        "",
        "| way | images a second | ratio |",
        "|---|---|---|",
        *(f"| {name} | {rate:,.0f} | {rate / (medians[ORTHANC] or 1):.2f}x |" for name, rate in medians.items()),
    ]
    print("\n".join(lines))
    if arguments.write:
        replace_section(Path("docs/performance.md"), "pull", "\n".join(lines))
    return 0


def _move(base: Path, pacs: Path, name: str) -> float:
    (peer,) = (each for each in PEERS if each.name == name)
    with running(peer, base) as (port, _), archive(base, pacs, {"TARGET": port}) as source:
        return per_second(move(source, "TARGET"))


def _pull(base: Path, pacs: Path, *, report: bool) -> float:
    """Time from the command, with its start and its look, until the ledger has all images, or until its report."""
    (peer,) = (each for each in PEERS if each.name == "dicomflow")
    with running(peer, base) as (port, _), archive(base, pacs, {"TARGET": port}) as source:
        config = max(base.glob("receiver-*/edge.toml"), key=lambda path: path.stat().st_mtime)
        with config.open("a") as file:
            file.write(
                f'[sources.PACS]\nhost = "127.0.0.1"\nport = {source}\nae_title = "PACS"\nmove_destination = "TARGET"\n'
            )
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "dicomflow", "pull", "PACS", "--config", str(config), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ledger = config.parent / "spool" / LEDGER_FILE
        wait_until(lambda: _count(ledger) == COUNT)
        seconds = time.perf_counter() - started
        if process.wait():
            return 0.0
        return COUNT / (time.perf_counter() - started if report else seconds)


def _count(path: Path) -> int:
    if not path.exists():
        return 0
    ledger = Ledger(path, read_only=True)
    try:
        return sum(ledger.count_study(uid)[0] for uid in study_uids())
    finally:
        ledger.close()


def _orthanc(base: Path, pacs: Path) -> float:
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        return 0.0
    port, http_port = free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="orthanc-", dir=base))
    with archive(base, pacs, {"ORTHANC": port}) as source:
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomPort": port,
            "HttpPort": http_port,
            "DicomAet": "ORTHANC",
            "DicomModalities": {"pacs": ["PACS", "127.0.0.1", source]},
            "AuthenticationEnabled": False,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _ask(http_port, "/system", None))
            query = {"Level": "Study", "Query": {"PatientID": PATIENT}}
            path = _ask(http_port, "/modalities/pacs/query", query)["Path"]
            started = time.perf_counter()
            _ask(http_port, f"{path}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
            seconds = time.perf_counter() - started
            stored = _ask(http_port, "/statistics", None)["CountInstances"]
            return COUNT / seconds if stored == COUNT else 0.0
        finally:
            process.kill()
            process.wait()


def _ask(port: int, path: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
