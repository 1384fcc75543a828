"""Pulls from DCMTK's archive and from Orthanc, whose images an edge lacks (PS3.4 C.4)."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_daemon import EdgeDaemon
from orthanc import Orthanc
from waiting import free_ports, wait_for

from dicomflow import samples
from dicomflow.cli import run

pytestmark = pytest.mark.interop


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeDaemon]:
    """Give an edge that runs, called EDGE."""
    (port,) = free_ports(1)
    daemon = EdgeDaemon(tmp_path / "edge", dimse={"port": port, "bind": "127.0.0.1", "ae_title": "EDGE"})
    yield daemon.start()
    daemon.close()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()


@pytest.fixture
def dcmqrscp(tmp_path: Path, edge: EdgeDaemon) -> Iterator[int]:
    """Give the port of DCMTK's archive, called PACS, which knows EDGE."""
    program = shutil.which("dcmqrscp")
    if program is None:
        pytest.skip("DCMTK's dcmqrscp is not installed (package dcmtk)")
    (port,) = free_ports(1)
    storage = tmp_path / "pacs"
    storage.mkdir()
    config = tmp_path / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nedge = (EDGE, 127.0.0.1, {edge.port})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {storage} RW (100, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    try:
        wait_for(lambda: run(["send", "127.0.0.1", str(port), str(tmp_path / "none")]) and _listens(port))
        yield port
    finally:
        process.kill()
        process.wait(30)


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _pull(edge: EdgeDaemon, capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run(["pull", "PACS1", "--config", str(edge.config), "--json", *arguments])
    out, err = capsys.readouterr()
    assert out, err
    return code, json.loads(out)


def _know(edge: EdgeDaemon, port: int, ae_title: str, *lines: str) -> None:
    head = f'[sources.PACS1]\nhost = "127.0.0.1"\nport = {port}\nae_title = "{ae_title}"\nquiet_seconds = 0.5\n'
    with edge.config.open("a") as file:
        file.write(head + "\n".join(lines) + "\n")


@pytest.mark.parametrize("way", ['move_destination = "EDGE"', ""], ids=["C-MOVE", "C-GET"])
def test_images_of_dcmqrscp_that_never_came_are_fetched(
    edge: EdgeDaemon, dcmqrscp: int, dcmtk: Callable[..., Any], tmp_path: Path, capsys: Any, way: str
):
    """Half of a study came, another not at all; afterwards nothing is missing, and the report of a dry run says so."""
    first = samples.write(samples.ct_study(901, series=2, slices=3), tmp_path / "first")
    second = samples.write(samples.ct_study(902, series=1, slices=2), tmp_path / "second")
    assert 0 == dcmtk("storescu", "-aec", "PACS", "127.0.0.1", dcmqrscp, *first, *second).returncode
    assert 0 == dcmtk("storescu", "-aec", "EDGE", "127.0.0.1", edge.port, *first[:3]).returncode
    wait_for(lambda: len(list(edge.objects.rglob("*.dcm"))) == 3)
    _know(edge, dcmqrscp, "PACS", way)
    code, told = _pull(edge, capsys, "--dry-run")
    assert (1, 8, 3, 5) == (code, told["source"], told["here"], told["missing"])
    code, told = _pull(edge, capsys)
    assert (0, 8, 8, 0, 0) == (code, told["source"], told["here"], told["missing"], told["refused"])
    wait_for(lambda: len(list(edge.objects.rglob("*.dcm"))) == 8)
    names = {path.name for path in edge.objects.rglob("*.dcm")}
    assert {path.name for path in (*first, *second)} == names


def test_images_of_orthanc_that_never_came_are_fetched(edge: EdgeDaemon, tmp_path: Path, capsys: Any):
    """The same of another server; an unknown destination is told by the words of its status."""
    orthanc = Orthanc(tmp_path / "orthanc", {"AET": "EDGE", "Port": edge.port})
    try:
        files = samples.write(samples.ct_study(903, series=2, slices=3), tmp_path / "study")
        orthanc.upload(files)
        _know(edge, orthanc.dicom_port, "ORTHANC", 'move_destination = "EDGE"')
        code, told = _pull(edge, capsys, "--study-date", "20260101-20261231", "--modality", "CT")
        assert (0, 6, 6, 0) == (code, told["source"], told["here"], told["missing"])
        assert ["complete"] == [each["state"] for each in told["studies"]]
    finally:
        orthanc.close()


def test_object_that_the_receiver_refuses_keeps_no_other_from_coming(edge: EdgeDaemon, tmp_path: Path, capsys: Any):
    """Orthanc ends a move at the first failure: the rest is asked for in smaller lists, down to one image."""
    orthanc = Orthanc(tmp_path / "orthanc", {"AET": "EDGE", "Port": edge.port})
    try:
        study = list(samples.ct_study(904, series=1, slices=9))
        study[4].SOPClassUID = study[4].file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.38.1"
        files = samples.write(iter(study), tmp_path / "study")
        orthanc.upload(files)
        _know(edge, orthanc.dicom_port, "ORTHANC", 'move_destination = "EDGE"')
        code, told = _pull(edge, capsys)
        assert (1, 9, 8, 1, 1) == (code, told["source"], told["here"], told["missing"], told["refused"])
        (missing,) = told["studies"][0]["missing_images"]
        assert study[4].SOPInstanceUID == missing["image"]
        assert "C000H" in missing["reason"]
    finally:
        orthanc.close()
