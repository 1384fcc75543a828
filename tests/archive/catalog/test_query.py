"""Questions to a catalog, on both databases, against what the objects themselves say."""

from collections.abc import Mapping
from typing import Any

import pytest
from archived import a_study, fill, invented_studies
from obstore.store import MemoryStore
from oracle import UNIQUE, expected
from sqlalchemy import Engine

from dicomflow.archive.catalog.query import CatalogQuery
from dicomflow.archive.errors import BadQueryError
from dicomflow.archive.query import Question
from dicomflow.dicom.attributes import Level
from dicomflow.errors import TransientError

STUDY, SERIES, INSTANCE, PATIENT = Level.STUDY, Level.SERIES, Level.INSTANCE, Level.PATIENT
NAME, PATIENT_ID, STUDY_DATE, STUDY_TIME, ACCESSION = 0x00100010, 0x00100020, 0x00080020, 0x00080030, 0x00080050
DESCRIPTION, MODALITIES, MODALITY = 0x00081030, 0x00080061, 0x00080060
QUESTIONS: list[Mapping[int, Any]] = [
    {},
    {PATIENT_ID: "P003"},
    {PATIENT_ID: "p00*"},
    {PATIENT_ID: "Ü-1_%"},
    {PATIENT_ID: "?-1_%"},
    {NAME: "invented*"},
    {NAME: "*ven*^a*"},
    {NAME: "Demo"},
    {NAME: "山田^太郎"},
    {NAME: "*d*mo^*e*"},
    {STUDY_DATE: "20260301-20260831"},
    {STUDY_DATE: "-20260415", STUDY_TIME: "0900-1200"},
    {STUDY_DATE: "20260101-20261231", NAME: "*a*"},
    {STUDY_TIME: "0930"},
    {ACCESSION: "a%_1"},
    {ACCESSION: "A1*"},
    {ACCESSION: "A?"},
    {DESCRIPTION: "CT*"},
    {DESCRIPTION: "*[Knie] 100 %"},
    {MODALITIES: "MR"},
    {MODALITIES: "MR\\SR"},
    {MODALITIES: "M?"},
    {0x00080090: "hidden^arztin"},
    {0x00081032: {0x00080100: "T-D3000", 0x00080104: "Head"}},
    {0x00081032: {0x00080104: ""}},
    {0x00100030: "-19651231"},
    {0x0020000D: "1.2.826.0.1.3\\1.2.826.0.1.5\\1.9"},
]
OF_SERIES: list[Mapping[int, Any]] = [
    {0x0020000D: "1.2.826.0.1.3"},
    {MODALITY: "CT"},
    {MODALITY: "?R", STUDY_DATE: "20260601-"},
    {0x0008103E: "Thorax*"},
    {0x00200011: "02"},
]
OF_INSTANCES: list[Mapping[int, Any]] = [
    {0x0020000E: "1.2.826.0.1.3.1"},
    {0x00080018: "1.2.826.0.1.3.1.1\\1.2"},
    {0x00080008: "PRIMARY"},
    {0x00200013: "1", NAME: "invented*"},
    {0x00280010: "2", 0x00280030: "0.250"},
]


def ask(query: CatalogQuery, level: Level, keys: Mapping[int, Any], *returned: int, **how: Any) -> list[dict[str, Any]]:
    """Return the rows of an answer by keyword."""
    answers = query.ask(Question(level, keys, frozenset(returned), **how))
    names = [field.keyword for field in answers.fields]
    return [dict(zip(names, row, strict=True)) for batch in answers.batches for row in batch]


def uids(rows: list[dict[str, Any]], level: Level) -> list[str]:
    """Return the unique keys of rows."""
    return [row[UNIQUE[level.value]] for row in rows]


def test_answers_are_what_the_objects_say(engine: Engine):
    """Each kind of key at each level gives the rows that a plain comparison of the objects gives, each once."""
    objects = invented_studies(40)
    fill(engine, MemoryStore(), objects)
    query = CatalogQuery(engine)
    asked = [(STUDY, keys) for keys in QUESTIONS] + [(SERIES, keys) for keys in OF_SERIES + QUESTIONS]
    asked += [(INSTANCE, keys) for keys in OF_INSTANCES + OF_SERIES + QUESTIONS]
    for level, keys in asked:
        for is_fuzzy in {False, NAME in keys}:
            found = uids(ask(query, level, keys, is_fuzzy=is_fuzzy), level)
            want = expected(objects, level.value, keys, is_fuzzy=is_fuzzy)
            assert (want, len(want)) == (set(found), len(found)), (level, keys, is_fuzzy)


