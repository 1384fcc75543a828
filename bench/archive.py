"""The archive beside Orthanc with its DICOMweb plug-in: a CT of 400 images given out over HTTP and over DIMSE.

Both have the same files. HTTP is asked by a raw client that drops what it reads, so that the servers are measured and
no parser is; DIMSE by DCMTK's getscu and movescu (to storescp, which throws away what it gets), timed as whole
commands, with TCP_NODELAY=1. Rounds alternate. Memory is the most that a server's processes had.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from obstore.store import LocalStore
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomflow.bucket.keys import instance_key
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.pipeline.events import StoredObjectEvent
from dicomflow.pipeline.index import index_objects
from machine import describe
from report import replace_section

COUNT: Final = 400
SIDE: Final = 512
STUDY: Final = "1.2.826.0.1.3680043.10.1404.9"
SERIES: Final = f"{STUDY}.1"
TEXTS: Final = """
    Manufacturer InstitutionName StationName StudyDescription SeriesDescription ManufacturerModelName ProtocolName
    DeviceSerialNumber SoftwareVersions ConvolutionKernel BodyPartExamined FilterType ScanOptions RequestingService
    StudyID AccessionNumber PerformedProcedureStepID ImageComments
""".split()  # noqa: SIM905  # one line for each quoted string would take a page
NUMBERS: Final = """
    KVP DataCollectionDiameter ReconstructionDiameter GantryDetectorTilt TableHeight ExposureTime XRayTubeCurrent
    Exposure GeneratorPower RescaleIntercept RescaleSlope WindowCenter WindowWidth
