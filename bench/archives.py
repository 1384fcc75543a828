"""A DCMTK archive (dcmqrscp) with studies in it, and DCMTK's commands timed, all with Nagle's algorithm off."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dicomflow import samples

__all__ = [
    "COUNT",
    "ENVIRONMENT",
    "IMAGES",
    "PATIENT",
    "STUDIES",
    "archive",
    "fill_archive",
    "free_ports",
    "move",
    "per_second",
    "study_uids",
    "wait_until",
]

STUDIES: Final = 4
IMAGES: Final = 100
"""Of each study, in one series."""
COUNT: Final = STUDIES * IMAGES
PATIENT: Final = "BENCH-1"
ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
_SIDE: Final = 512
_ROOT: Final = "1.2.826.0.1.3680043.10.1"
_WAIT_SECONDS: Final = 120


def fill_archive(base: Path) -> Path:
    """Write the studies' files to `base/files`, and return the folder of an archive that has them."""
    (image,) = samples.ct_study(1, series=1, slices=1, side=_SIDE)
    image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID = PATIENT, f"{_ROOT}.1000000", f"{_ROOT}.2000000"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{_ROOT}.3000000"
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
    with archive(base, base / "pacs", {}) as port:
        per_second(["storescu", "-aec", "PACS", "+sd", "127.0.0.1", str(port), str(base / "files")])
    return base / "pacs"


@contextlib.contextmanager
def archive(base: Path, pacs: Path, hosts: dict[str, int]) -> Iterator[int]:
    """Run the archive, which knows these AE titles by their ports on this machine; yield its port."""
    (port,) = free_ports(1)
    config = base / "dcmqrscp.cfg"
    table = "\n".join(f"{name} = ({name}, 127.0.0.1, {number})" for name, number in hosts.items())
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\nHostTable BEGIN\n{table}\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nPACS {pacs} RW (100, 4096mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        ["dcmqrscp", "-c", str(config)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    echo = ["echoscu", "-aec", "PACS", "127.0.0.1", str(port)]
    try:
        wait_until(lambda: subprocess.run(echo, check=False, capture_output=True).returncode == 0)
        yield port
    finally:
        process.kill()
        process.wait()


def move(port: int, destination: str) -> list[str]:
    """Return the command that has the archive send all studies to an AE title."""
    keys = ["-k", "0008,0052=STUDY", "-k", "StudyInstanceUID=" + "\\".join(study_uids())]
    return ["movescu", "-S", "-aec", "PACS", "-aem", destination, *keys, "127.0.0.1", str(port)]


def study_uids() -> list[str]:
    """Return the UIDs of the studies."""
    return [f"{_ROOT}.{1_000_000 + number}" for number in range(STUDIES)]


def per_second(command: list[str], environment: dict[str, str] | None = None) -> float:
    """Run a command that sends all images; return images a second."""
    started = time.perf_counter()
    subprocess.run(
        command, check=True, env=environment or ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return COUNT / (time.perf_counter() - started)


def wait_until(is_so: Callable[[], Any]) -> None:
    """Return when it is so; raises `RuntimeError` when it does not come to be."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not come to be")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
