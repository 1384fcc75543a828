"""The same questions to our archive and to Orthanc over the same studies: equal answers, or the standard says why.

`DICOMFLOW_TEST_BESIDE_STUDIES` says how many studies (25). What differs stands in docs/archive.md, with its section.
"""

import json
import os
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from archived import MR, as_file, fill, invented_studies
from dimse_archive import find, serving
from obstore.store import MemoryStore
from oracle import expected
from orthanc import Orthanc
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from web_archive import archive_over, asking

from dicomflow.archive.archive import Archive
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.dicom.moments import parse_time

pytestmark = pytest.mark.interop

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
OBJECTS = invented_studies(int(os.environ.get("DICOMFLOW_TEST_BESIDE_STUDIES", "25")), seed=7)
FIRST = OBJECTS[0]
STUDIES = sorted({each.StudyInstanceUID for each in OBJECTS})
UNIQUE = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
LEVELS = {"study": "STUDY", "series": "SERIES", "instance": "IMAGE"}
PATHS = {"study": "/studies", "series": "/series", "instance": "/instances"}
QUESTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("study", {}),
    ("study", {"PatientID": "P003"}),
    ("study", {"PatientID": "P0*"}),
    ("study", {"PatientID": "p0*"}),
    ("study", {"PatientID": "*0?3"}),
    ("study", {"PatientName": "Invented^*"}),
    ("study", {"PatientName": "*hans"}),
    ("study", {"PatientName": "INVENTED^*", "ModalitiesInStudy": "CT"}),
    ("study", {"PatientName": "Yamada^Tarou"}),
    ("study", {"PatientName": "山田*"}),
    ("study", {"PatientName": "*"}),
    ("study", {"StudyDate": "20260103-20260630"}),
    ("study", {"StudyDate": "20260701-"}),
    ("study", {"StudyDate": "-20260401"}),
    ("study", {"StudyDate": "20260630-20260103"}),
    ("study", {"StudyTime": "093000"}),
    ("study", {"StudyTime": "090000-115959"}),
    ("study", {"ModalitiesInStudy": "MR"}),
    ("study", {"ModalitiesInStudy": "M*"}),
    ("study", {"AccessionNumber": "A*"}),
    ("study", {"AccessionNumber": "a%_1"}),
    ("study", {"StudyDescription": "CT chest"}),
    ("study", {"StudyDescription": "*chest"}),
    ("study", {"StudyDescription": "Mrt [Knie] 100 %"}),
    ("study", {"StudyDescription": "Ü*"}),
    ("study", {"StudyID": "0007"}),
    ("study", {"PatientSex": "F"}),
    ("study", {"PatientBirthDate": "19600101"}),
    ("study", {"PatientBirthDate": "-19651231"}),
    ("study", {"ReferringPhysicianName": "Hidden^*"}),
    ("study", {"StudyInstanceUID": "\\".join([*STUDIES[:3], "1.2.3"])}),
    ("study", {"PatientID": "nobody"}),
    ("series", {"StudyInstanceUID": STUDIES[0]}),
    ("series", {"Modality": "SR"}),
    ("series", {"SeriesNumber": "2"}),
    ("series", {"SeriesDescription": "Thorax*"}),
    ("series", {"Modality": "CT", "PatientID": "P003"}),
    ("instance", {"StudyInstanceUID": STUDIES[0]}),
    ("instance", {"SeriesInstanceUID": FIRST.SeriesInstanceUID}),
    ("instance", {"InstanceNumber": "1", "Modality": "MR"}),
    ("instance", {"SOPClassUID": MR}),
    ("instance", {"SOPInstanceUID": FIRST.SOPInstanceUID}),
)
RELATIONAL = (
    ("series", f"/studies/{STUDIES[0]}/series", {"StudyInstanceUID": STUDIES[0]}),
    ("instance", f"/studies/{STUDIES[0]}/instances", {"StudyInstanceUID": STUDIES[0]}),
    (
        "instance",
        f"/studies/{FIRST.StudyInstanceUID}/series/{FIRST.SeriesInstanceUID}/instances",
        {"SeriesInstanceUID": FIRST.SeriesInstanceUID},
    ),
)
RETURNED = {
    "study": "StudyInstanceUID StudyDate StudyTime AccessionNumber PatientName PatientID PatientBirthDate PatientSex"
    " StudyID StudyDescription ReferringPhysicianName ModalitiesInStudy NumberOfStudyRelatedSeries"
    " NumberOfStudyRelatedInstances",
    "series": "StudyInstanceUID SeriesInstanceUID Modality SeriesNumber SeriesDescription PatientID PatientName"
    " NumberOfSeriesRelatedInstances",
    "instance": "StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID InstanceNumber Modality",
}
AVAILABILITY, STUDY_TIME = "00080056", "00080030"
# What each says of itself: JSON is UTF-8 whatever stands there (PS3.18 F.2), and addresses differ.
OWN = {"00080005", "00081190"}
OF_STUDY = {"00080020", "00080030", "00080050", "00080061", "00080090", "00100010", "00100020", "00100030"}
OF_STUDY |= {"00100040", "0020000D", "00200010", "00201206", "00201208"}
OF_SERIES = {"00080060", "0008103E", "0020000E", "00200011", "00201209"}
Row = dict[str, Any]
Both = tuple[Orthanc, httpx.Client, Archive]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Give an Orthanc, and an archive of ours with a client of it, with the same objects."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (package orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("beside")
    orthanc = Orthanc(
        folder / "orthanc",
        {"AET": "READER", "Port": 1},
        Plugins=[str(PLUGIN)],
        # As strict and as full as it can be told to be.
        DicomWeb={"Enable": True, "QidoCaseSensitive": True, "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        DefaultEncoding="Utf8",
    )
    engine = create_engine_for(f"sqlite:///{folder / 'catalog.db'}")
    migrate(engine)
    store = MemoryStore()
    try:
        for each in OBJECTS:
            orthanc.post("/instances", as_file(each))
        fill(engine, store, OBJECTS)
        archive = archive_over(engine, store=store)
        with asking(archive) as client:
            yield orthanc, client, archive
    finally:
        orthanc.close()
        engine.dispose()


def of_orthancs_own(level: str, keys: dict[str, str], *, is_web: bool) -> tuple[set[str], set[str]]:
    """Return the rows that Orthanc has beside what is meant, and those of it that it has not, as is known."""
    more: set[str] = set()
    fewer: set[str] = set()
    fold = str if is_web else str.upper
    for each in OBJECTS:
        uid = getattr(each, UNIQUE[level])
        for keyword, key in keys.items():
            value = str(getattr(each, keyword, ""))
            if key.startswith("-") and not value:
                # What has no value matches (PS3.4 C.2.2.1.2), though of open beginnings alone: ours never does.
                more.add(uid)
            elif keyword == "StudyTime" and "-" not in key and value != key:
                fewer.add(uid)  # times match by meaning (PS3.4 C.2.2.2.1), there by their text
            elif dictionary_VR(keyword) == "PN" and not fnmatchcase(*(fold(text) for text in (value, key))):
                # Its whole text, with accents, over the web with case; ours is blind to them, and any group of
                # components may match: both may be so (PS3.4 C.2.2.2.1).
                fewer.add(uid)
    return more, fewer


def meant_by(level: str, keys: dict[str, str]) -> set[str]:
    """Return the rows that the objects say."""
    return expected(OBJECTS, level, {tag_for_keyword(keyword) or 0: key for keyword, key in keys.items()})


def of_orthanc(orthanc: Orthanc, path: str) -> dict[str, Row]:
    """Return the rows of its DICOMweb by their most specific UID."""
    with urllib.request.urlopen(f"http://127.0.0.1:{orthanc.http_port}/dicom-web{path}", timeout=60) as answer:
        return by_uid(json.load(answer))


def by_uid(answer: list[Row]) -> dict[str, Row]:
    """Return rows by their most specific UID."""
    found = {}
    for row in answer:
        found[next(row[tag]["Value"][0] for tag in ("00080018", "0020000E", "0020000D") if tag in row)] = row
    assert len(answer) == len(found)
    return found


def assert_same(ours: Row, theirs: Row, level: str, *, has_parents: bool) -> None:
    """Compare two rows attribute by attribute; what one alone has must be what the standard lets it."""
    for tag in (ours.keys() | theirs.keys()) - OWN:
        mine, other = ours.get(tag), theirs.get(tag)
        if mine is None:
            # Of the parents that the path names nothing need be told (PS3.18 Tables 10.6.3-4 and 10.6.3-5).
            assert has_parents, tag
            assert tag in OF_STUDY | OF_SERIES, tag
        elif other is None:
            # Without a value it may be told or not; the parents' are told where the path names none (as above), and
            # availability is optional (Table 10.6.3-3).
            parents = (OF_STUDY if level != "study" else set()) | (OF_SERIES if level == "instance" else set())
            counts = {"00201209"} if level == "series" else set()
            assert "Value" not in mine or tag in {AVAILABILITY} | parents | counts, (tag, mine)
        elif tag == STUDY_TIME and mine != other:
            # A time is one of day, to the microsecond; how precisely it was written is not kept.
            assert moment(mine["Value"][0]) == moment(other["Value"][0])
        else:
            assert other == mine, tag


@pytest.mark.parametrize(("level", "keys"), QUESTIONS, ids=str)
def test_search_is_answered_as_orthanc_does(both: Both, level: str, keys: dict[str, str]):
    """The rows that the objects say, and each attribute as Orthanc has it."""
    orthanc, client, _ = both
    # A list is parted by commas in an address; Orthanc's plug-in does not decode what is encoded (RFC 3986 2.1).
    query = "&".join(f"{keyword}={quote(key.replace(chr(92), ','), safe='*?^,')}" for keyword, key in keys.items())
    theirs = of_orthanc(orthanc, f"{PATHS[level]}?{query}")
    ours = by_uid(client.get(f"{PATHS[level]}?{query}").json())
    assert meant_by(level, keys) == ours.keys()
    more, fewer = of_orthancs_own(level, keys, is_web=True)
    assert theirs.keys() == (set() if "%" in query else (ours.keys() | more) - fewer)
    for uid in ours.keys() & theirs.keys():
        assert_same(ours[uid], theirs[uid], level, has_parents=False)


@pytest.mark.parametrize(("level", "path", "keys"), RELATIONAL, ids=str)
def test_search_below_a_study_is_answered_as_orthanc_does(both: Both, level: str, path: str, keys: dict[str, str]):
    """The same at the paths that name a study or series."""
    orthanc, client, _ = both
    theirs = of_orthanc(orthanc, path)
    ours = by_uid(client.get(path).json())
    assert theirs.keys() == ours.keys() == meant_by(level, keys)
    for uid, row in ours.items():
        assert_same(row, theirs[uid], level, has_parents=True)


def test_metadata_is_what_orthanc_gives(both: Both):
    """Every attribute of every object is the same; pixels are an address, and the transfer syntax is told beside."""
    orthanc, client, _ = both
    for study in STUDIES:
        theirs = of_orthanc(orthanc, f"/studies/{study}/metadata")
        ours = by_uid(client.get(f"/studies/{study}/metadata").json())
        assert theirs.keys() == ours.keys() != set()
        for uid, row in ours.items():
            assert ["1.2.840.10008.1.2.1"] == row.pop("00083002")["Value"]
            pixels = [each.pop("7FE00010", {}).keys() for each in (row, theirs[uid])]
            assert pixels[0] == pixels[1]
            assert theirs[uid] == row


def test_query_is_answered_as_orthanc_does(both: Both):
    """C-FIND has the same answers, with the same attributes and values, but for what each says of itself."""
    orthanc, _, archive = both
    with serving(archive) as server:
        for level, keys in QUESTIONS:
            ours = asked_of(server.ports[0], "ARCHIVE", level, keys)
            theirs = asked_of(orthanc.dicom_port, "ORTHANC", level, keys)
            assert meant_by(level, keys) == ours.keys(), keys
            more, fewer = of_orthancs_own(level, keys, is_web=False)
            assert theirs.keys() == (ours.keys() | more) - fewer, keys
            assert {uid: theirs[uid] for uid in ours.keys() - fewer} == {uid: ours[uid] for uid in ours.keys() - fewer}


def asked_of(port: int, called: str, level: str, keys: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return what a C-FIND tells, by unique key; all of it must be there."""
    identifier = Dataset()
    asked = dict.fromkeys(RETURNED[level].split(), "") | keys
    for keyword, value in (asked | {"QueryRetrieveLevel": LEVELS[level], "SpecificCharacterSet": "ISO_IR 192"}).items():
        vr = dictionary_VR(keyword)
        # A key is no value (PS3.4 C.2.2.2): what is wild is none of a CS.
        element = DataElement(tag_for_keyword(keyword) or 0, vr, value or None, validation_mode=IGNORE)
        identifier.add(element)
    found, statuses, _ = find(port, identifier, called=called)
    assert [0xFF00] * len(found) + [0] == statuses
    answers = {str(getattr(each, UNIQUE[level])): told(each) for each in found}
    assert len(found) == len(answers)
    return answers


def told(answer: Dataset) -> dict[str, str]:
    """Return what an answer tells, times by their meaning; one in ASCII need not name its character set (C.4.1.1.3)."""
    own = {"SpecificCharacterSet", "RetrieveAETitle"}
    values = {each.keyword: str(each.value) for each in answer if each.keyword not in own}
    return {keyword: moment(value) if dictionary_VR(keyword) == "TM" else value for keyword, value in values.items()}


def moment(value: str) -> str:
    """Return the time of day that a value means."""
    parsed = parse_time(value)
    return str(parsed and parsed.first)
