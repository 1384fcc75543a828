"""The same questions to our archive and to Orthanc over the same studies: equal answers, or the standard says why."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archived import a_study, as_file, fill
from dimse_archive import find, serving
from obstore.store import MemoryStore
from orthanc import Orthanc
from web_archive import archive_over, asking

from dicomflow.archive.archive import Archive
from dicomflow.catalog.engine import create_engine_for, migrate

pytestmark = pytest.mark.interop

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
OBJECTS = [
    each
    for number in range(1, 13)
    for each in a_study(
        number,
        ("CT", 2),
        ("MR" if number % 2 else "SR", 1),
        StudyDate=f"202601{number:02}",
        StudyTime="093000",
        PatientName=f"Invented^Number{number}",
        PatientBirthDate="19600101",
        PatientSex="F" if number % 3 else "M",
        AccessionNumber=f"A{number}",
        StudyID=str(number),
        StudyDescription="CT Head",
        ReferringPhysicianName="Hidden^Doctor",
        SeriesDescription="Thin",
    )
]
STUDY = "1.2.826.0.1.3"
QUESTIONS = (
    "/studies?PatientID=P3",
    "/studies?PatientName=Invented*",
    "/studies?StudyDate=20260103-20260106&includefield=StudyDescription",
    "/studies?ModalitiesInStudy=MR",
    "/studies?AccessionNumber=A5",
    f"/studies/{STUDY}/series",
    "/series?Modality=SR&PatientID=P4",
    f"/studies/{STUDY}/series/{STUDY}.1/instances",
    "/instances?SOPInstanceUID=1.2.826.0.1.3.1.2",
)
# Orthanc's own: it says Latin-1 of its JSON, which is UTF-8 (PS3.18 F.2); addresses differ.
APART = {"00080005", "00081190"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, Archive]]:
    """Give an Orthanc and an archive of ours with the same objects."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (package orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("beside")
    orthanc = Orthanc(
        folder / "orthanc", {"AET": "READER", "Port": 1}, Plugins=[str(PLUGIN)], DicomWeb={"Enable": True}
    )
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    try:
        for each in OBJECTS:
            orthanc.post("/instances", as_file(each))
        fill(engine, MemoryStore(), OBJECTS)
        yield orthanc, archive_over(engine)
    finally:
        orthanc.close()
        engine.dispose()


def rows(answer: Any) -> dict[str, dict[str, Any]]:
    """Return rows by their most specific UID, each attribute with its values as text."""
    found = {}
    for row in answer:
        key = next(row[tag]["Value"][0] for tag in ("00080018", "0020000E", "0020000D") if tag in row)
        found[key] = {tag: [_plain(each) for each in element.get("Value", [])] for tag, element in row.items()}
    return found


def _plain(value: Any) -> str:
    return str(value.get("Alphabetic")) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize("question", QUESTIONS)
def test_search_is_answered_as_orthanc_does(both: tuple[Orthanc, Archive], question: str):
    """The same rows, and each attribute that both give has the same values."""
    orthanc, archive = both
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web{question}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        theirs = rows(json.load(answer))
    with asking(archive) as client:
        ours = rows(client.get(question).json())
    assert theirs.keys() == ours.keys() != set()
    for key, row in ours.items():
        shared = (row.keys() & theirs[key].keys()) - APART
        assert len(shared) >= 5
        assert {tag: sorted(theirs[key][tag]) for tag in shared} == {tag: sorted(row[tag]) for tag in shared}


@pytest.mark.parametrize(
    "keys",
    [
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientID": "P3", "PatientName": ""},
        {
            "QueryRetrieveLevel": "STUDY",
            "StudyInstanceUID": "",
            "StudyDate": "20260103-20260106",
            "AccessionNumber": "",
        },
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": "Invented^Number1*", "StudyDate": ""},
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": "", "Modality": ""},
    ],
)
def test_query_is_answered_as_orthanc_does(both: tuple[Orthanc, Archive], keys: dict[str, Any]):
    """C-FIND has the same answers, attribute by attribute, but for what each says of itself."""
    orthanc, archive = both
    counted = {"NumberOfStudyRelatedInstances": None} if keys["QueryRetrieveLevel"] == "STUDY" else {}
    theirs, statuses, _ = find(orthanc.dicom_port, keys | counted, called="ORTHANC")
    with serving(archive) as server:
        ours, _, _ = find(server.ports[0], keys | counted)
    assert 0 == statuses[-1]

    def values(answers: list[Any]) -> list[dict[str, str]]:
        own = {"SpecificCharacterSet", "RetrieveAETitle"}
        told = [{each.keyword: str(each.value) for each in answer if each.keyword not in own} for answer in answers]
        return sorted(told, key=str)

    assert values(theirs) == values(ours) != []
