"""A study goes whole or not at all, and leaves a trace, on both databases."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, insert, select, update

from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.catalog.anew import UnreadObjectsError
from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.deliveries import record_delivery
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.removal import (
    delete_study,
    deliveries_of_study,
    image_sets_of_study,
    object_keys_of_study,
    objects_to_index,
    objects_to_read,
)
from dicomflow.catalog.states import SeriesState
from dicomflow.catalog.tables import (
    image_set,
    instance,
    metadata,
    patient,
    patient_history,
    patient_word,
    series,
    series_image_set,
    series_import,
    series_study,
    stored_object,
    study,
    study_patient,
)
from dicomflow.errors import PermanentError, TransientError

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
Build = Callable[..., Any]
Write = Callable[..., None]


def filled(engine: Engine) -> dict[str, int]:
    """Count the rows of each table that has any."""
    with begin_read(engine) as connection:
        counts = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
        }
    return {name: count for name, count in counts.items() if count}


def plan(engine: Engine, study: str, status: int) -> None:
    """Queue a study's series, map it to an image set, and set its status."""
    one = Instance("1.2.3.1", "1.2", "1.2.840.10008.1.2.1", "site/1.dcm", 500, "aa" * 32, NOW.isoformat(), "1")
    manifest = Manifest("site", study, NOW, NOW, (), (Study(study, (Series(f"{study}.0", (one,)),)),))
    with engine.begin() as connection:
        record_delivery(connection, manifest, f"manifests/{study}", SeriesState.QUEUED, NOW)
        connection.execute(update(series_import).values(status=status))
        connection.execute(insert(image_set).values(datastore_id="d", image_set_id=study, updated_at=NOW))
        values = {
            "study_instance_uid": study,
            "series_instance_uid": f"{study}.0",
            "datastore_id": "d",
            "image_set_id": study,
        }
        connection.execute(insert(series_image_set).values(values))


def test_delete_study_leaves_no_row_but_the_audit_and_the_delivery(engine: Engine, an_object: Build, write: Write):
    """All that the study put into the catalog goes, its patient too; what was done stays known."""
    write(an_object(1, PatientName="Demo^One"), an_object(2))
    plan(engine, "1.2.3", 3)
    with engine.begin() as connection:
        removed = delete_study(connection, "1.2.3", NOW, actor="test")
    assert {"delivery": 1, "audit_event": 1} == filled(engine)
    assert (2, 1, 2) == (removed["instance"], removed["patient"], removed["stored_object"])
    with begin_read(engine) as connection:
        (event,) = list_audit_events(connection, uid="1.2.3")
    assert (NOW, "test", "delete_study") == (event.at, event.actor, event.action)
    assert ["1.2.3"] == event.details["image_sets_left"]


def test_delete_study_keeps_the_patient_of_another_study(engine: Engine, an_object: Build, write: Write):
    """Only what nobody else needs goes."""
    write(an_object(1, PatientName="Demo^One"), an_object(2, StudyInstanceUID="1.2.4"))
    before = filled(engine)
    with engine.begin() as connection:
        delete_study(connection, "1.2.3", NOW, actor="test")
    after = filled(engine)
    assert (before["patient"], before["patient_history"]) == (after["patient"], after["patient_history"])
    assert (1, 1, 1) == (after["study"], after["series"], after["instance"])


def test_delete_study_then_index_again_is_the_same(engine: Engine, an_object: Build, write: Write):
    """A study that comes back is indexed as if it had never gone."""
    write(an_object(1, PatientName="Demo^One"))
    before = filled(engine)
    with engine.begin() as connection:
        delete_study(connection, "1.2.3", NOW, actor="test")
    write(an_object(1, PatientName="Demo^One"))
    assert before | {"audit_event": 1} == filled(engine)


@pytest.mark.parametrize("status", [1, 2])
def test_delete_study_being_imported_is_refused(engine: Engine, an_object: Build, write: Write, status: int):
    """Rows that a job will report on are not taken from under it."""
    write(an_object(1))
    plan(engine, "1.2.3", status)
    before = filled(engine)
    with pytest.raises(TransientError, match=r"1\.2\.3 is being imported"), engine.begin() as connection:
        delete_study(connection, "1.2.3", NOW, actor="test")
    assert before == filled(engine)


