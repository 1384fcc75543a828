"""Who is who in the index, and which object's values a row holds, on both databases."""

import itertools
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.index import (
    IndexedObject,
    ObjectLocation,
    ObjectProblem,
    upsert_objects,
    upsert_problems,
)
from dicomflow.catalog.tables import instance, patient, series, stored_object, study
from dicomflow.dicom.attributes import ATTRIBUTES, Level, ValueType
from dicomflow.errors import PermanentError

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def an_object(number: int = 1, *, site: str = "site", **values: Any) -> IndexedObject:
    """Build an object stored `number` minutes after noon; keyword arguments are its attributes."""
    stored_at = NOW + timedelta(minutes=number)
    defaults = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.0",
        "PatientID": "123",
    }
    location = ObjectLocation(f"{site}/{number}.dcm", site, "delivery", 500, stored_at)
    return IndexedObject(location, site, defaults | values, {})


def write(engine: Engine, *objects: IndexedObject) -> None:
    """Write one batch."""
    with engine.begin() as connection:
        upsert_objects(connection, objects, NOW)


def read(engine: Engine, table: Any, *columns: str) -> list[tuple[Any, ...]]:
    """Return columns of a table, sorted."""
    with begin_read(engine) as connection:
        return sorted(map(tuple, connection.execute(select(*(table.c[name] for name in columns)))))


def read_patients(engine: Engine) -> list[tuple[str, str]]:
    """Return issuer and Patient ID of all patients."""
    return read(engine, patient, "issuer_of_patient_id", "patient_id")


def orders(objects: Iterable[IndexedObject]) -> list[Any]:
    """Return every order of some objects, for a test that must not depend on it."""
    return list(itertools.permutations(objects))


def test_every_attribute_is_written_and_read_back(engine: Engine):
    """Each column takes its type's values and gives the same back."""
    samples: dict[ValueType, Any] = {
        ValueType.UID: "1." + "2" * 254,
        ValueType.TEXT: "text of any length " * 1000,
        ValueType.DATE: date(1899, 12, 31),
        ValueType.TIME: time(23, 59, 59, 999999),
        ValueType.DATETIME: datetime(2026, 11, 1, 23, 59, 59, 999999),  # noqa: DTZ001  # a device's wall clock
        ValueType.INTEGER: -(2**63) + 1,
        ValueType.FLOAT: 1e-300,
        ValueType.JSON: [{"a": [1, 2.5, None, "ä"]}],
    }
    values = {attribute.keyword: samples[attribute.type] for attribute in ATTRIBUTES}
    values |= {"PatientID": "123", "IssuerOfPatientID": "hospital", "AccessionNumber": "A" * 256, "Modality": "C" * 256}
    write(engine, an_object(**values))
    tables = {Level.PATIENT: patient, Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}
    for attribute in ATTRIBUTES:
        assert [(values[attribute.keyword],)] == read(engine, tables[attribute.level], attribute.column)


def test_raw_values_are_kept_at_their_level(engine: Engine):
    """What did not parse stands in the row of its level."""
    known = an_object()
    raw = {Level.STUDY: {"StudyDate": "yesterday"}}
    write(engine, IndexedObject(known.location, known.site_issuer, known.values, raw))
    assert [({"StudyDate": "yesterday"},)] == read(engine, study, "raw_values")
    assert [(None,)] == read(engine, series, "raw_values")


def test_same_patient_id_of_two_issuers_stays_two_patients(engine: Engine):
    """123 of one hospital is not 123 of another, whether the object or its site says which."""
    write(
        engine,
        an_object(1, site="north", StudyInstanceUID="1", SeriesInstanceUID="1.0"),
        an_object(2, site="south", StudyInstanceUID="2", SeriesInstanceUID="2.0"),
        an_object(3, StudyInstanceUID="3", SeriesInstanceUID="3.0", IssuerOfPatientID="west"),
    )
    assert [("north", "123"), ("south", "123"), ("west", "123")] == read_patients(engine)


