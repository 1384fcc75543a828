"""Orthanc as the sender: what its REST API stores to a modality, and the storage commitment it asks for."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_daemon import EdgeDaemon
from orthanc import Orthanc
from pydicom import dcmread
from waiting import free_ports, wait_for

from dicomflow import samples

pytestmark = pytest.mark.interop


@pytest.fixture
def orthanc_to(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Start an Orthanc whose modality `dicomflow` is at a port; fields are the modality's."""
    started: list[Orthanc] = []

    def _orthanc_to(port: int, **fields: Any) -> Orthanc:
        started.append(Orthanc(tmp_path / f"orthanc-{len(started)}", {"AET": "DICOMFLOW", "Port": port} | fields))
        return started[-1]

    yield _orthanc_to
    for each in started:
        each.close()


def test_orthanc_stores_a_study_that_is_mapped(receiver: Any, orthanc_to: Any, tmp_path: Path):
    """CT, MR, JPEG and a private class, sent by Orthanc's REST API, arrive with their pixels and transfer syntaxes."""
    paths = samples.write(samples.demo_studies(seed=79), tmp_path / "study")
    orthanc = orthanc_to(receiver.port)
    names = orthanc.upload(paths)
    answer = orthanc.post("/modalities/dicomflow/store", json.dumps(names).encode())
    assert (len(paths), 0) == (answer["InstancesCount"], answer["FailedInstancesCount"])
    receiver.wait_until_mapped(path.stem for path in paths)
    objects = receiver.objects()
    for path in paths:
        (stored,) = objects[path.stem]
        sent, found = dcmread(path), dcmread(stored)
        assert sent.file_meta.TransferSyntaxUID == found.file_meta.TransferSyntaxUID
        assert sent == found


def test_orthanc_gets_its_storage_commitment(orthanc_to: Any, study: tuple[Path, ...], tmp_path: Path):
    """Orthanc asks for commitment of what it sent, and has every instance reported as committed."""
    (tmp_path / "edge").mkdir()
    (port,) = free_ports(1)
    edge = EdgeDaemon(tmp_path / "edge", dimse={"port": port})
    try:
        orthanc = orthanc_to(port)
        with edge.config.open("a") as config:
            config.write('[commitment]\nlevel = "stored"\n[commitment.peers.ORTHANC]\nhost = "127.0.0.1"\n')
            config.write(f"port = {orthanc.dicom_port}\n")
        edge.start()
        names = orthanc.upload(study)
        body = {"Resources": names, "StorageCommitment": True, "Synchronous": True}
        answer = orthanc.post("/modalities/dicomflow/store", json.dumps(body).encode())
        assert 0 == answer["FailedInstancesCount"]
        report = f"/storage-commitment/{answer['StorageCommitmentTransactionUID']}"
        wait_for(lambda: orthanc.get(report)["Status"] != "Pending", explain=lambda: edge.tail() + orthanc.tail())
        found = orthanc.get(report)
        assert "Success" == found["Status"], found
        assert {path.stem for path in study} == {item["SOPInstanceUID"] for item in found["Success"]}
    finally:
        edge.close()
