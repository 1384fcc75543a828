"""A patient, a study and a series are what the last object that says something of them says, in any order."""

import itertools
import os
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, select

from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.index import IndexedObject, upsert_objects
from dicomflow.catalog.merging import merge_objects
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.tables import instance, metadata, patient, patient_history, series, study

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ROUNDS = int(os.environ.get("DICOMFLOW_TEST_MERGES", "4"))
Build = Callable[..., Any]
Write = Callable[..., None]

EMPTY: tuple[Any, ...] = (None, "", "^", "^^=^", " ", [], ["", ""])
CHOICES: dict[str, tuple[Any, ...]] = {
    "PatientID": ("P1", "P1", "P2", None, ""),
    "IssuerOfPatientID": ("HOSPITAL", None, ""),
    "PatientName": ("Demo^One", "Demo^Two", *EMPTY[:4]),
    "PatientBirthDate": (date(1970, 1, 2), None),
    "PatientSex": ("F", "M", ""),
    "StudyDate": (date(2026, 1, 2), date(2026, 1, 3), None),
    "StudyTime": (time(10, 0), None),
    "StudyDescription": ("one", "two", None, ""),
    "AccessionNumber": ("A1", "A2", "", "x" * 3000),
    "ModalitiesInStudy": (["CT"], ["CT", "PR"], [], ["", ""]),
    "SeriesDescription": ("one", "two", None),
    "Modality": ("CT", "PR", None),
    "SeriesNumber": (0, 7, None),
    "StudyInstanceUID": ("1.2.1", "1.2.2"),
    "SeriesInstanceUID": ("1.2.9",),
}


def shown(connection: Connection) -> list[tuple[Any, ...]]:
    """Return every instance with all that is said of what it belongs to, without the catalog's own numbers."""
    own = {"patient_key", "study_key", "series_key", "instance_key"}
    columns = [each for table in (patient, study, series, instance) for each in table.c if each.name not in own]
    statement = (
        select(*columns)
        .join_from(instance, series, series.c.series_key == instance.c.series_key)
        .join(study, study.c.study_key == series.c.study_key)
        .join(patient, patient.c.patient_key == study.c.patient_key)
        .order_by(instance.c.sop_instance_uid)
    )
    return [tuple(row) for row in connection.execute(statement)]


def clear(engine: Engine) -> None:
    """Remove every row."""
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))


def expected(objects: list[IndexedObject], study_uid: str, keyword: str, empty: Any = None) -> Any:
    """Return the last value that an object of a study gives."""
    filled = [
        each.values.get(keyword)
        for each in sorted(objects, key=lambda each: each.location.stored_at)
        if each.values["StudyInstanceUID"] == study_uid and each.values.get(keyword) not in EMPTY
    ]
    return filled[-1] if filled else empty


def test_rows_of_objects_with_empty_values_do_not_depend_on_order_or_batches(engine: Engine, an_object: Build):
    """Whatever is empty in whichever object, any order and any batches end in one catalog: the last filled values."""
    chance = random.Random(1)
    for _ in range(ROUNDS):
        objects = [
            an_object(n, **{name: chance.choice(choices) for name, choices in CHOICES.items()}) for n in range(6)
        ]
        found = []
        for _ in range(3):
            chance.shuffle(objects)
            cuts = sorted(chance.sample(range(1, 6), 2))
            clear(engine)
            for start, end in itertools.pairwise([0, *cuts, 6]):
                with engine.begin() as connection:
                    upsert_objects(connection, objects[start:end], NOW)
            with begin_read(engine) as connection:
                found.append(shown(connection))
                studies = connection.execute(select(study)).all()
        assert found == [found[0]] * 3
        assert 6 == len(found[0])
        for row in studies:
            for keyword, value in (
                ("StudyDescription", row.study_description),
                ("StudyTime", row.study_time),
                ("ModalitiesInStudy", row.modalities_in_study),
            ):
                assert expected(objects, row.study_instance_uid, keyword) == value


def test_later_object_with_empty_attributes_blanks_nothing(engine: Engine, an_object: Build, write: Write):
    """A presentation state that leaves out what the images say is found as they are, and contradicts nobody."""
    filled = {
        "PatientName": "Demo^One",
        "PatientBirthDate": date(1970, 1, 2),
        "PatientSex": "F",
        "AccessionNumber": "ACC1",
        "StudyDescription": "Chest",
        "StudyDate": date(2026, 1, 2),
        "StudyTime": time(10, 0),
        "StudyID": "S1",
    }
    write(an_object(1, **filled))
    without = dict.fromkeys(("PatientBirthDate", "StudyDate", "StudyTime"))
    for number, empty in enumerate(EMPTY[:5], 2):
        write(an_object(number, SeriesInstanceUID="1.2.3.8", **dict.fromkeys(filled, empty) | without))
    with begin_read(engine) as connection:
        (found,) = search_studies(connection, StudyFilter(patient_name="one", accession_number="ACC1")).studies
        row = connection.execute(select(study)).one()
        person = connection.execute(select(patient)).one()
        kinds = {each.kind for each in list_conflicts(connection)}
        assert 1 == len(connection.execute(select(patient_history)).all())
    assert ("Demo^One", "Chest", date(2026, 1, 2)) == (found.patient_name, found.study_description, found.study_date)
    assert ("S1", time(10, 0), "2026-01-02T10:00:00") == (row.study_id, row.study_time, row.sort_at)
    assert (date(1970, 1, 2), "F") == (person.patient_birth_date, person.patient_sex)
    assert set() == kinds


