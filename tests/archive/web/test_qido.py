"""Searches over HTTP: resources, parameters, required attributes, warnings, errors (PS3.18 10.6 and 8.3.4)."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from archived import a_study, fill, invented_studies
from obstore.store import MemoryStore
from oracle import expected
from pydicom import Dataset
from sqlalchemy import Engine
from starlette.applications import Starlette
from web_archive import Noted, archive_over, asking

from dicomflow.archive.archive import Archive
from dicomflow.archive.web.access import WebAccess
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.errors import TransientError
from dicomflow.serving import WebServer

STUDY = "1.2.826.0.1.1"
REQUIRED = {
    "studies": "00080020 00080030 00080050 00080056 00080061 00080090 00081190 00100010 00100020 00100030 00100040"
    " 0020000D 00200010 00201206 00201208",
    "series": "00080060 0008103E 00081190 0020000E 00200011 00201209",
    "instances": "00080016 00080018 00080056 00081190 00200013 00280010 00280011 00280100",
}


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Give an archive of a study of two series, and a later one of one, for tests that only ask."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('qido') / 'catalog.db'}")
    migrate(engine)
    fill(engine, MemoryStore(), objects_of_two())
    yield archive_over(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def client(two_studies: Archive) -> Iterator[httpx.Client]:
    """Give a client of it."""
    with asking(two_studies) as opened:
        yield opened


def objects_of_two() -> list[Dataset]:
    """Return the objects of the two studies."""
    first = a_study(1, ("CT", 2), ("SR", 1), StudyDate="20260101", StudyTime="0930", PatientName="Inventéd^Ann=山^花")
    return first + a_study(2, ("MR", 1), StudyDate="20260201", PatientName="Demo", StudyDescription="Knie")


def values(row: dict[str, Any], tag: str) -> Any:
    """Return an element's values."""
    return row[tag].get("Value")