def test_pages_have_each_row_once_the_newest_study_first(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Offset and limit cut one list, whether SQL alone compares or not, and studies come by date, the latest first."""
    monkeypatch.setattr("dicomflow.archive.catalog.query._FIRST_PAGE_ROWS", 3)
    monkeypatch.setattr("dicomflow.archive.catalog.query._PAGE_ROWS", 4)
    fill(engine, MemoryStore(), invented_studies(40))
    query = CatalogQuery(engine)
    for level, keys in ((STUDY, {}), (INSTANCE, {}), (SERIES, {NAME: "*a*"}), (STUDY, {MODALITIES: "?R"})):
        whole = uids(ask(query, level, keys), level)
        assert len(whole) == len(set(whole)) > 10
        parts = [uids(ask(query, level, keys, offset=at, limit=7), level) for at in range(0, len(whole) + 7, 7)]
        assert whole == [uid for part in parts for uid in part]
        assert len(whole) - 5 == query.count(Question(level, keys, offset=5), most=10_000)
        assert 3 == query.count(Question(level, keys), most=3)
    dates = [row["StudyDate"] or "" for row in ask(query, STUDY, {}, STUDY_DATE)]
    assert sorted(dates, reverse=True) == dates


def test_counted_attributes_count(engine: Engine):
    """Modalities, SOP classes and numbers of the levels below are of what is stored."""
    fill(engine, MemoryStore(), a_study(1, ("CT", 3), ("SR", 1)) + a_study(2, ("MR", 2), PatientID="P1"))
    query = CatalogQuery(engine)
    counts = (0x00201200, 0x00201202, 0x00201204, 0x00201206, 0x00201208, MODALITIES, 0x00080062, 0x00080056)
    (row,) = ask(query, STUDY, {0x0020000D: "1.2.826.0.1.1"}, *counts)
    assert {
        "InstanceAvailability": "ONLINE",
        "ModalitiesInStudy": ["CT", "SR"],
        "SOPClassesInStudy": ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"],
        "StudyInstanceUID": "1.2.826.0.1.1",
        "NumberOfPatientRelatedStudies": 2,
        "NumberOfPatientRelatedSeries": 3,
        "NumberOfPatientRelatedInstances": 6,
        "NumberOfStudyRelatedSeries": 2,
        "NumberOfStudyRelatedInstances": 4,
    } == row
    assert [3, 1] == [
        row["NumberOfSeriesRelatedInstances"]
        for row in reversed(ask(query, SERIES, {0x0020000D: "1.2.826.0.1.1"}, 0x00201209))
    ]
    (patient,) = ask(query, PATIENT, {PATIENT_ID: "P1"}, 0x00201200, NAME)
    assert {"PatientName": None, "PatientID": "P1", "NumberOfPatientRelatedStudies": 2} == patient
    assert ["1.2.826.0.1.1"] == uids(ask(query, STUDY, {0x00080062: "1.2.840.10008.5.1.4.1.1.88.11"}), STUDY)
    assert ["1.2.826.0.1.2"] == uids(ask(query, STUDY, {MODALITY: "MR"}), STUDY)


def test_values_come_back_as_they_were_written(engine: Engine):
    """Dates, times, numbers and sequences are DICOM's again; what has no value is None."""
    (data_set,) = a_study(1, ("CT", 1), StudyDate="20260105", StudyTime="093015.250000", PatientBirthDate="")
    data_set.AcquisitionDateTime = "20260105093000+0100"
    data_set.WindowCenter = [40, -600.5]
    fill(engine, MemoryStore(), [data_set])
    wanted = (STUDY_DATE, STUDY_TIME, 0x00100030, 0x0008002A, 0x00281050, 0x00200013, 0x00280010, 0x00083002)
    (row,) = ask(CatalogQuery(engine), INSTANCE, {}, *wanted)
    assert {
        "SOPInstanceUID": "1.2.826.0.1.1.1.1",
        "StudyDate": "20260105",
        "StudyTime": "093015.250000",
        "AcquisitionDateTime": "20260105093000+0100",
        "PatientBirthDate": None,
        "StudyInstanceUID": "1.2.826.0.1.1",
        "SeriesInstanceUID": "1.2.826.0.1.1.1",
        "InstanceNumber": 1,
        "Rows": 2,
        "WindowCenter": [40.0, -600.5],
        "AvailableTransferSyntaxUID": ["1.2.840.10008.1.2.1"],
    } == row
    query = CatalogQuery(engine)
    assert 1 == len(ask(query, INSTANCE, {0x0008002A: "20260105083000+0000"}))
    assert 0 == len(ask(query, INSTANCE, {0x0008002A: "20260105093000+0000"}))


def test_empty_values_are_found_where_they_are_asked_for(engine: Engine):
    """The studies without a date, which no range of dates finds (PS3.4 C.2.2.2.7)."""
    fill(engine, MemoryStore(), [*a_study(1, ("CT", 1), StudyDate="20260101"), *a_study(2, ("SR", 1), StudyDate="")])
    query = CatalogQuery(engine)
    for tag in (STUDY_DATE, ACCESSION, 0x00081032, 0x00080008):
        found = uids(ask(query, STUDY if tag != 0x00080008 else INSTANCE, {tag: '""'}, matches_empty=True), STUDY)
        assert (["1.2.826.0.1.2"] if tag == STUDY_DATE else ["1.2.826.0.1.1", "1.2.826.0.1.2"]) == found
    assert [] == ask(query, STUDY, {STUDY_DATE: "00010101-99991231", 0x0020000D: "1.2.826.0.1.2"})


def test_date_and_time_are_one_range_where_agreed(engine: Engine):
    """Combined, a range goes over midnight; apart, it is the same hours of each day (PS3.4 C.2.2.2.5)."""
    studies = [(1, "20260101", "0300"), (2, "20260102", "0300"), (3, "20260102", "1300"), (4, "20260103", "0700")]
    fill(engine, MemoryStore(), [a_study(n, ("CT", 1), StudyDate=d, StudyTime=t)[0] for n, d, t in studies])
    keys = {STUDY_DATE: "20260101-20260103", STUDY_TIME: "1200-0800"}
    query = CatalogQuery(engine)
    assert [] == ask(query, STUDY, keys)
    found = uids(ask(query, STUDY, keys, combines_date_and_time=True), STUDY)
    assert ["1.2.826.0.1.4", "1.2.826.0.1.3", "1.2.826.0.1.2"] == found


def test_what_is_not_indexed_is_told_of(engine: Engine):
    """A key that nothing is compared with is named, and so is what is not answered; neither is a lower level's."""
    fill(engine, MemoryStore(), a_study(1, ("CT", 1)))
    keys = {0x00080080: "X", 0x00101010: "044Y", 0x00201206: "1", 0x00080060: ""}
    answers = CatalogQuery(engine).ask(
        Question(STUDY, keys, frozenset({0x00101010, 0x00280010, 0x00080054, 0x00080020}))
    )
    assert frozenset({0x00080080, 0x00101010, 0x00201206}) == answers.unmatched
    assert frozenset({0x00101010, 0x00280010, 0x00080054}) == answers.unknown


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({STUDY_DATE: "yesterday"}, r"\(0008,0020\): DA"),
        ({0x0020000D: "1.2*"}, "UID has no wild cards"),
        ({0x00081032: "Head"}, "sequence"),
        ({NAME: {0x00080100: "x"}}, "no sequence"),
        ({0x00081032: {0x00081032: {0x00080104: "x\0y"}}}, "NUL"),
        ({0x00200011: "one"}, "no number"),
    ],
)
def test_bad_keys_are_refused(engine: Engine, keys: Any, said: str):
    """What makes no sense is told of, never answered with all or with nothing."""
    with pytest.raises(BadQueryError, match=said):
        CatalogQuery(engine).ask(Question(SERIES, keys))


def test_huge_numbers_match_nothing(engine: Engine):
    """A number that no column holds is no error of the database."""
    fill(engine, MemoryStore(), a_study(1, ("CT", 1)))
    assert [] == ask(CatalogQuery(engine), SERIES, {0x00200011: str(2**70)})


def test_catalog_that_is_away_is_told_of(engine: Engine):
    """A failure is not an empty answer."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE study RENAME TO gone")
    with pytest.raises(TransientError, match="catalog does not answer"):
        CatalogQuery(engine).ask(Question(STUDY))