def test_delete_study_unknown_is_refused(engine: Engine):
    """A UID with a typing error deletes nothing and says so."""
    with pytest.raises(PermanentError, match=r"no study 9\.9"), engine.begin() as connection:
        delete_study(connection, "9.9", NOW, actor="test")
    assert {} == filled(engine)


def test_object_keys_of_study_are_all_its_objects(engine: Engine, an_object: Build, write: Write):
    """Every version's object belongs to the study, and no other study's."""
    write(an_object(1), an_object(2, SOPInstanceUID="1.2.3.1"), an_object(3, StudyInstanceUID="1.2.4"))
    with begin_read(engine) as connection:
        assert ["site/1.dcm", "site/2.dcm"] == object_keys_of_study(connection, "1.2.3")


def test_delete_study_leaves_another_patient_with_its_series_uid_alone(engine: Engine, an_object: Build, write: Write):
    """Of two studies with one Series Instance UID only the one that was named goes, rows and image sets."""
    shared = {"SeriesInstanceUID": "1.2.9"}
    write(
        an_object(1, StudyInstanceUID="1.2.1", PatientID="A", **shared),
        an_object(2, StudyInstanceUID="1.2.2", PatientID="B", **shared),
    )
    with engine.begin() as connection:
        for study in ("1.2.1", "1.2.2"):
            connection.execute(insert(image_set).values(datastore_id="d", image_set_id=study, updated_at=NOW))
            values = {"study_instance_uid": study, "series_instance_uid": "1.2.9"}
            connection.execute(insert(series_image_set).values(datastore_id="d", image_set_id=study, **values))
        assert [("d", "1.2.2")] == image_sets_of_study(connection, "1.2.2")
        delete_study(connection, "1.2.2", NOW, actor="test")
    with begin_read(engine) as connection:
        assert ["1.2.3.1"] == list(connection.scalars(select(instance.c.sop_instance_uid)))
        assert ["site/1.dcm"] == list(connection.scalars(select(stored_object.c.object_key)))
        assert ["1.2.1"] == list(connection.scalars(select(series_image_set.c.image_set_id)))
        assert ["1.2.1"] == list(connection.scalars(select(image_set.c.image_set_id)))


def test_delete_study_keeps_what_came_meanwhile(engine: Engine, an_object: Build, write: Write):
    """A delivery that was planned and indexed after the study was looked at stays, with its import."""
    write(an_object(1, PatientName="Demo^One"))
    with engine.begin() as connection:
        seen = deliveries_of_study(connection, "1.2.3")
    late = an_object(2)
    write(replace(late, location=replace(late.location, delivery_id="late")))
    with engine.begin() as connection:
        removed = delete_study(connection, "1.2.3", NOW, actor="test", deliveries=seen)
    assert (1, 1, 0) == (removed["instance"], removed["stored_object"], removed.get("study", 0))
    with begin_read(engine) as connection:
        assert ["1.2.3.2"] == list(connection.scalars(select(instance.c.sop_instance_uid)))
        assert frozenset({"late"}) == deliveries_of_study(connection, "1.2.3")
    assert {"patient", "study", "series"} <= filled(engine).keys()


def test_delete_study_gives_an_instance_back_to_the_other_study_that_has_it(
    engine: Engine, an_object: Build, write: Write
):
    """An object that another study's object of the same SOP Instance UID stood before is to be indexed again."""
    older = an_object(1, SOPInstanceUID="1.2.7", StudyInstanceUID="1.2.1", sha256="aa" * 32)
    write(older, an_object(2, SOPInstanceUID="1.2.7", StudyInstanceUID="1.2.2", sha256="bb" * 32))
    with engine.begin() as connection:
        delete_study(connection, "1.2.2", NOW, actor="test")
        assert ["site/1.dcm"] == objects_to_index(connection)
    write(older)
    with begin_read(engine) as connection:
        row = connection.execute(select(instance.c.object_key, instance.c.versions)).one()
        assert [] == objects_to_index(connection)
    assert ("site/1.dcm", 1) == tuple(row)


