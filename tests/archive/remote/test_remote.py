"""An archive elsewhere, asked by DICOMweb: the same answers as from its catalog, all of them, or the failure."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from archived import a_study, fill, invented_studies
from dimse_archive import PatientRoot, StudyRoot, find, serving
from obstore.store import MemoryStore
from scripted_origin import ScriptedOrigin, row, scripted
from starlette.responses import JSONResponse, Response
from web_archive import Noted, archive_over, asking

from dicomflow.archive.archive import Archive
from dicomflow.archive.catalog.computed import COMPUTED
from dicomflow.archive.errors import BadQueryError, NotHeldError
from dicomflow.archive.query import COMPARED, COUNTED, Query, Question
from dicomflow.archive.remote.building import open_remote_archive
from dicomflow.archive.remote.client import OriginClient, Pace
from dicomflow.archive.remote.origin import Kind, Origin, kind_of
from dicomflow.archive.remote.query import RemoteQuery
from dicomflow.archive.remote.retrieval import RemoteRetrieval
from dicomflow.archive.remote.signing import authorization_of, sign_for_aws
from dicomflow.archive.retrieval import Selection
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.dicom.attributes import Level
from dicomflow.errors import PermanentError, TransientError

STUDY = "1.2.826.0.1.100"
OBJECTS = invented_studies(40) + a_study(
    100, ("CT", 3), ("MR", 2), StudyDate="20260105", StudyTime="1030", PatientName="Invénted^Łoś", PatientID="Z1"
)
WANTED = frozenset({0x00080020, 0x00080030, 0x00080061, 0x00100010, 0x00100040, 0x00201206, 0x00201208, 0x00080060})
QUESTIONS = (
    Question(Level.STUDY),
    Question(Level.STUDY, limit=7, offset=3),
    Question(Level.PATIENT),
    Question(Level.STUDY, {0x00100010: "inv*"}),
    Question(Level.STUDY, {0x00100010: "han inv"}, is_fuzzy=True),
    Question(Level.STUDY, {0x00100020: "P00?"}),
    Question(Level.STUDY, {0x00080020: "20260301-20260930"}),
    Question(Level.STUDY, {0x00080020: "20260301-20260930", 0x00080030: "09-12"}),
    Question(Level.STUDY, {0x00080020: "20260301-20260930", 0x00080030: "09-12"}, combines_date_and_time=True),
    Question(Level.STUDY, {0x00080020: '""'}, matches_empty=True),
    Question(Level.STUDY, {0x00080060: "MR"}),
    Question(Level.STUDY, {0x00080061: "MR\\CT"}, matches_all_values=True),
    Question(Level.STUDY, {0x0020000D: f"{STUDY}\\1.2.826.0.1.1\\1.2.3"}),
    Question(Level.SERIES, {0x0020000D: f"{STUDY}\\1.2.826.0.1.1"}),
    Question(Level.SERIES, {0x00080060: "CT"}, limit=5),
    Question(Level.INSTANCE, {0x0020000D: STUDY, 0x0020000E: f"{STUDY}.1"}),
    Question(Level.INSTANCE, {0x0020000E: f"{STUDY}.2"}),
    Question(Level.INSTANCE, {0x00080018: "\\".join(f"{STUDY}.1.{n}" for n in range(1, 120))}),
    Question(Level.INSTANCE, {0x0020000D: STUDY, 0x00200013: "2"}),
    Question(Level.STUDY, {0x00081032: {0x00080100: "none"}}),
    Question(Level.STUDY, {0x00081030: "nothing*here"}),
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Give an archive of a catalog."""
    store = MemoryStore()
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('origin') / 'catalog.db'}")
    migrate(engine)
    fill(engine, store, OBJECTS)
    yield archive_over(engine, Noted(), store)
    engine.dispose()


@pytest.fixture(scope="module")
def client(ours: Archive) -> Iterator[httpx.Client]:
    """Give what serves it as an origin."""
    with asking(ours) as found:
        yield found


def origin_at(url: object, kind: Kind = Kind.DICOMFLOW, **more: Any) -> OriginClient:
    """Return a client that does not wait before it tries again."""
    return OriginClient(Origin(str(url).rstrip("/"), kind, **more), sleep=lambda _seconds: None)


def archive_at(url: str) -> AbstractContextManager[Archive]:
    """Return an archive over an origin."""
    return open_remote_archive(Origin(url, Kind.DICOMFLOW), "EDGE", sleep=lambda _seconds: None)


