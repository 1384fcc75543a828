"""The import queue's statements on both databases: who changes a state, and who does not."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from dicomflow.bucket.keys import instance_key, manifest_key
from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.catalog import imports, jobs, outcomes, pace
from dicomflow.catalog.deliveries import record_delivery
from dicomflow.catalog.jobs import Job, JobTarget
from dicomflow.catalog.outcomes import Outcome, StoredImageSet
from dicomflow.catalog.states import JobState, SeriesState
from dicomflow.catalog.tables import image_set

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)
TARGET = JobTarget("0" * 32, "images")


def plan(engine: Engine, delivery: str, *series_uids: str) -> None:
    """Queue series of one instance each."""
    series = tuple(
        Series(
            uid,
            (
                Instance(
                    f"{uid}.1",
                    "1.2.840.10008.5.1.4.1.1.2",
                    "1.2.840.10008.1.2.1",
                    instance_key("edge", delivery, "1.2", uid, f"{uid}.1"),
                    100,
                    "ab" * 32,
                    NOW.isoformat(),
                    "1",
                ),
            ),
        )
        for uid in series_uids
    )
    manifest = Manifest("edge", delivery, NOW, NOW, (), (Study("1.2", series),))
    with engine.begin() as connection:
        record_delivery(connection, manifest, manifest_key("edge", delivery), SeriesState.QUEUED, NOW)


def claim(engine: Engine, now: datetime = NOW, *, is_long: bool = False) -> Job | None:
    """Claim the next job, as a driver does."""
    with engine.begin() as connection:
        pace.lock_claims(connection)
        found = imports.next_ready_series(
            connection, now, max_files=10, max_bytes=1000, together_before=now if is_long else NOW - timedelta(days=1)
        )
        if found is None:
            return None
        return jobs.claim_job(connection, TARGET, *found, now, now + timedelta(seconds=60))


def test_claim_takes_each_series_once(engine: Engine) -> None:
    """After as many claims as series, nothing is ready."""
    plan(engine, "d1", "1.2.1", "1.2.2")
    jobs = [claim(engine) for _ in range(3)]
    assert jobs[2] is None
    assert ["s3://images/edge/d1/1.2/1.2.1/", "s3://images/edge/d1/1.2/1.2.2/"] == [
        job.input_s3_uri for job in jobs if job
    ]
    assert 2 == len({job.client_token for job in jobs if job})


def test_two_drivers_at_once_start_each_job_once(engine: Engine) -> None:
    """Eight threads claim forty series: each is claimed by one of them."""
    plan(engine, "d1", *(f"1.2.{number}" for number in range(1, 41)))
    claimed: list[Job] = []

    def work() -> None:
        while (job := claim(engine)) is not None:
            claimed.append(job)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40 == len(claimed)
    assert 40 == len({job.input_s3_uri for job in claimed})


def test_token_and_name_are_the_services_characters(engine: Engine) -> None:
    """Token and name keep to the service's length and alphabet."""
    import re

    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", job.client_token)
    assert re.fullmatch(r"[A-Za-z0-9._/#-]{1,64}", job.job_name)


@pytest.mark.parametrize(("extra", "expected"), [(3, "edge/d1/1.2/"), (11, "edge/d1/1.2/1.2.1/")])
def test_long_queue_takes_a_study_that_fits(engine: Engine, extra: int, expected: str) -> None:
    """All series of a study go in one job within the limits of files and bytes, else one goes alone."""
    plan(engine, "d1", *(f"1.2.{number}" for number in range(1, extra + 1)))
    job = claim(engine, is_long=True)
    assert job is not None
    assert f"s3://images/{expected}" == job.input_s3_uri


def test_job_ends_once(engine: Engine) -> None:
    """The second end of a job changes nothing, whatever it says."""
    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    with engine.begin() as connection:
        assert jobs.record_submitted(connection, job, "j1", NOW, LATER, NOW)
        assert not jobs.record_submitted(connection, job, "j1", NOW, LATER, NOW)
        assert jobs.finish_job(connection, job, JobState.COMPLETED, now=NOW)
        assert not jobs.finish_job(connection, job, JobState.FAILED, now=NOW)
        assert not jobs.record_running(connection, job, "j1", JobState.IN_PROGRESS, LATER, NOW)