""".split()  # noqa: SIM905  # as above
PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS: Final = 60.0
MULTIPART: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
METADATA: Final = "application/dicom+json"
MEASURES: Final = ("study, multipart", "first byte", "metadata", "C-GET", "C-MOVE")


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench archive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--serve", nargs=4, metavar=("FOLDER", "HTTP", "DIMSE", "SINK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        folder, *ports = arguments.serve
        _serve(Path(folder), *map(int, ports))
        return 0
    found: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base, contextlib.ExitStack() as running:
        files = _files(Path(base) / "files")
        ports = _free_ports(5)
        sink = ports[4]
        running.enter_context(_sink(sink))
        servers = {"dicomflow": _ours(Path(base), files, ports[0], ports[1], sink)}
        if shutil.which("Orthanc") and PLUGIN.exists():
            servers["Orthanc"] = _orthanc(Path(base), files, ports[2], ports[3], sink)
        started = {name: running.enter_context(server) for name, server in servers.items()}
        for _ in range(arguments.rounds + 1):  # the first warms up
            for name, (url, dimse, _) in started.items():
                for measure, seconds in _measured(url, dimse):
                    found.setdefault(name, {}).setdefault(measure, []).append(seconds)
                    print(name, measure, f"{seconds:.3f} s", file=sys.stderr, flush=True)
        for name, (_, _, process) in started.items():
            memory[name] = _most_memory(process)
    text = _report(found, memory, arguments.rounds)
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "archive", text)
    return 0


def _files(folder: Path) -> list[Path]:
    """Write a CT with a header as scanners write them."""
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 4096, (SIDE, SIDE), np.uint16).tobytes()
    paths = []
    for number in range(1, COUNT + 1):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = STUDY, SERIES, f"{STUDY}.2"
        dataset.PatientName, dataset.PatientID, dataset.Modality = "Load^Generated", "LOAD-1", "CT"
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260101"
        dataset.StudyTime = dataset.SeriesTime = "101010"
        dataset.ContentTime = f"1010{number % 60:02}"
        for keyword in TEXTS:
            setattr(dataset, keyword, f"{keyword[:8]} 1")
        for keyword in NUMBERS:
            setattr(dataset, keyword, "1")
        dataset.InstanceNumber, dataset.SliceLocation = number, number * 0.5
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number * 0.5], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], "1"
        dataset.Rows = dataset.Columns = SIDE
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.add_new(0x7FE00010, "OW", pixels)
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        path = folder / f"{number:04}.dcm"
        path.write_bytes(stream.getvalue())
        paths.append(path)
    return paths


def _serve(folder: Path, http_port: int, dimse_port: int, sink: int) -> None:
    """Serve the archive of a folder; the process that is measured."""
    from dicomflow.archive.archive import Archive  # noqa: PLC0415  # the measured process's alone
    from dicomflow.archive.catalog.audit import CatalogAudit  # noqa: PLC0415
    from dicomflow.archive.catalog.query import CatalogQuery  # noqa: PLC0415
    from dicomflow.archive.catalog.retrieval import CatalogRetrieval  # noqa: PLC0415
    from dicomflow.archive.dimse.move import MoveDestination  # noqa: PLC0415
    from dicomflow.archive.dimse.peers import Peers  # noqa: PLC0415
    from dicomflow.archive.dimse.services import ArchiveSite, operations  # noqa: PLC0415
    from dicomflow.archive.pixels.conversions import Conversions  # noqa: PLC0415
    from dicomflow.archive.web.access import WebAccess  # noqa: PLC0415
    from dicomflow.archive.web.app import create_archive  # noqa: PLC0415
    from dicomflow.network.server import DimseServer  # noqa: PLC0415
    from dicomflow.network.settings import ArchivePeer, DimseSettings  # noqa: PLC0415
    from dicomflow.serving import WebServer  # noqa: PLC0415

    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    retrieval = CatalogRetrieval(engine, LocalStore(folder / "objects"))
    archive = Archive(CatalogQuery(engine), retrieval, Conversions(retrieval), CatalogAudit(engine), "ARCHIVE")
    destinations = {"SINK": MoveDestination("127.0.0.1", sink, "SINK", "ARCHIVE")}
    site = ArchiveSite(archive, Peers({"BENCH": ArchivePeer(query=True, retrieve=True)}), operations(destinations))
    settings = DimseSettings(ae_title="ARCHIVE", bind="127.0.0.1", port=dimse_port)
    server = DimseServer(settings, site.serve)
    WebServer(create_archive(archive, WebAccess()), "127.0.0.1", http_port).run()
    server.close()


@contextlib.contextmanager
def _ours(
    base: Path, files: list[Path], http_port: int, dimse_port: int, sink: int
) -> Iterator[tuple[str, list[str], int]]:
    folder = base / "dicomflow"
    folder.mkdir()
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    store = LocalStore(folder / "objects", mkdir=True)
    events = []
    for path in files:
        key = instance_key("bench", "d1", STUDY, SERIES, f"{SERIES}.{int(path.stem)}")
        store.put(key, path.read_bytes())
        events.append(StoredObjectEvent(key, "bucket", key))
    assert index_objects(engine, store, events).indexed == COUNT
    engine.dispose()
    command = [sys.executable, __file__, "--serve", str(folder), str(http_port), str(dimse_port), str(sink)]
    with _process(command, http_port) as process:
        yield (
            f"http://127.0.0.1:{http_port}",
            ["-aet", "BENCH", "-aec", "ARCHIVE", "127.0.0.1", str(dimse_port)],
            process,
        )


@contextlib.contextmanager
def _orthanc(
    base: Path, files: list[Path], http_port: int, dimse_port: int, sink: int
) -> Iterator[tuple[str, list[str], int]]:
    folder = base / "orthanc"
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": http_port,
        "DicomPort": dimse_port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowGet": True,
        "DicomCheckCalledAet": False,
        "DicomModalities": {"sink": ["SINK", "127.0.0.1", sink], "bench": ["BENCH", "127.0.0.1", 1]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        "AuthenticationEnabled": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with _process([str(shutil.which("Orthanc")), str(folder / "orthanc.json")], http_port) as process:
        for path in files:
            request = urllib.request.Request(f"http://127.0.0.1:{http_port}/instances", path.read_bytes())
            urllib.request.urlopen(request, timeout=60).close()
        asked = ["-aet", "BENCH", "-aec", "ORTHANC", "127.0.0.1", str(dimse_port)]
        yield f"http://127.0.0.1:{http_port}/dicom-web", asked, process


@contextlib.contextmanager
def _sink(port: int) -> Iterator[None]:
    command = [str(shutil.which("storescp")), "--ignore", "--fork", str(port)]
    with _process(command, port):
        yield


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Iterator[int]:
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not listen on {port}") from None
                time.sleep(0.05)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _measured(url: str, dimse: list[str]) -> Iterator[tuple[str, float]]:
    study = f"{url}/studies/{STUDY}"
    seconds, first, size = _get(study, MULTIPART)
    assert size > COUNT * SIDE * SIDE * 2, f"only {size:,} bytes came"
    yield "study, multipart", seconds
    yield "first byte", first
    seconds, _, size = _get(f"{study}/metadata", METADATA)
    assert size > COUNT * 1000, f"only {size:,} bytes came"
    yield "metadata", seconds
    keys = ["-S", "-k", "0008,0052=STUDY", "-k", f"0020,000D={STUDY}"]
    yield "C-GET", _timed(["getscu", *keys, "--ignore", *dimse])
    yield "C-MOVE", _timed(["movescu", *keys, "-aem", "SINK", *dimse])


def _get(url: str, accept: str) -> tuple[float, float, int]:
    """Read an answer and drop it; return seconds, seconds to its first byte, and its bytes with headers."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode()
    buffer = memoryview(bytearray(1 << 20))
    size, first = 0, 0.0
    began = time.perf_counter()
    with socket.create_connection((name, int(port)), timeout=300) as connection:
        connection.sendall(request)
        while received := connection.recv_into(buffer):
            if not size:
                first = time.perf_counter() - began
                assert b" 200 " in bytes(buffer[:20]), bytes(buffer[:200])
            size += received
    return time.perf_counter() - began, first, size


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    ended = subprocess.run(
        command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, check=False, timeout=300
    )
    taken = time.perf_counter() - began
    if ended.returncode:
        print(ended.stderr.decode("utf-8", "replace")[-500:], file=sys.stderr)
        return float("inf")
    return taken


