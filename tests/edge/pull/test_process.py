"""The edge's own pulls: what was interrupted is finished, and the last days are compared once a night."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomflow.edge.pull.fetch import peer_of
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import JobState
from dicomflow.edge.pull.process import nightly_due, step
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.report import summary
from dicomflow.edge.pull.work import Pull, Surroundings

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
NIGHT = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


def _pull(site: Any) -> Pull:
    around = Surroundings(site.stopping, site.settings.spool, patience_seconds=1.0)
    return Pull(peer_of("PACS1", site.settings), Holdings(site.settings), site.jobs, around)


def test_nightly_job_is_due_once_a_night(site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]]):
    """At its time, or when the edge is on again; not a second time before the next night."""
    site = site_of(source_of(ct()))
    job = site.jobs.begin("PACS1", Question(), is_dry=False, is_nightly=True)
    assert nightly_due("02:00", None, NIGHT)
    assert nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(hours=24)), NIGHT)
    assert not nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(minutes=20)), NIGHT)
    assert nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(minutes=40)), NIGHT)
    assert not nightly_due("03:00", replace(job, created_at=NIGHT - timedelta(hours=23)), NIGHT)


def test_nightly_job_asks_for_the_last_days(site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]]):
    """Today and the week before: what is older is not asked for, and what was missing is fetched."""
    images = ct(3)
    for image, day in zip(images, ("20261130", "20261123", "20261122"), strict=True):
        image.StudyDate = day
    source = source_of(images)
    site = site_of(source, nightly="02:00")
    assert not step(_pull(site), site.jobs, NIGHT)
    job = site.jobs.last_nightly("PACS1")
    assert ("20261123-20261130", JobState.DONE) == (job.question.study_date, job.state)
    assert summary(site.jobs, job)["is_whole"]
    assert {image.SOPInstanceUID for image in images[:2]} == source.sent.keys()


def test_interrupted_job_is_finished_and_a_stopped_one_is_not(
    site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]]
):
    """Who pressed Ctrl-C did not mean the edge to go on."""
    source = source_of(ct())
    site = site_of(source)
    job = site.jobs.begin("PACS1", Question(), is_dry=False)
    site.jobs.change(job.id, JobState.RUNNING, JobState.STOPPED)
    assert not step(_pull(site), site.jobs, NIGHT)
    assert not source.sent
    assert job.id == site.jobs.begin("PACS1", Question(), is_dry=False).id
    assert not step(_pull(site), site.jobs, NIGHT)
    assert JobState.DONE is site.jobs.job(job.id).state
    assert source.sent


def test_source_that_is_gone_is_told_as_interrupted(site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]]):
    """So that it is asked again later, with growing pauses."""
    source = source_of(ct())
    site = site_of(source)
    site.jobs.begin("PACS1", Question(), is_dry=False)
    source.close()
    assert step(_pull(site), site.jobs, NIGHT)
