"""C-FIND: answers, leniency, rights, cancel, and failures that are told (PS3.4 C.4.1)."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from archived import a_study, fill, invented_studies
from dimse_archive import PatientRoot, StudyRoot, find, serving
from obstore.store import MemoryStore
from oracle import expected
from pydicom import Dataset
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from sqlalchemy import Engine
from waiting import wait_for
from web_archive import Noted, archive_over

from dicomflow.archive.archive import Archive
from dicomflow.archive.query import Answers
from dicomflow.catalog.engine import create_engine_for, migrate
from dicomflow.errors import TransientError
from dicomflow.network.settings import ArchivePeer

OBJECTS = invented_studies(30) + a_study(
    100, ("CT", 2), ("MR", 1), StudyDate="20260105", StudyTime="1030", PatientName="Invénted^Łoś", PatientID="Z1"
)
STUDY = "1.2.826.0.1.100"


@pytest.fixture(scope="module")
def engine_of_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give a catalog of invented studies."""
    engine = create_engine_for(f"sqlite:///{tmp_path_factory.mktemp('find') / 'catalog.db'}")
    migrate(engine)
    fill(engine, MemoryStore(), OBJECTS)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def archive(engine_of_many: Engine) -> Archive:
    """Give the archive over it."""
    return archive_over(engine_of_many, Noted())


@pytest.fixture
def port(archive: Archive) -> Iterator[int]:
    """Give the port that it answers on."""
    with serving(archive) as server:
        yield server.ports[0]


def test_study_is_answered_with_what_was_asked_and_no_more(port: int):
    """The keys that were asked, the level, whom to retrieve from, the unique keys above, and the character set."""
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "StudyInstanceUID": STUDY,
        "PatientName": "",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ModalitiesInStudy": "",
        "NumberOfStudyRelatedInstances": None,
        "InstanceAvailability": "",
    }
    (answer,), statuses, _ = find(port, keys)
    assert [0xFF00, 0x0000] == statuses
    assert {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20260105",
        "StudyTime": "103000",
        "AccessionNumber": "",
        "QueryRetrieveLevel": "STUDY",
        "RetrieveAETitle": "ARCHIVE",
        "InstanceAvailability": "ONLINE",
        "ModalitiesInStudy": ["CT", "MR"],
        "PatientName": "Invénted^Łoś",
        "StudyInstanceUID": STUDY,
        "NumberOfStudyRelatedInstances": 3,
    } == {element.keyword: element.value for element in answer}


@pytest.mark.parametrize(
    ("level", "keys", "tags"),
    [
        ("STUDY", {"PatientID": "P00*"}, {0x00100020: "P00*"}),
        ("STUDY", {"PatientName": "inv*"}, {0x00100010: "inv*"}),
        ("STUDY", {"StudyDate": "20260301-20260831"}, {0x00080020: "20260301-20260831"}),
        ("STUDY", {"ModalitiesInStudy": "MR"}, {0x00080061: "MR"}),
        ("STUDY", {"Modality": "MR"}, {0x00080061: "MR"}),
        ("SERIES", {"Modality": "CT", "StudyInstanceUID": ""}, {0x00080060: "CT"}),
        ("SERIES", {"StudyInstanceUID": STUDY, "PatientID": "Z1"}, {0x0020000D: STUDY}),
        ("IMAGE", {"SeriesInstanceUID": f"{STUDY}.1"}, {0x0020000E: f"{STUDY}.1"}),
        (
            "INSTANCE",
            {"SOPInstanceUID": [f"{STUDY}.1.1", f"{STUDY}.2.1", "1.9"]},
            {0x00080018: f"{STUDY}.1.1\\{STUDY}.2.1"},
        ),
        ("IMAGE", {"InstanceNumber": "2", "PatientName": "*e*"}, {0x00200013: "2", 0x00100010: "*e*"}),
    ],
)
def test_answers_are_what_the_objects_say(port: int, level: str, keys: dict[str, Any], tags: dict[int, Any]):
    """Each kind of key at each level, parents given or not, is answered by the rows that are meant."""
    name = {"STUDY": "study", "SERIES": "series"}.get(level.upper(), "instance")
    unique = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}[name]
    answers, statuses, _ = find(port, {"QueryRetrieveLevel": level, unique: "", **keys})
    assert 0x0000 == statuses[-1]
    found = [getattr(answer, unique) for answer in answers]
    assert expected(OBJECTS, name, tags) == set(found)
    assert len(found) == len(set(found))