@pytest.mark.parametrize(
    ("claims", "owner"),
    [
        (({"PatientID": "P1"}, {"PatientID": None}, {"PatientID": ""}), ("site", "P1")),
        (({"PatientID": "P1", "IssuerOfPatientID": "H"}, {"PatientID": "P1"}, {"PatientID": None}), ("H", "P1")),
        (({"PatientID": "P1", "IssuerOfPatientID": "H"}, {"PatientID": "P2"}, {"PatientID": None}), ("site", "P2")),
        (
            ({"PatientID": "P1"}, {"PatientID": "P2", "IssuerOfPatientID": "H"}, {"PatientID": "P2"}),
            ("H", "P2"),
        ),
    ],
)
def test_study_belongs_to_the_patient_whom_its_objects_name_last(
    engine: Engine, an_object: Build, write: Write, claims: Any, owner: tuple[str, str]
):
    """An object without a Patient ID, or without its issuer, takes a study from nobody, whatever comes first."""
    objects = [an_object(number, **claim) for number, claim in enumerate(claims)]
    for order in itertools.permutations(objects):
        clear(engine)
        for one in order:
            write(one)
        with begin_read(engine) as connection:
            joined = select(patient.c.issuer_of_patient_id, patient.c.patient_id).join(study)
            assert owner == tuple(connection.execute(joined).one())


def test_one_series_uid_of_two_patients_is_two_series(engine: Engine, an_object: Build, write: Write):
    """Each image is its own patient's, and each study has its own series of that UID."""
    shared = {"SeriesInstanceUID": "1.2.9"}
    objects = [
        an_object(1, StudyInstanceUID="1.2.1", PatientID="A", SeriesDescription="of A", **shared),
        an_object(2, StudyInstanceUID="1.2.1", PatientID="A", **shared),
        an_object(3, StudyInstanceUID="1.2.2", PatientID="B", SeriesDescription="of B", **shared),
    ]
    statement = (
        select(instance.c.sop_instance_uid, patient.c.patient_id, series.c.series_description)
        .join_from(instance, series)
        .join(study)
        .join(patient)
        .order_by(instance.c.sop_instance_uid)
    )
    for order in itertools.permutations(objects):
        clear(engine)
        for one in order:
            write(one)
        with begin_read(engine) as connection:
            found = [tuple(row) for row in connection.execute(statement)]
            (conflict,) = [each for each in list_conflicts(connection) if each.kind == "series_of_studies"]
        assert [("1.2.3.1", "A", "of A"), ("1.2.3.2", "A", "of A"), ("1.2.3.3", "B", "of B")] == found
        assert ("1.2.9", ("study 1.2.1", "study 1.2.2")) == (conflict.uid, conflict.details)


def test_value_too_long_for_an_index_is_kept_as_raw_text(engine: Engine, an_object: Build, write: Write):
    """An accession number, a modality or a word of a name of thousands of characters costs no object its place."""
    chance = random.Random(1)
    long = "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=9000))
    write(an_object(1, AccessionNumber=long, Modality=long, PatientName=long), an_object(2))
    with begin_read(engine) as connection:
        assert 2 == len(connection.execute(select(instance)).all())
        row = connection.execute(select(study)).one()
        (of_series,) = connection.scalars(select(series.c.raw_values))
        (found,) = search_studies(connection, StudyFilter(patient_name=long)).studies
    assert (None, {"AccessionNumber": long}) == (row.accession_number, row.raw_values)
    assert {"Modality": long} == of_series
    assert "1.2.3" == found.study_instance_uid


def test_merge_objects_takes_each_value_from_the_newest_that_has_it():
    """What is not of the newest object says of when it is."""
    objects: list[tuple[str, dict[str, Any]]] = [("3", {"a": 3, "b": ""}), ("2", {"b": "two"}), ("1", {"b": "one"})]
    merged = {name: lambda item, name=name: item.get(name) for name in ("a", "b", "c")}
    expected_row = {"a": 3, "b": "two", "c": None, "as_of": "3", "older_as_of": {"b": "2"}}
    assert expected_row == merge_objects(objects, merged)
