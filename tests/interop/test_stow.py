"""Orthanc takes by STOW-RS what a route sends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from orthanc import Orthanc
from routed_site import RoutedSite

from dicomflow.samples import demo_studies, write

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """Start one with its DICOMweb."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (package orthanc-dicomweb)")
    started = Orthanc(
        tmp_path / "orthanc", {"AET": "EDGE", "Port": 1}, Plugins=[str(PLUGIN)], DicomWeb={"Enable": True}
    )
    yield started
    started.close()


def test_orthanc_takes_every_kind_of_image(orthanc: Orthanc, tmp_path: Path):
    """CT, MR, a private class and JPEG, in one request or several: each is there, and none is quarantined."""
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
    site = RoutedSite(tmp_path, destinations={"web": {"kind": "stow", "url": url}}, routes=[{"to": ["web"]}])
    for path in write(demo_studies(seed=88), tmp_path / "sent"):
        site.receive_content(path.stem, path.read_bytes())
    site.spool.associations.note_end("a1", "released")
    site.run(site.is_level)
    assert [] == list(site.spool.quarantined.iterdir())
    found = {each["MainDicomTags"]["SOPInstanceUID"] for each in orthanc.get("/instances?expand")}
    assert site.sent.keys() == found