def _most_memory(process: int) -> float:
    """Return the most MB that a process and those it started had (proc(5), VmHWM)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            if int(status["Pid"]) == process or int(status["PPid"]) == process:
                total += int(status.get("VmHWM", "0 kB").split()[0])
    return total / 1024


def _report(found: dict[str, dict[str, list[float]]], memory: dict[str, float], rounds: int) -> str:
    lines = [
        f"Measured with `scripts/bench archive --rounds {rounds}` on {describe()}.",
        f"A CT of {COUNT} images of {SIDE * SIDE * 2 // 1000} KB; medians of {rounds} after one to warm up.",
        "",
        "| | " + " | ".join(found) + (" | ratio |" if len(found) > 1 else " |"),
        "|---" * (len(found) + 1 + (len(found) > 1)) + "|",
    ]
    for measure in MEASURES:
        medians = [statistics.median(each[measure][1:]) for each in found.values()]
        cells = [f"{taken * 1000:,.0f} ms" + _rate(measure, taken) for taken in medians]
        ratio = [f"{medians[1] / medians[0]:.2f}x"] if len(medians) > 1 else []
        lines.append(f"| {measure} | " + " | ".join([*cells, *ratio]) + " |")
    lines.append(
        "| most memory | "
        + " | ".join(f"{each:,.0f} MB" for each in memory.values())
        + (" | |" if len(found) > 1 else " |")
    )
    return "\n".join(lines)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        opened = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in opened:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in opened]


def _rate(measure: str, taken: float) -> str:
    return f" ({COUNT / taken:,.0f}/s)" if measure in {"study, multipart", "C-GET", "C-MOVE"} and taken else ""


if __name__ == "__main__":
    sys.exit(main())
