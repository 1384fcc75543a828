"""What contradicts itself is listed, whatever came first, and nothing is merged, on both databases."""

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.catalog.conflicts import Conflict, list_conflicts, list_problems
from dicomflow.catalog.deliveries import record_delivery
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.index import ObjectProblem, upsert_problems
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.tables import instance, patient, patient_history, stored_object

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
A, B = "aa" * 32, "bb" * 32
Build = Callable[..., Any]
Write = Callable[..., None]


def conflicts(engine: Engine, *kinds: str) -> list[Conflict]:
    """Return the conflicts of some kinds."""
    with begin_read(engine) as connection:
        found = list_conflicts(connection, kinds=kinds)
        assert [each for each in list_conflicts(connection) if each.kind in kinds] == found
        return found


def a_manifest(key: str, sha256: str, delivery: str = "delivery") -> Manifest:
    """Build the manifest of one object of instance 1.2.3.1."""
    one = Instance("1.2.3.1", "1.2", "1.2.840.10008.1.2.1", key, 500, sha256, NOW.isoformat(), "1")
    study = Study("1.2.3", (Series("1.2.3.0", (one,)),))
    return Manifest("site", delivery, NOW, NOW, (), (study,))


@pytest.mark.parametrize("order", range(2))
def test_conflicting_digest_becomes_a_version(engine: Engine, an_object: Build, write: Write, order: int):
    """One SOP Instance UID with other bytes: both objects are kept and listed, the current one first."""
    objects = [an_object(number, SOPInstanceUID="1.2.3.1", sha256=sha256) for number, sha256 in ((1, A), (2, B))]
    for one in list(itertools.permutations(objects))[order]:
        write(one)
    expected = ("site/2.dcm sha256=bbbbbbbbbbbb", "site/1.dcm sha256=aaaaaaaaaaaa")
    assert [Conflict("versions", "1.2.3.1", expected)] == conflicts(engine, "versions")


def test_same_digest_sent_again_is_no_conflict(engine: Engine, an_object: Build, write: Write):
    """The same bytes under another key are a repeat."""
    write(*(an_object(number, SOPInstanceUID="1.2.3.1", sha256=A) for number in (1, 2)))
    write(an_object(3, SOPInstanceUID="1.2.3.1"))
    assert [] == conflicts(engine, "versions", "damaged")


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_versions_do_not_depend_on_the_order_of_events_and_manifests(
    engine: Engine, an_object: Build, write: Write, order: tuple[int, ...]
):
    """Digests that only manifests know make versions, whichever of the four messages comes last."""

    def plan(key: str, sha256: str, delivery: str) -> None:
        with engine.begin() as connection:
            record_delivery(
                connection, a_manifest(key, sha256, delivery), f"manifests/{delivery}", SeriesState.QUEUED, NOW
            )

    messages: list[Callable[[], None]] = [
        lambda: write(an_object(1, SOPInstanceUID="1.2.3.1")),
        lambda: write(an_object(2, SOPInstanceUID="1.2.3.1")),
        lambda: plan("site/1.dcm", A, "one"),
        lambda: plan("site/2.dcm", B, "two"),
    ]
    for number in order:
        messages[number]()
    with begin_read(engine) as connection:
        assert [2] == list(connection.scalars(select(instance.c.versions)))


def test_version_that_is_repaired_is_no_conflict_any_more(engine: Engine, an_object: Build, write: Write):
    """The flag is what the rows say now."""
    write(*(an_object(number, SOPInstanceUID="1.2.3.1", sha256=sha256) for number, sha256 in ((1, A), (2, B))))
    write(an_object(2, SOPInstanceUID="1.2.3.1", sha256=A))
    assert [] == conflicts(engine, "versions")


def test_indexed_digest_equals_the_edge_digest(engine: Engine, an_object: Build, write: Write):
    """An object of other bytes than its first manifest says is flagged, whatever a later one says."""
    write(an_object(1, sha256=A), an_object(2, sha256=A))
    for number, digests in ((1, (A, B)), (2, (B, A))):
        for sha256 in digests:
            with engine.begin() as connection:
                told = a_manifest(f"site/{number}.dcm", sha256)
                record_delivery(connection, told, "manifests/x", SeriesState.QUEUED, NOW)
    expected = ("site/2.dcm", "manifest sha256=bbbbbbbbbbbb", "object sha256=aaaaaaaaaaaa")
    assert [Conflict("damaged", "1.2.3.2", expected)] == conflicts(engine, "damaged")


