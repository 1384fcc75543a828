"""One study, series and instance with all that is known of them, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from dicomflow.bucket.manifest import Association, Instance, Manifest, Series, Study
from dicomflow.catalog.audit import page_of_audit_events, record_audit_event
from dicomflow.catalog.custody import (
    conflicts_of_study,
    deliveries_of_study,
    find_instance,
    find_one_series,
    find_study,
    image_sets_of_study,
    imports_of_study,
    instances_of_series,
    middles_of_study,
    objects_of_instance,
    outcomes_of_instance,
    problems_of_study,
    series_of_study,
)
from dicomflow.catalog.deliveries import record_delivery
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.import_pages import jobs_of_series, page_of_imports, reasons_of_imports
from dicomflow.catalog.imports import series_at
from dicomflow.catalog.jobs import JobTarget, claim_job
from dicomflow.catalog.outcomes import Outcome, StoredImageSet, record_image_sets, record_outcomes
from dicomflow.catalog.states import SeriesState

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)

Build = Callable[..., Any]
Write = Callable[..., None]


def deliver(engine: Engine, *numbers: int, delivery: str = "delivery", series: str = "1.2.3.0") -> None:
    """Record a manifest of the objects with these numbers."""
    instances = tuple(
        Instance(f"1.2.3.{number}", "1.2", "1.2.840.10008.1.2.1", f"site/{number}.dcm", 500, f"{number:064}", "", "a1")
        for number in numbers
    )
    association = Association("a1", "CT", "DICOMFLOW", "10.0.0.1", "released", ("VIEWER/5", "VIEWER, 2/6"))
    study = Study("1.2.3", (Series(series, instances),))
    manifest = Manifest("site", delivery, NOW, NOW + timedelta(seconds=9), (association,), (study,))
    with engine.begin() as connection:
        record_delivery(connection, manifest, f"manifests/site/{delivery}.json", SeriesState.QUEUED, NOW)


def test_study_shows_series_in_order_with_their_sums(engine: Engine, an_object: Build, write: Write):
    """Series by number, those without one last; instances, bytes and frames add up."""
    write(
        an_object(1, SeriesNumber=2, SeriesInstanceUID="1.2.3.2", NumberOfFrames=7),
        an_object(2, SeriesNumber=2, SeriesInstanceUID="1.2.3.2"),
        an_object(3, SeriesNumber=1, SeriesInstanceUID="1.2.3.1"),
        an_object(4, SeriesInstanceUID="1.2.3.3"),
    )
    with begin_read(engine) as connection:
        study = find_study(connection, "1.2.3")
        assert study is not None
        found = series_of_study(connection, study.study_key)
        assert find_study(connection, "1.2.4") is None
    assert ("123", "1.2.3") == (study.patient_id, study.study_instance_uid)
    assert [("1.2.3.1", 1, 500, 1), ("1.2.3.2", 2, 1000, 8), ("1.2.3.3", 1, 500, 1)] == [
        (row.series_instance_uid, row.instances, row.bytes, row.frames) for row in found
    ]


def test_instances_come_by_number_page_by_page(engine: Engine, an_object: Build, write: Write):
    """Ten comes after nine, and no number after all."""
    write(*(an_object(n, InstanceNumber=number) for n, number in ((1, 10), (2, 9), (3, None), (4, 1))))
    with begin_read(engine) as connection:
        series = find_one_series(connection, "1.2.3.0")
        assert series is not None
        every = instances_of_series(connection, series.series_key)
        second = instances_of_series(connection, series.series_key, offset=1, limit=2)
        middles = middles_of_study(connection, series.study_key)
    assert {series.series_key: every[2].sop_instance_uid} == {key: row.sop_instance_uid for key, row in middles.items()}
    assert [1, 9, 10, None] == [row.instance_number for row in every]
    assert [9, 10] == [row.instance_number for row in second]


def test_custody_of_a_study_and_an_instance(engine: Engine, an_object: Build, write: Write):
    """How objects came, with digests and associations, and every object of an instance."""
    write(an_object(1), an_object(2))
    deliver(engine, 1, 2)
    with begin_read(engine) as connection:
        (came,) = deliveries_of_study(connection, "1.2.3")
        (stored,) = objects_of_instance(connection, "1.2.3.1")
        instance = find_instance(connection, "1.2.3.1")
        assert find_instance(connection, "9") is None
    assert (2, 1000, 2, NOW) == (came["objects"], came["bytes"], came["with_digest"], came["opened_at"])
    (association,) = came["associations"]
    assert ("CT", ["VIEWER/5", "VIEWER, 2/6"]) == (association["calling_ae_title"], association["move_originators"])
    assert ("site/1.dcm", f"{1:064}", NOW + timedelta(seconds=9)) == (
        stored.object_key,
        stored.sha256,
        stored.closed_at,
    )
    assert instance is not None
    assert ("1.2.3", "1.2.3.0", "123") == (
        instance.study_instance_uid,
        instance.series_instance_uid,
        instance.patient_id,
    )


def test_conflicts_and_problems_of_a_study_only(engine: Engine, an_object: Build, write: Write):
    """What contradicts itself in this study, and not in others."""
    write(
        an_object(1, sha256="a" * 64),
        an_object(2, SOPInstanceUID="1.2.3.1", sha256="b" * 64),
        an_object(3, PatientID="456"),
        an_object(4, StudyInstanceUID="9.9", SeriesInstanceUID="1.2.3.0"),
        an_object(5, StudyInstanceUID="7.7", SOPInstanceUID="7.7.1"),
    )
    with begin_read(engine) as connection:
        mine, other = find_study(connection, "1.2.3"), find_study(connection, "7.7")
        assert mine is not None
        assert other is not None
        kinds = {each.kind for each in conflicts_of_study(connection, mine.study_key, "1.2.3")}
        assert [] == conflicts_of_study(connection, other.study_key, "7.7")
        assert [] == problems_of_study(connection, "1.2.3")
    assert {"study_of_patients", "series_of_studies"} <= kinds


def test_imports_have_their_jobs_reasons_and_image_sets(engine: Engine, an_object: Build, write: Write):
    """What the service said of each object, counted by reason; pages give each import once."""
    write(an_object(1), an_object(2), an_object(3))
    deliver(engine, 1, 2, 3)
    deliver(engine, 1, delivery="second", series="1.2.3.9")
    with engine.begin() as connection:
        (row,) = [row for row in series_at(connection, ["delivery"], ["site/"])]  # noqa: C416  # exactly one
        job = claim_job(connection, JobTarget("store", "bucket"), "site/", [row], NOW, NOW)
        assert job is not None
        number = row.series_import_id
        record_outcomes(
            connection,
            job.import_job_id,
            [
                Outcome("site/1.dcm", number, "1.2.3.1", "failed", None, "bad"),
                Outcome("site/2.dcm", number, "1.2.3.2", "failed", None, "bad"),
                Outcome("site/3.dcm", number, "1.2.3.3", "imported", "set", None),
            ],
        )
        record_image_sets(connection, "store", [StoredImageSet("1.2.3", "1.2.3.0", "set", 1, is_primary=True)], NOW)
    with begin_read(engine) as connection:
        study = find_study(connection, "1.2.3")
        assert study is not None
        assert {number: [("bad", 2)]} == reasons_of_imports(connection, [number, number + 1])
        assert [job.import_job_id] == [each.import_job_id for each in jobs_of_series(connection, number)]
        assert ["set"] == [each.image_set_id for each in image_sets_of_study(connection, study.study_key)]
        assert ["failed"] == [each.outcome for each in outcomes_of_instance(connection, "1.2.3.1")]
        assert 2 == len(imports_of_study(connection, "1.2.3"))
        first = page_of_imports(connection, None, limit=1)
        second = page_of_imports(connection, None, after=first.next_key, limit=1)
        queued = page_of_imports(connection, [SeriesState.QUEUED], limit=5)
    assert 2 == len({first.rows[0].series_import_id, second.rows[0].series_import_id})
    assert None is second.next_key
    assert ["queued"] == [row.state for row in queued.rows]


def test_audit_pages_give_each_event_once_by_uid_and_actor(engine: Engine):
    """The latest first; filters hold together."""
    with engine.begin() as connection:
        for number in range(5):
            record_audit_event(
                connection, NOW, actor=f"a{number % 2}", action="view", uid=f"1.{number % 3}", details={"n": number}
            )
    seen, before = [], None
    with begin_read(engine) as connection:
        while True:
            rows, before = page_of_audit_events(connection, uid=None, actor=None, before=before, limit=2)
            seen += [row.details["n"] for row in rows]
            if before is None:
                break
        rows, _ = page_of_audit_events(connection, uid="1.0", actor="a1", before=None, limit=9)
    assert [4, 3, 2, 1, 0] == seen
    assert [3] == [row.details["n"] for row in rows]