def rows_of(query: Query, question: Question) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the fields and the rows of an answer, by keyword."""
    answers = query.ask(question)
    names = [field.keyword for field in answers.fields]
    assert not answers.unmatched
    return names, [dict(zip(names, each, strict=True)) for batch in answers.batches for each in batch]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as texts: a number may be written as one, and one value is no list."""

    def text(value: Any) -> str:
        values = value if isinstance(value, list) else [value]
        return "\\".join("" if each is None else str(each).rstrip("^") for each in values)

    return {name: text(value) for name, value in row.items()}


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_origin_answers_as_its_catalog(ours: Archive, client: httpx.Client, question: Question):
    """Field by field, row by row, and but for patients in the same order: what is asked elsewhere is asked here."""
    asked = Question(**{name: getattr(question, name) for name in question.__slots__} | {"returned": WANTED})
    names, mine = rows_of(ours.query, asked)
    remote = RemoteQuery(origin_at(client.base_url))
    theirs, found = rows_of(remote, asked)
    mine, found = [plain(row) for row in mine], [plain(row) for row in found]
    if question.level is Level.PATIENT:
        mine, found = (sorted(each, key=str) for each in (mine, found))
    assert (names, mine) == (theirs, found)
    assert ours.query.count(asked, 10) == remote.count(asked, 10)


def test_what_is_counted_is_what_the_catalog_counts():
    """One table says so for both."""
    assert {tag: each.level for tag, each in COMPUTED.items()} == COUNTED
    assert {tag for tag, each in COMPUTED.items() if each.is_matched} == COMPARED


def test_key_that_nobody_matches_is_told_of(client: httpx.Client):
    """FF01 of a C-FIND, and all values pass."""
    remote = RemoteQuery(origin_at(client.base_url))
    answers = remote.ask(Question(Level.STUDY, {0x00101060: "x"}, frozenset({0x00101060})))
    assert {0x00101060} == answers.unmatched == answers.unknown
    with pytest.raises(BadQueryError):
        remote.ask(Question(Level.STUDY, {0x00080020: "yesterday"}))


def test_series_of_2500_is_read_whole_and_each_row_once():
    """Page by page; a row that comes twice, since something was stored meanwhile, is told once."""
    uids = [f"1.2.3.{number}" for number in range(2500)]
    rows = [
        row(x0020000D=("UI", "1"), x0020000E=("UI", "1.2"), x00080018=("UI", uid), x00080016=("UI", "1.2"))
        for uid in uids
    ]
    rows.insert(1200, rows[1199])
    with scripted(ScriptedOrigin(rows)) as origin:
        retrieval = RemoteRetrieval(origin_at(origin.url, Kind.HEALTHIMAGING))
        found = retrieval.find(Selection(studies=("1",), series=("1.2",)))
        assert sorted(uids) == sorted(each.sop_instance_uid for each in found)
        assert {"/studies/1/series/1.2/instances"} == {path.partition("abcdef")[2] for path, _ in origin.asked}
        assert ["0", "100", "1100", "2100"] == [query["offset"] for _, query in origin.asked]
        # A last page that cannot be had is no end of the list.
        origin.faults = [None, None, None, *(Response(status_code=503) for _ in range(9))]
        with pytest.raises(TransientError, match="503"):
            retrieval.find(Selection(studies=("1",), series=("1.2",)))
        origin.faults, origin.rows = [], rows[:1] * 10_000
        with pytest.raises(TransientError, match="exactly 10,000"):
            retrieval.find(Selection(studies=("1",), series=("1.2",)))
        # Unless the series has so many: the origin's own count of it says so.
        for counted, is_whole in ((10_000, True), (10_001, False)):
            series = row(x0020000E=("UI", "1.2"), x00201209=("IS", counted))
            origin.faults = [*[None] * 11, JSONResponse([series])]
            if is_whole:
                assert 1 == len(retrieval.find(Selection(studies=("1",), series=("1.2",))))
            else:
                with pytest.raises(TransientError, match="exactly 10,000"):
                    retrieval.find(Selection(studies=("1",), series=("1.2",)))
            assert ("1.2", "00201209") == tuple(origin.asked[-1][1].values())


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Response(status_code=503), 0xA700),
        (Response(status_code=429, headers={"Retry-After": "1"}), 0xA700),
        (Response(status_code=403), 0xC001),
        (Response(status_code=404), 0xC001),
        (Response(b"[{", media_type="application/dicom+json"), 0xC001),
        (JSONResponse({"message": "no list"}), 0xC001),
        (Response(status_code=302, headers={"Location": "/elsewhere"}), 0xC001),
    ],
    ids=["away", "throttled", "forbidden", "not there", "cut", "no list", "elsewhere"],
)
def test_failing_origin_is_never_an_empty_list(fault: Response, status: int):
    """Whatever it answers, the C-FIND fails: A700 where later may help, else C001."""
    with (
        scripted(ScriptedOrigin([])) as origin,
        archive_at(origin.url) as archive,
    ):
        origin.faults = [fault] * 30
        with serving(archive) as server:
            port = server.ports[0]
            for model, level in ((StudyRoot, "STUDY"), (PatientRoot, "PATIENT")):
                assert ([], [status]) == find(port, {"QueryRetrieveLevel": level, "PatientID": "*"}, model)[:2]
            origin.faults = []
            assert ([], [0]) == find(port, {"QueryRetrieveLevel": "STUDY", "PatientID": "*"})[:2]


