"""Retrievals side by side from one DCMTK archive: by movescu to storescp and to our edge, by Orthanc, and by our pull.

Each is timed from its command to the last image acknowledged; our pull to its report too, which it makes after it has
asked for everything a second time. All programs of DCMTK's run with TCP_NODELAY=1.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dicomflow import samples
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from machine import describe
from peers import PEERS, running
from report import replace_section

STUDIES: Final = 4
IMAGES: Final = 100
"""Of each study, in one series."""
COUNT: Final = STUDIES * IMAGES
SIDE: Final = 512
STUDY: Final = "1.2.826.0.1.3680043.10.1"
PATIENT: Final = "BENCH-1"
ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
ORTHANC: Final = "Orthanc's own retrieve"
WAIT_SECONDS: Final = 120


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
        pacs = _fill(base)
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


def _fill(base: Path) -> Path:
    """Return the folder of an archive that has the series."""
    (image,) = samples.ct_study(1, series=1, slices=1, side=SIDE)
    image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID = PATIENT, f"{STUDY}.1000000", f"{STUDY}.2000000"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.3000000"
    image.InstanceNumber = "4000000"
    image.save_as(base / "one.dcm", enforce_file_format=True)
    content = (base / "one.dcm").read_bytes()
    (base / "files").mkdir()
    for number in range(COUNT):
        study, place = divmod(number, IMAGES)
        changed = content.replace(b".3000000", f".{3_000_000 + number}".encode())
        for before, after in ((b".1000000", f".{1_000_000 + study}"), (b".2000000", f".{2_000_000 + study}")):
            changed = changed.replace(before, after.encode())
        changed = changed.replace(b"4000000", str(4_000_000 + place).encode())
        (base / "files" / f"{number}.dcm").write_bytes(changed)
    (base / "pacs").mkdir()
    with _archive(base, base / "pacs", {}) as port:
        subprocess.run(
            ["storescu", "-aec", "PACS", "+sd", "127.0.0.1", str(port), str(base / "files")],
            check=True,
            env=ENVIRONMENT,
        )
    return base / "pacs"


@contextlib.contextmanager
def _archive(base: Path, pacs: Path, hosts: dict[str, int]) -> Iterator[int]:
    (port,) = _ports(1)
    config = base / "dcmqrscp.cfg"
    table = "\n".join(f"{name} = ({name}, 127.0.0.1, {number})" for name, number in hosts.items())
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\nHostTable BEGIN\n{table}\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nPACS {pacs} RW (100, 4096mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        ["dcmqrscp", "-c", str(config)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(
            lambda: (
                subprocess.run(
                    ["echoscu", "-aec", "PACS", "127.0.0.1", str(port)], check=False, capture_output=True
                ).returncode
                == 0
            )
        )
        yield port
    finally:
        process.kill()
        process.wait()


def _move(base: Path, pacs: Path, name: str) -> float:
    (peer,) = (each for each in PEERS if each.name == name)
    with running(peer, base) as (port, _), _archive(base, pacs, {"TARGET": port}) as archive:
        return _timed(
            [
                *("movescu", "-S", "-aec", "PACS", "-aem", "TARGET", "-k", "0008,0052=STUDY"),
                *("-k", f"StudyInstanceUID={_uids()}", "127.0.0.1", str(archive)),
            ]
        )


def _pull(base: Path, pacs: Path, *, report: bool) -> float:
    """Time from the command, with its start and its look, until the ledger has all images, or until its report."""
    (peer,) = (each for each in PEERS if each.name == "dicomflow")
    with running(peer, base) as (port, _), _archive(base, pacs, {"TARGET": port}) as archive:
        config = max(base.glob("receiver-*/edge.toml"), key=lambda path: path.stat().st_mtime)
        with config.open("a") as file:
            file.write(
                f'[sources.PACS]\nhost = "127.0.0.1"\nport = {archive}\nae_title = "PACS"\n'
                'move_destination = "TARGET"\n'
            )
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "dicomflow", "pull", "PACS", "--config", str(config), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ledger = config.parent / "spool" / LEDGER_FILE
        _wait(lambda: _count(ledger) == COUNT)
        seconds = time.perf_counter() - started
        if process.wait():
            return 0.0
        return COUNT / (time.perf_counter() - started if report else seconds)


def _uids() -> str:
    return "\\".join(f"{STUDY}.{1_000_000 + number}" for number in range(STUDIES))


def _count(path: Path) -> int:
    if not path.exists():
        return 0
    ledger = Ledger(path, read_only=True)
    try:
        return sum(ledger.count_study(uid)[0] for uid in _uids().split("\\"))
    finally:
        ledger.close()


def _orthanc(base: Path, pacs: Path) -> float:
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        return 0.0
    port, http_port = _ports(2)
    folder = Path(tempfile.mkdtemp(prefix="orthanc-", dir=base))
    with _archive(base, pacs, {"ORTHANC": port}) as archive:
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomPort": port,
            "HttpPort": http_port,
            "DicomAet": "ORTHANC",
            "DicomModalities": {"pacs": ["PACS", "127.0.0.1", archive]},
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
            _wait(lambda: _ask(http_port, "/system", None))
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
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=WAIT_SECONDS) as answer:
            return json.load(answer)
    except OSError:
        return None


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return COUNT / (time.perf_counter() - started)


def _wait(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not come to be")
        time.sleep(0.02)


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