def test_patients_are_answered_in_the_patient_root_model(port: int):
    """The patient level is there in that model alone."""
    keys = {
        "QueryRetrieveLevel": "PATIENT",
        "PatientID": "Z1",
        "PatientName": "",
        "NumberOfPatientRelatedStudies": None,
    }
    (answer,), _, _ = find(port, keys, PatientRoot)
    assert ("Z1", 1, "Invénted^Łoś") == (
        answer.PatientID,
        answer.NumberOfPatientRelatedStudies,
        str(answer.PatientName),
    )
    assert ([], [0xA900], "the model does not have this level") == find(port, keys, StudyRoot)


@pytest.mark.parametrize(
    ("keys", "statuses"),
    [
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "InstitutionName": "X"}, [0xFF01, 0]),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "PatientSize": ""}, [0xFF01, 0]),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "OtherPatientIDs": ""}, [0xFF01, 0]),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.9"}, [0]),
        ({"StudyInstanceUID": STUDY}, [0xA900]),
        ({"QueryRetrieveLevel": "study", "StudyInstanceUID": STUDY}, [0xFF00, 0]),
        ({"QueryRetrieveLevel": "FRAME", "StudyInstanceUID": STUDY}, [0xA900]),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "StudyDate": "-"}, [0xA900]),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2*"}, [0xA900]),
    ],
)
def test_status_tells_what_was_compared(port: int, keys: dict[str, Any], statuses: list[int]):
    """FF01 where a key passes all, A900 where a question makes no sense, 0000 alone where nothing is meant."""
    data_set = Dataset()
    with (
        pytest.warns()
        if keys.get("StudyDate") == "-"
        or keys.get("QueryRetrieveLevel") == "study"
        or "*" in keys.get("StudyInstanceUID", "")
        else contextlib.nullcontext()
    ):
        for keyword, value in keys.items():
            setattr(data_set, keyword, value)
    assert statuses == find(port, data_set)[1]


def test_items_of_a_sequence_are_matched_and_cut_to_what_was_asked(port: int):
    """One item must have all keys, and answers hold the asked ones alone."""
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "T-D3000", ""
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "ProcedureCodeSequence": [code]}
    answers, _, _ = find(port, keys)
    assert expected(OBJECTS, "study", {0x00081032: {0x00080100: "T-D3000"}}) == {
        each.StudyInstanceUID for each in answers
    }
    assert {("CodeValue", "CodeMeaning")} == {
        tuple(element.keyword for element in item) for each in answers for item in each.ProcedureCodeSequence
    }


@pytest.mark.parametrize(
    ("declared", "answered"), [("ISO_IR 101", "ISO_IR 101"), ("ISO_IR 100", "ISO_IR 192"), ("", "ISO_IR 192")]
)
def test_answer_is_in_a_character_set_that_holds_it(port: int, declared: str, answered: str):
    """The requestor's where it can write the text, else UTF-8; the name is found by it in either."""
    keys = {"SpecificCharacterSet": declared, "QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
    (answer,), _, _ = find(port, keys | {"PatientName": "INVENTED^LOS"})
    assert (answered, "Invénted^Łoś") == (answer.SpecificCharacterSet, str(answer.PatientName))


@pytest.mark.parametrize("calling", ["NOBODY", "STRANGER"])
def test_who_may_not_query_is_told_so(port: int, archive: Archive, calling: str):
    """0124 and no answer, never an empty success; the trail has nothing of it."""
    noted = archive.audit
    assert isinstance(noted, Noted)
    noted.clear()
    assert ([], [0x0124]) == find(port, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}, calling=calling)[:2]
    assert [] == noted
    find(port, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, "PatientName": "x"})
    details = {"level": "study", "keys": ["PatientName", "StudyInstanceUID"], "by": "C-FIND"}
    assert [("dimse:READER", "archive_query", STUDY, details)] == noted