def test_study_is_found_with_what_the_standard_requires(client: httpx.Client):
    """Each required attribute is there, empty where it is not known, in the DICOM JSON model."""
    answer = client.get("/studies?PatientID=P1")
    assert (200, "application/dicom+json") == (answer.status_code, answer.headers["content-type"])
    (row,) = answer.json()
    assert row == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080020": {"vr": "DA", "Value": ["20260101"]},
        "00080030": {"vr": "TM", "Value": ["093000"]},
        "00080050": {"vr": "SH"},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
        "00080090": {"vr": "PN"},
        "00081190": {"vr": "UR", "Value": [f"{client.base_url}studies/{STUDY}"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Inventéd^Ann", "Ideographic": "山^花"}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00100030": {"vr": "DA"},
        "00100040": {"vr": "CS"},
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "00200010": {"vr": "SH"},
        "00201206": {"vr": "IS", "Value": [2]},
        "00201208": {"vr": "IS", "Value": [3]},
    }
    assert list(row) == sorted(row)


@pytest.mark.parametrize(
    ("path", "count", "levels"),
    [
        ("/studies", 2, ["studies"]),
        (f"/studies/{STUDY}/series", 2, ["series"]),
        (f"/studies/{STUDY}/series/{STUDY}.1/instances", 2, ["instances"]),
        (f"/studies/{STUDY}/instances", 3, ["series", "instances"]),
        ("/series", 3, ["studies", "series"]),
        ("/instances", 4, ["studies", "series", "instances"]),
        ("/studies/1.9/series", 0, []),
        (f"/studies/{STUDY}/series/1.9/instances", 0, []),
    ],
)
def test_resources_have_their_rows(client: httpx.Client, path: str, count: int, levels: list[str]):
    """Each path answers with its level's rows; relational ones with what the levels above require too."""
    rows = client.get(path).json()
    assert count == len(rows)
    for row in rows:
        lacking = {tag for level in levels for tag in REQUIRED[level].split()} - row.keys()
        assert lacking <= ({"00280010", "00280011", "00280100"} if ".2" in values(row, "00081190")[0][-4:] else set())
    assert [] == [row for row in rows if "00280010" in row and "/series/" in path and not values(row, "00280010")]
    for row in rows:  # what a row says of itself leads to it again
        url = values(row, "00081190")[0]
        assert url.startswith(f"{client.base_url}studies/")
        assert [row["0020000D"]] == [
            each["0020000D"]
            for each in client.get("/studies", params={"StudyInstanceUID": values(row, "0020000D")[0]}).json()
        ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("PatientName=invented*", ["1"]),
        ("00100010=INVENTED%5EANN", ["1"]),
        ("PatientName=%E5%B1%B1*", ["1"]),
        ("PatientName=*ann*&fuzzymatching=true", ["1"]),
        ("PatientName=ann&fuzzymatching=true", ["1"]),
        ("PatientName=ann", []),
        ("StudyDate=20260101-20260131", ["1"]),
        ("StudyDate=20260115-", ["2"]),
        ("ModalitiesInStudy=MR", ["2"]),
        ("ModalitiesInStudy=CT&ModalitiesInStudyX=", None),
        ("Modality=CT", ["1"]),
        (f"StudyInstanceUID={STUDY},1.2.826.0.1.2", ["2", "1"]),
        (f"StudyInstanceUID={STUDY}%5C1.2.826.0.1.2", ["2", "1"]),
        ("StudyDescription=K%3Fie", ["2"]),
        ("StudyDescription=knie", []),
        ("PatientID=", ["2", "1"]),
        ("PatientID=*", ["2", "1"]),
        ("StudyDescription=%22%22&emptyvaluematching=true", ["1"]),
        ("offset=1", ["1"]),
        ("limit=0", []),
        ("limit=1", ["2"]),
        ("limit=1&offset=1", ["1"]),
        ("offset=1000000000000000000000000000000000", None),
        ("limit=100000000000000000000000000", ["2", "1"]),
        (
            "includefield=00080060,00080090&includefield=StudyDescription&limit=101&offset=0&fuzzymatching=true",
            ["2", "1"],
        ),
        ("charset=utf-8&accept=application/json", ["2", "1"]),
        ("StudyDate=a", None),
        ("limit=abc", None),
        ("limit=-1", None),
        ("limit=", None),
        ("limit=%D9%A1", None),
        ("limit=1&limit=2", None),
        ("PatientID=a&patientid=b", None),
        ("PatientID=a&00100020=b", None),
        ("NoSuchKeyword=1", None),
        ("StationName=X", None),
        ("PatientSize=1.8", None),
        ("Rows=512", None),
        ("fuzzymatching=yes", None),
        ("includefield=Nothing", None),
        ("PatientName=%FF", None),
        ("PatientName=a%00b", None),
        ("StudyInstanceUID=1.2*", None),
        ("PatientID.CodeValue=x", None),
        ("ProcedureCodeSequence=x", None),
        ("ProcedureCodeSequence.CodeValue=x", []),
        ("ProcedureCodeSequence.00080100=", ["2", "1"]),
        (".".join(["ProcedureCodeSequence"] * 20) + "=x", None),
    ],
)
def test_query_finds_what_it_asks_for(client: httpx.Client, query: str, found: list[str] | None):
    """Rows come the newest first; what makes no sense is 400 with the reason, never all and never nothing."""
    answer = client.get(f"/studies?{query}")
    if found is None:
        assert 400 == answer.status_code, answer.text
        assert answer.text.strip()
        return
    assert 200 == answer.status_code, answer.text
    assert found == [values(row, "0020000D")[0][-1] for row in answer.json()]


def test_what_is_asked_for_is_returned_and_no_lower_level_is(client: httpx.Client):
    """Keys and includefield come back, `all` with every attribute of the level; an instance's never with a study."""
    keyed = client.get("/studies?StudyDescription=Knie&includefield=00080060,Rows,00101010").json()
    whole = client.get("/studies?includefield=all&limit=1").json()
    instance = client.get("/instances?includefield=all&SOPInstanceUID=1.2.826.0.1.1.1.1").json()
    assert ["Knie"] == values(keyed[0], "00081030")
    assert {"00080060", "00280010", "00101010"}.isdisjoint(keyed[0])
    assert {"00081032", "0008009C"} <= whole[0].keys()
    assert [0.5, 0.25] == values(instance[0], "00280030")
    assert "00020010" not in instance[0]