def test_delete_study_counts_the_versions_that_are_left(engine: Engine, an_object: Build, write: Write):
    """An instance whose other version was in the study that goes has one version."""
    write(an_object(1, SOPInstanceUID="1.2.7", StudyInstanceUID="1.2.1", sha256="aa" * 32))
    write(an_object(2, SOPInstanceUID="1.2.7", StudyInstanceUID="1.2.2", sha256="bb" * 32))
    with engine.begin() as connection:
        delete_study(connection, "1.2.1", NOW, actor="test")
        assert [1] == list(connection.scalars(select(instance.c.versions)))


def seen(engine: Engine) -> dict[str, list[str]]:
    """Return the index as readers see it, without the catalog's own numbers and times."""
    of_patient = (patient.c.issuer_of_patient_id, patient.c.patient_id, patient.c.unidentified_study_uid)
    own = {"patient_key", "study_key", "series_key", "instance_key", "indexed_at"}
    joined = {
        "patient": select(patient),
        "patient_history": select(*of_patient, patient_history).join(patient),
        "patient_word": select(*of_patient, patient_word).join(patient),
        "study": select(*of_patient, study).join(patient),
        "study_patient": select(*of_patient, study_patient).join(patient),
        "series": select(study.c.study_instance_uid, series).join(study),
        "series_study": select(series_study),
        "instance": select(series.c.series_instance_uid, instance).join(series),
        "stored_object": select(stored_object),
    }
    with begin_read(engine) as connection:
        return {
            name: sorted(
                repr({key: value for key, value in row.items() if key not in own})
                for row in connection.execute(statement).mappings()
            )
            for name, statement in joined.items()
        }


@pytest.mark.parametrize("seed", range(int(os.environ.get("DICOMFLOW_TEST_REMOVALS", "4"))))
def test_catalog_after_random_sends_and_deletes_is_the_rebuilt_one(
    engine: Engine, an_object: Build, write: Write, seed: int
):
    """Whatever studies gave to a patient who stays goes with them: each row is as if they had never come."""
    random = Random(seed)
    there: dict[str, Any] = {}
    for number in range(40):
        uid = f"1.2.{random.randint(1, 4)}"
        if number % 8 != 7:
            new = an_object(
                number,
                SOPInstanceUID=f"{uid}.{random.randint(1, 5)}",
                StudyInstanceUID=uid,
                SeriesInstanceUID=f"{uid}.{random.randint(1, 2)}",
                PatientID=random.choice(["A", "A", "B", ""]),
                PatientName=random.choice(["", "Demo^One", "Demo^Two", "Other^Name"]),
                PatientSex=random.choice(["", "F", "O"]),
                PatientComments=random.choice(["", "", "a comment"]),
                StudyDate=random.choice([None, date(2020, 1, 1), date(2021, 1, 1)]),
                sha256=random.choice(["aa" * 32, "bb" * 32]),
            )
            there[new.location.object_key] = new
            write(new)
            continue
        with engine.begin() as connection:
            keys = object_keys_of_study(connection, uid)
            if not keys:
                continue
            read = {key: there[key] for key in objects_to_read(connection, uid)}
            delete_study(connection, uid, NOW, actor="test", read=read)
            again = objects_to_index(connection)
        for key in keys:
            del there[key]
        write(*(there[key] for key in again))
    lived = seen(engine)
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
    left = list(there.values())
    random.shuffle(left)
    write(*left)
    assert lived == seen(engine)


def test_delete_study_is_refused_where_others_objects_name_other_patients(
    engine: Engine, an_object: Build, write: Write
):
    """With other issuers than the pipeline's, or objects that came meanwhile and were not read, nothing is deleted."""
    other = an_object(2, StudyInstanceUID="1.2.4")
    write(an_object(1), other)
    before = filled(engine)
    with engine.begin() as connection:
        assert ["site/2.dcm"] == objects_to_read(connection, "1.2.3")
    for read, error in (
        ({"site/2.dcm": replace(other, site_issuer="wrong")}, PermanentError),
        ({}, UnreadObjectsError),
    ):
        with pytest.raises(error), engine.begin() as connection:
            delete_study(connection, "1.2.3", NOW, actor="test", read=read)
        assert before == filled(engine)