@pytest.mark.parametrize("patient_id", ["", None])
def test_empty_patient_id_does_not_merge_everybody(engine: Engine, patient_id: str | None):
    """Two studies without a Patient ID are two people, and flagged."""
    for number, uid in enumerate("12"):
        write(engine, an_object(number, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.0", PatientID=patient_id))
    assert [("", "1"), ("", "2")] == read(engine, patient, "patient_id", "unidentified_study_uid")


def test_missing_patient_id_makes_no_patient_per_image(engine: Engine):
    """The images of one study without a Patient ID are one person's."""
    write(engine, *(an_object(number, PatientID=None) for number in range(3)))
    write(engine, an_object(4, PatientID=None))
    assert [("site", "")] == read_patients(engine)
    assert 4 == len(read(engine, instance, "sop_instance_uid"))


def test_missing_birth_date_stays_null(engine: Engine):
    """No date is made up."""
    write(engine, an_object(PatientBirthDate=None))
    assert [(None,)] == read(engine, patient, "patient_birth_date")


@pytest.mark.parametrize("order", range(6))
def test_demographics_follow_the_time_of_the_study(engine: Engine, order: int):
    """The patient is called what the latest study calls them, whatever the order of arrival."""
    objects = (
        an_object(1, StudyInstanceUID="3", SeriesInstanceUID="3.0", StudyDate=date(2026, 1, 3), PatientName="New"),
        an_object(2, StudyInstanceUID="1", SeriesInstanceUID="1.0", StudyDate=date(2026, 1, 1), PatientName="Old"),
        an_object(3, StudyInstanceUID="2", SeriesInstanceUID="2.0", PatientName="Without a date"),
    )
    for one in orders(objects)[order]:
        write(engine, one)
    assert [("New",)] == read(engine, patient, "patient_name")


@pytest.mark.parametrize("order", range(6))
def test_study_moves_to_the_corrected_patient(engine: Engine, order: int):
    """A study that was sent again under the right patient is that patient's, whatever the order of arrival."""
    objects = (an_object(1, PatientID="wrong"), an_object(2, PatientID="wrong"), an_object(3, PatientID="right"))
    for one in orders(objects)[order]:
        write(engine, one)
    with begin_read(engine) as connection:
        owner = select(patient.c.patient_id).join(study, study.c.patient_key == patient.c.patient_key)
        assert ["right"] == list(connection.scalars(owner))


@pytest.mark.parametrize("together", [True, False])
def test_instance_sent_again_names_the_latest_object(engine: Engine, together: bool):  # noqa: FBT001  # a parameter of the test
    """One SOP instance is one row, and its object the last that was stored."""
    objects = [an_object(number, SOPInstanceUID="1.2.3.9", Rows=number) for number in (2, 3, 1)]
    batches = [objects] if together else [[one] for one in objects]
    for batch in batches:
        write(engine, *batch)
    assert [("site/3.dcm", 3)] == read(engine, instance, "object_key", "rows")
    assert 3 == len(read(engine, stored_object, "object_key"))


def test_digest_of_the_manifest_survives_indexing(engine: Engine):
    """A manifest that came before its objects' events keeps what it said."""
    with engine.begin() as connection:
        connection.execute(insert(stored_object).values(object_key="site/1.dcm", sha256="ab" * 32))
    write(engine, an_object(1))
    assert [("ab" * 32, "1.2.3.1", NOW)] == read(engine, stored_object, "sha256", "sop_instance_uid", "indexed_at")


def test_problem_of_an_object_is_recorded_once(engine: Engine):
    """An object that cannot be indexed has one row, with the last reason."""
    for reason in ("first", "second"):
        with engine.begin() as connection:
            upsert_problems(connection, [ObjectProblem("site/x", "site", None, 5, reason)])
    assert [("site/x", "second", 5, None)] == read(
        engine, stored_object, "object_key", "problem", "bytes", "indexed_at"
    )


def test_empty_batch_writes_nothing(engine: Engine):
    """No objects, no statements that fail."""
    with engine.begin() as connection:
        upsert_objects(connection, [], NOW)
        upsert_problems(connection, [])
    assert [] == read(engine, stored_object, "object_key")


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("StudyInstanceUID", None, r"no StudyInstanceUID \(0020,000D\)"),
        ("SeriesInstanceUID", "", r"no SeriesInstanceUID \(0020,000E\)"),
        ("SOPInstanceUID", "../../etc", r"SOPInstanceUID \(0008,0018\) is no UID"),
        ("SOPClassUID", "1" * 257, r"SOPClassUID \(0008,0016\) of 257 characters exceeds 256"),
        ("PatientID", "x" * 257, r"PatientID \(0010,0020\) of 257 characters exceeds 256"),
    ],
)
def test_object_without_a_place_in_the_index_is_refused(keyword: str, value: str | None, reason: str):
    """What cannot be indexed is refused with its tag, and without its value."""
    with pytest.raises(PermanentError, match=f"^{reason}$"):
        an_object(**{keyword: value})


def test_uid_of_256_characters_fits(engine: Engine):
    """UIDs as long as the service takes them are kept whole at every level; a longer one is refused."""
    uids = {
        name: f"1.{number}.{'2' * 252}"
        for number, name in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"), 1)
    }
    write(engine, an_object(**uids))
    with begin_read(engine) as connection:
        found = [
            connection.scalar(select(column))
            for column in (
                study.c.study_instance_uid,
                series.c.series_instance_uid,
                instance.c.sop_instance_uid,
                instance.c.sop_class_uid,
            )
        ]
    assert [256] * 4 == [len(uid) for uid in uids.values()]
    assert list(uids.values()) == found
    with pytest.raises(PermanentError, match="257 characters exceeds 256"):
        an_object(SOPInstanceUID=uids["SOPInstanceUID"] + "2")