@pytest.mark.parametrize("order", range(2))
def test_study_under_two_patients_is_flagged_not_merged(engine: Engine, an_object: Build, write: Write, order: int):
    """Both patients stay, and the study is listed with both."""
    objects = [an_object(1, PatientID="left"), an_object(2, PatientID="right")]
    for one in list(itertools.permutations(objects))[order]:
        write(one)
    (found,) = conflicts(engine, "study_of_patients")
    assert ("1.2.3", 2) == (found.uid, len(found.details))
    with begin_read(engine) as connection:
        assert ["left", "right"] == sorted(connection.scalars(select(patient.c.patient_id)))


def test_series_under_two_studies_is_flagged(engine: Engine, an_object: Build, write: Write):
    """A series UID that another study uses too is listed with both."""
    write(*(an_object(n, StudyInstanceUID=f"1.2.{n}", SeriesInstanceUID="1.2.9") for n in (1, 2)))
    expected = [Conflict("series_of_studies", "1.2.9", ("study 1.2.1", "study 1.2.2"))]
    assert expected == conflicts(engine, "series_of_studies")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_later_object_does_not_rename_the_patient_silently(
    engine: Engine, an_object: Build, write: Write, order: tuple[int, ...]
):
    """Demographics follow the study's time; the earlier ones stay in the history, and the patient is listed."""
    people = [("Old^Name", date(2020, 1, 1)), ("New^Name", date(2026, 1, 1)), ("Old^Name", date(2019, 1, 1))]
    objects = [
        an_object(number, StudyInstanceUID=f"1.{number}", PatientName=name, StudyDate=day)
        for number, (name, day) in enumerate(people)
    ]
    for number in order:
        write(objects[number])
    with begin_read(engine) as connection:
        assert ["New^Name"] == list(connection.scalars(select(patient.c.patient_name)))
        days = func.substr(patient_history.c.first_as_of, 1, 10), func.substr(patient_history.c.last_as_of, 1, 10)
        history = connection.execute(select(patient_history.c.patient_name, *days)).all()
    assert [("New^Name", "2026-01-01", "2026-01-01"), ("Old^Name", "2019-01-01", "2020-01-01")] == sorted(
        map(tuple, history)
    )
    assert ["2 sets in patient_history"] == [each.details[0] for each in conflicts(engine, "demographics")]


def test_missing_patient_id_is_flagged(engine: Engine, an_object: Build, write: Write):
    """A study of nobody is listed by its UID."""
    write(an_object(1, PatientID=None), an_object(2, StudyInstanceUID="1.2.4"))
    assert ["1.2.3"] == [each.uid for each in conflicts(engine, "unidentified")]


def test_conflicts_show_no_patient(engine: Engine, an_object: Build, write: Write):
    """Names and Patient IDs stay out of what goes to terminals and tickets."""
    write(
        an_object(1, PatientName="Secret^One", PatientID="S1"), an_object(2, PatientName="Secret^Two", PatientID="S2")
    )
    write(an_object(3, PatientName="Secret^Three", PatientID="S2"), an_object(4, PatientID=None))
    found = conflicts(engine, "study_of_patients", "demographics", "unidentified")
    assert {"study_of_patients", "demographics", "unidentified"} == {each.kind for each in found}
    assert not any(word in repr(found) for word in ("Secret", "S1", "S2"))


def test_list_problems_pages_by_key(engine: Engine):
    """Problems come in order of their keys, each page behind the one before."""
    with engine.begin() as connection:
        upsert_problems(connection, [ObjectProblem(f"site/{n}", "site", None, n, "no DICOM") for n in range(5)])
        connection.execute(update(stored_object).where(stored_object.c.object_key == "site/3").values(problem=None))
    with begin_read(engine) as connection:
        first = list_problems(connection, limit=2)
        rest = list_problems(connection, after=first[-1].object_key)
    assert ["site/0", "site/1", "site/2", "site/4"] == [each.object_key for each in [*first, *rest]]