def test_origin_that_is_not_there_is_a700():
    """A connection that is refused is no answer."""
    with (
        archive_at("http://127.0.0.1:9") as archive,
        serving(archive) as server,
    ):
        assert [0xA700] == find(server.ports[0], {"QueryRetrieveLevel": "STUDY", "PatientID": "*"})[1]


def test_study_that_the_origin_does_not_have_has_no_series():
    """404 below a study is none of it where there are studies, and else a wrong address."""
    with scripted(ScriptedOrigin([])) as origin:
        remote = RemoteQuery(origin_at(origin.url, Kind.HEALTHIMAGING))
        asked = Question(Level.SERIES, {0x0020000D: "1.2.3"})
        origin.faults = [Response(status_code=404)]
        assert [] == rows_of(remote, asked)[1]
        origin.faults = [Response(status_code=404), Response(status_code=404)]
        with pytest.raises(PermanentError, match="dicomweb_url"):
            remote.ask(asked)


def test_healthimaging_is_asked_what_it_matches_and_the_rest_is_compared_here():
    """Names by its fuzzy matching, and again by ours; what it does not match is told of, and widens nothing else."""
    names = {"1": "Smith^John", "2": "Smithers^Ann", "3": "Blacksmith^J"}
    rows = [row(x0020000D=("UI", uid), x00100010=("PN", {"Alphabetic": name})) for uid, name in names.items()]
    with scripted(ScriptedOrigin(rows)) as origin:
        remote = RemoteQuery(origin_at(origin.url, Kind.HEALTHIMAGING))
        answers = remote.ask(Question(Level.STUDY, {0x00100010: "smith^*", 0x00101010: "030Y", 0x0020000D: "1\\2\\3"}))
        assert [[("1",)]] == [[(each[0],) for each in batch] for batch in answers.batches]
        assert {0x00101010} == answers.unmatched
    query = origin.asked[0][1]
    assert ("smith", "true", "1,2,3") == (query["00100010"], query["fuzzymatching"], query["0020000D"])
    assert "00101010" not in query


def test_requests_to_healthimaging_are_signed_and_others_carry_the_files_text(tmp_path: Path):
    """Signature Version 4 for its service and region; the file is read for each request."""
    with scripted(ScriptedOrigin([])) as origin:
        sign = sign_for_aws(lambda: ("AKIDEXAMPLE", "secret", "token"), "eu-central-1")
        origin_at(origin.url, sign=sign).search("/studies", [("PatientID", "a b")])
        header = origin.headers[-1]
        assert header["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert "/eu-central-1/medical-imaging/aws4_request, SignedHeaders=" in header["authorization"]
        assert "token" == header["x-amz-security-token"]
        file = tmp_path / "authorization"
        client = origin_at(origin.url, sign=authorization_of(file))
        with pytest.raises(TransientError, match="dicomweb_authorization_file"):
            client.search("/studies", [])
        file.write_text("Bearer abc\n")
        client.search("/studies", [])
        assert "Bearer abc" == origin.headers[-1]["authorization"]
    assert Kind.HEALTHIMAGING is kind_of("https://dicom-medical-imaging.eu-central-1.amazonaws.com/datastore/x")
    assert Kind.DICOMFLOW is kind_of("https://pacs.example.org/dicomweb")


def test_pace_lets_so_many_pass_a_second():
    """Fifty a second: a hundred and one requests take at least a second beside those that were saved up."""
    now = [0.0]
    pace = Pace(50, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    for _ in range(151):
        pace.wait()
    assert 3.0 == pytest.approx(now[0], abs=0.1)
    now[0] += 100
    for _ in range(51):
        pace.wait()
    assert 103.0 == pytest.approx(now[0], abs=0.1)


def test_object_of_another_uid_or_none_is_not_held(ours: Archive):
    """What an origin gives for an instance must be that instance."""
    (instance,) = ours.retrieval.find(Selection(instances=(f"{STUDY}.1.1",)))
    other = b"".join(ours.retrieval.chunks(ours.retrieval.find(Selection(instances=(f"{STUDY}.1.2",)))[0]))
    with scripted(ScriptedOrigin([])) as origin:
        retrieval = RemoteRetrieval(origin_at(origin.url))
        remote = replace(instance, location=f"/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.1")
        for content, kind, reason in (
            (other, "application/dicom", "another object"),
            (b"<html>", "application/dicom", "is no object"),
            (b"<html>", "text/html", "text/html"),
        ):
            origin.retrieve = lambda _request, content=content, kind=kind: Response(content, media_type=kind)
            with pytest.raises(NotHeldError, match=reason):
                retrieval.read(remote, 0, 4)