def test_more_rows_are_told_of(client: httpx.Client):
    """A warning says how many rows are left (PS3.18 8.3.4.4)."""
    cut = client.get("/instances?limit=1")
    rest = client.get("/instances?limit=3&offset=1")
    warning = cut.headers["warning"]
    assert re.fullmatch(r'299 \S+ "There are 3 additional results that can be requested"', warning)
    assert "warning" not in rest.headers
    assert 3 == len(rest.json())


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/dicom+json, application/json", "application/dicom+json"),
        ("application/json", "application/json"),
        (
            "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*",
            "application/dicom+json",
        ),
        ('multipart/related; type="application/dicom+xml"', None),
        ("application/dicom+json;q=0, text/html", None),
    ],
)
def test_json_is_given_where_it_is_accepted(client: httpx.Client, accept: str | None, media_type: str | None):
    """What clients in the wild send is JSON, and what JSON is not accepted by is 406."""
    answer = client.get("/studies", headers={} if accept is None else {"accept": accept})
    assert ((406, None) if media_type is None else (200, media_type)) == (
        answer.status_code,
        answer.headers["content-type"] if media_type else None,
    )


def test_catalog_that_is_away_is_503(engine: Engine):
    """No empty list: Retry-After, and a reason."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE study RENAME TO gone")
    with asking(archive_over(engine)) as client:
        answer = client.get("/studies")
    assert (503, "5") == (answer.status_code, answer.headers["retry-after"])


def test_catalog_that_goes_away_in_the_middle_cuts_the_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """What was begun ends without its end, so that no reader takes a part for the whole."""
    fill(engine, MemoryStore(), invented_studies(20))
    monkeypatch.setattr("dicomflow.archive.catalog.query._FIRST_PAGE_ROWS", 3)
    archive = archive_over(engine)
    batches = archive.query.ask

    def failing(question: Any) -> Any:
        answers = batches(question)
        first = next(answers.batches)

        def cut() -> Any:
            yield first
            raise TransientError("the catalog does not answer")

        return type(answers)(answers.fields, cut(), answers.unmatched, answers.unknown)

    monkeypatch.setattr(archive.query, "ask", failing)
    with asking(archive) as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/studies")


def test_each_query_is_noted_without_its_values(engine: Engine):
    """The audit trail has who asked, at which level, and by which attributes."""
    noted = Noted()
    with asking(archive_over(engine, noted)) as client:
        client.get("/studies?PatientName=Invented*&limit=5")
        client.get(f"/studies/{STUDY}/series")
        client.get("/studies?limit=x")
    assert [
        ("web:local", "archive_query", None, {"level": "study", "keys": ["PatientName"], "by": "QIDO-RS"}),
        ("web:local", "archive_query", STUDY, {"level": "series", "keys": ["StudyInstanceUID"], "by": "QIDO-RS"}),
    ] == noted


def test_addresses_are_those_that_are_set(two_studies: Archive):
    """Behind a proxy RetrieveURL has the address that clients use."""
    access = WebAccess(public_url="https://pacs.example.org/dicom-web")
    with asking(two_studies, access) as client:
        row = client.get("/series?limit=1").json()[0]
    assert (
        "https://pacs.example.org/dicom-web/studies/1.2.826.0.1.2/series/1.2.826.0.1.2.1" == values(row, "00081190")[0]
    )


def test_long_answers_are_packed_where_that_is_accepted(engine: Engine):
    """JSON packs well, and is what it was when unpacked."""
    objects = invented_studies(30)
    fill(engine, MemoryStore(), objects)
    with asking(archive_over(engine)) as client:
        packed = client.get("/instances", headers={"accept-encoding": "gzip"})
        plain = client.get("/instances", headers={"accept-encoding": "identity"})
    assert ("gzip", None) == (packed.headers.get("content-encoding"), plain.headers.get("content-encoding"))
    assert plain.json() == packed.json()
    assert expected(objects, "instance", {}) == {values(row, "00080018")[0] for row in plain.json()}


def test_answer_does_not_wait_for_the_readers_acknowledgement():
    """An answer of several pieces leaves at once: its connection has Nagle's algorithm off, as its listener."""
    server = WebServer(Starlette(), "127.0.0.1", 0)
    assert server._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with socket.create_connection(("127.0.0.1", server.port)):
        accepted, _ = server._socket.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()
    server._socket.close()