def test_job_in_progress_is_not_submitted_again(engine: Engine) -> None:
    """A late Submitted event does not take a job back."""
    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    with engine.begin() as connection:
        assert jobs.record_running(connection, job, "j1", JobState.IN_PROGRESS, LATER, NOW)
        assert not jobs.record_running(connection, job, "j1", JobState.SUBMITTED, LATER, NOW)
        found = jobs.find_job(connection, TARGET.datastore_id, "j1", None)
    assert found is not None
    assert "in_progress" == found.state


def test_series_of_an_older_job_is_left_alone(engine: Engine) -> None:
    """A job whose series have gone on to another job cannot end them."""
    plan(engine, "d1", "1.2.1")
    first = claim(engine)
    assert first is not None
    with engine.begin() as connection:
        (row,) = imports.series_of_job(connection, first.import_job_id)
        assert imports.requeue_series(connection, row.series_import_id, first.import_job_id, NOW, "simulated", NOW)
        assert not imports.finish_series(
            connection, row.series_import_id, first.import_job_id, SeriesState.COMPLETED, None, NOW
        )
    second = claim(engine)
    assert second is not None
    assert first.client_token != second.client_token
    with engine.begin() as connection:
        assert not imports.finish_series(
            connection, row.series_import_id, first.import_job_id, SeriesState.FAILED, None, NOW
        )
        assert imports.finish_series(
            connection, row.series_import_id, second.import_job_id, SeriesState.COMPLETED, None, NOW
        )


def test_series_before_its_time_is_not_ready(engine: Engine) -> None:
    """A series that waits is ready at its time, not before."""
    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    with engine.begin() as connection:
        (row,) = imports.series_of_job(connection, job.import_job_id)
        imports.requeue_series(connection, row.series_import_id, job.import_job_id, LATER, "simulated", NOW)
        assert LATER == imports.next_series_due(connection, NOW)
    assert claim(engine) is None
    assert claim(engine, LATER) is not None


def test_claimed_job_is_retaken_after_its_time(engine: Engine) -> None:
    """A claim holds until its time, and then one other driver gets it."""
    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    with engine.begin() as connection:
        assert jobs.retake_claimed_job(connection, NOW, LATER) is None
        taken = jobs.retake_claimed_job(connection, LATER, LATER + timedelta(seconds=60))
        assert jobs.retake_claimed_job(connection, LATER, LATER) is None
    assert taken is not None
    assert (job.import_job_id, job.client_token) == (taken.import_job_id, taken.client_token)


def test_older_version_does_not_replace_a_newer_one(engine: Engine) -> None:
    """Image sets keep their highest version, and what is known of them."""
    newer = StoredImageSet("1.2", "1.2.1", "a" * 32, 3, True)
    with engine.begin() as connection:
        outcomes.record_image_sets(connection, TARGET.datastore_id, [newer], NOW)
        outcomes.record_image_sets(connection, TARGET.datastore_id, [replace(newer, version=2)], LATER)
        found = connection.execute(select(image_set)).one()
    assert (3, True, NOW) == (found.version, found.is_primary, found.updated_at)


def test_outcome_recorded_twice_is_one_row(engine: Engine) -> None:
    """A repeat of a job's results changes nothing."""
    plan(engine, "d1", "1.2.1")
    job = claim(engine)
    assert job is not None
    with engine.begin() as connection:
        (row,) = imports.series_of_job(connection, job.import_job_id)
        outcome = Outcome("edge/d1/1.2/1.2.1/1.2.1.1.dcm", row.series_import_id, "1.2.1.1", "imported", "a", None)
        for _ in range(2):
            outcomes.record_outcomes(connection, job.import_job_id, [outcome])
        assert ["imported"] == [found.outcome for found in outcomes.outcomes_of_series(connection, row)]
        assert [] == outcomes.objects_left(connection, row, TARGET.datastore_id)


def test_operator_queues_failed_series_again(engine: Engine) -> None:
    """A retry takes failed and partial series back into the queue, and no others."""
    plan(engine, "d1", "1.2.1", "1.2.2")
    claimed: list[Any] = [claim(engine), claim(engine)]
    with engine.begin() as connection:
        for job, state in zip(claimed, (SeriesState.FAILED, SeriesState.COMPLETED), strict=True):
            (row,) = imports.series_of_job(connection, job.import_job_id)
            imports.finish_series(connection, row.series_import_id, job.import_job_id, state, None, NOW)
        assert 1 == len(imports.retry_series(connection, LATER))
    again = claim(engine, LATER)
    assert again is not None
    assert claimed[0].input_s3_uri == again.input_s3_uri
