"""The edge's own pulls: what was interrupted is finished, and the last days are compared once a night."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomflow.bucket.compared import ComparedSource
from dicomflow.edge.pull.fetch import peer_of
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import JobState
from dicomflow.edge.pull.process import nightly_due, step
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.report import summary
from dicomflow.edge.pull.work import Pull, Surroundings
from dicomflow.edge.spool.compared import read_compared

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
NIGHT = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


def _pull(site: Any) -> Pull:
    around = Surroundings(site.stopping, site.settings.spool, patience_seconds=1.0)
    return Pull(peer_of("PACS1", site.settings), Holdings(site.settings), site.jobs, around)


def _night(site: Any, root: Path, now: datetime) -> bool:
    site.now = now
    return step(_pull(site), site.jobs, root, now)


def test_nightly_job_is_due_once_a_night(site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]]):
    """At its time, or when the edge is on again; not a second time before the next night."""
    site = site_of(source_of(ct()))
    job = site.jobs.begin("PACS1", Question(), is_dry=False, is_nightly=True)
    assert nightly_due("02:00", None, NIGHT)
    assert nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(hours=24)), NIGHT)
    assert not nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(minutes=20)), NIGHT)
    assert nightly_due("02:00", replace(job, created_at=NIGHT - timedelta(minutes=40)), NIGHT)
    assert not nightly_due("03:00", replace(job, created_at=NIGHT - timedelta(hours=23)), NIGHT)


def test_nightly_job_asks_for_the_last_days(
    site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]], tmp_path: Path
):
    """Today and the week before: what is older is not asked for, and what was missing is fetched."""
    images = ct(3)
    for image, day in zip(images, ("20261130", "20261123", "20261122"), strict=True):
        image.StudyDate = day
    source = source_of(images)
    site = site_of(source, nightly="02:00")
    assert not _night(site, tmp_path, NIGHT)
    job = site.jobs.last_nightly("PACS1")
    assert ("20261123-20261130", JobState.DONE) == (job.question.study_date, job.state)
    assert summary(site.jobs, job)["is_whole"]
    assert {image.SOPInstanceUID for image in images[:2]} == source.sent.keys()
    (told,) = read_compared(tmp_path, ("PACS1", "PACS2"))
    assert ComparedSource("PACS1", NIGHT, 2, 0, is_whole=True, days=told.days) == told
    assert [date(2026, 11, 30 - ago) for ago in range(8)] == [each.day for each in told.days]
    assert [1, 0, 0, 0, 0, 0, 0, 1] == [each.studies for each in told.days] == [each.images for each in told.days]
    assert all(each.is_whole and each.at == NIGHT for each in told.days)


def test_what_is_missing_at_night_is_told(
    site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]], tmp_path: Path
):
    """For the heartbeat: how many, or why nobody knows; a note that is none is left out."""
    images = ct(slices=3, StudyDate="20261130")
    source = source_of(images)
    source.dropped = {images[0].SOPInstanceUID}
    site = site_of(source, nightly="02:00")
    _night(site, tmp_path, NIGHT)
    (told,) = read_compared(tmp_path, ("PACS1",))
    assert (3, 1, False, "") == (told.images, told.missing, told.is_whole, told.reason)
    assert [(images[0].StudyInstanceUID, 1)] == [(each.study, each.missing) for each in told.days[0].lacking]
    source.close()
    assert _night(site, tmp_path, NIGHT + timedelta(days=1))
    (told,) = read_compared(tmp_path, ("PACS1",))
    assert (0, False) == (told.missing, told.is_whole)
    assert "cannot connect" in told.reason
    assert [("2026-12-01", 0, False), ("2026-11-30", 1, True), ("2026-11-29", 0, False)] == [
        (str(each.day), each.missing, each.is_whole) for each in told.days[:3]
    ]
    (tmp_path / "compared" / "PACS1.json").write_text("{}")
    assert () == read_compared(tmp_path, ("PACS1",))


def test_interrupted_job_is_finished_and_a_stopped_one_is_not(
    site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]], tmp_path: Path
):
    """Who pressed Ctrl-C did not mean the edge to go on."""
    source = source_of(ct())
    site = site_of(source)
    job = site.jobs.begin("PACS1", Question(), is_dry=False)
    site.jobs.change(job.id, JobState.RUNNING, JobState.STOPPED)
    assert not _night(site, tmp_path, NIGHT)
    assert not source.sent
    assert job.id == site.jobs.begin("PACS1", Question(), is_dry=False).id
    assert not _night(site, tmp_path, NIGHT)
    assert JobState.DONE is site.jobs.job(job.id).state
    assert source.sent


def test_source_that_is_gone_is_told_as_interrupted(
    site_of: Any, source_of: Any, ct: Callable[..., list[Dataset]], tmp_path: Path
):
    """So that it is asked again later, with growing pauses."""
    source = source_of(ct())
    site = site_of(source)
    site.jobs.begin("PACS1", Question(), is_dry=False)
    source.close()
    assert _night(site, tmp_path, NIGHT)