def test_extended_negotiation_agrees_on_what_is_done_here(port: int):
    """One byte is answered by one; empty values are found where byte 6 was agreed (PS3.4 C.5.1)."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = StudyRoot, b"\x01\x01\x00\x01\x00\x01\x01"
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "StudyDescription": '""'}
    answers, statuses, _ = find(port, keys, ext_neg=[item])
    undescribed = {each.StudyInstanceUID for each in OBJECTS if not each.get("StudyDescription")}
    assert undescribed == {each.StudyInstanceUID for each in answers}
    assert 0 == statuses[-1]


def test_cancel_ends_with_fe00(engine_of_many: Engine):
    """A C-CANCEL is heard between two batches: FE00H, and the catalog is read no further."""
    archive = archive_over(engine_of_many)
    read: list[int] = []

    class Endless:
        def ask(self, question: Any) -> Answers:
            found = CatalogAsked.ask(question)
            first = [row for batch in found.batches for row in batch]

            def batches() -> Any:
                for number in range(1_000_000):
                    read.append(number)
                    yield first

            return Answers(found.fields, batches())

        def count(self, question: Any, most: int) -> int:
            raise NotImplementedError

    CatalogAsked = archive.query  # noqa: N806  # what the invented one asks
    archive = Archive(Endless(), archive.retrieval, archive.conversions, archive.audit, "ARCHIVE")
    from pynetdicom import AE

    with serving(archive) as server:
        ae = AE("READER")
        ae.add_requested_context(StudyRoot)
        association = ae.associate("127.0.0.1", server.ports[0], ae_title="ARCHIVE")
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
        statuses = []
        for count, (status, _) in enumerate(association.send_c_find(query, StudyRoot)):
            statuses.append(status.Status)
            if count == 50:
                association.send_c_cancel(1, query_model=StudyRoot)
        assert {0xFF00} == set(statuses[:-1])
        assert 0xFE00 == statuses[-1]
        # An abort in the middle frees the rest too.
        for count, _ in enumerate(association.send_c_find(query, StudyRoot)):
            if count == 50:
                association.abort()
                break
        last = wait_for(lambda: len(read) if len(read) == (time.sleep(0.05) or len(read)) else 0)
    assert last < 100_000


@pytest.mark.parametrize("is_at_once", [True, False])
def test_catalog_that_goes_away_is_a_failure(archive: Archive, is_at_once: bool):  # noqa: FBT001  # a parameter
    """A700, after pending answers as well as before: never 0000, never an empty list."""

    class Failing:
        def ask(self, question: Any) -> Answers:
            if is_at_once:
                raise TransientError("the catalog does not answer")
            found = archive.query.ask(question)

            def batches() -> Any:
                yield next(found.batches)
                raise TransientError("the catalog does not answer")

            return Answers(found.fields, batches())

        def count(self, question: Any, most: int) -> int:
            raise NotImplementedError

    broken = Archive(Failing(), archive.retrieval, archive.conversions, archive.audit, "ARCHIVE")
    with serving(broken) as server:
        answers, statuses, comment = find(server.ports[0], {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
    assert (0xA700, "the catalog does not answer") == (statuses[-1], comment)
    assert bool(answers) != is_at_once


def test_peer_is_believed_from_its_network_alone(archive: Archive):
    """A title from another address has no rights; one without a network is believed on this machine."""
    peers = {
        "HERE": ArchivePeer(query=True, networks=("127.0.0.0/8",)),
        "THERE": ArchivePeer(query=True, networks=("10.0.0.0/8",)),
    }
    with serving(archive, peers) as server:
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
        assert [0xFF00, 0] == find(server.ports[0], keys, calling="HERE")[1]
        assert [0x0124] == find(server.ports[0], keys, calling="THERE")[1]
