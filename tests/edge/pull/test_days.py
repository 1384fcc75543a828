"""What a comparison says of each day: bounded, and of a day that was not told of whole, that nobody knows."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dicomflow.bucket.compared import MOST_DAYS, MOST_STUDIES, ComparedDay
from dicomflow.edge.pull.days import days_after
from dicomflow.edge.pull.jobs import Job, Jobs, Study, StudyState
from dicomflow.edge.pull.questions import Question

AT = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Give jobs of a spool."""
    made = Jobs(tmp_path)
    yield made
    made.close()


def _job(jobs: Jobs, *studies: Study, dates: str = "20261128-20261130", cut: str = "", is_done: bool = True) -> Job:
    job = jobs.begin("PACS1", Question(study_date=dates), is_dry=False)
    for study in studies:
        jobs.list_study(job.id, study)
    if is_done:
        jobs.surveyed(job.id, cut, ())
        jobs.end(job.id)
    return jobs.job(job.id)


def _study(day: str, state: StudyState, missing: int = 0, number: int = 1) -> Study:
    return Study(f"2.25.{day}.{number}", day, state=state, source=5, here=5 - missing, missing=missing, reason="why")


def _seen(days: tuple[ComparedDay, ...]) -> list[tuple[int, int, int, bool]]:
    return [(each.day.day, each.studies, each.missing, each.is_whole) for each in days]


def test_days_have_what_is_missing_and_what_could_not_be_read(jobs: Jobs):
    """A day with nothing at the source is known too; of a day with a study that cannot be read nobody knows all."""
    job = _job(
        jobs,
        _study("20261130", StudyState.INCOMPLETE, 2),
        _study("20261130", StudyState.COMPLETE, number=2),
        _study("20261129", StudyState.UNREAD),
        _study("20261128", StudyState.OTHER),
    )
    days = days_after(jobs, job, (), AT)
    assert [(30, 2, 2, True), (29, 1, 0, False), (28, 0, 0, True)] == _seen(days)
    assert [("2.25.20261130.1", 2)] == [(each.study, each.missing) for each in days[0].lacking]
    assert [("2.25.20261129.1", 0)] == [(each.study, each.missing) for each in days[1].lacking]


@pytest.mark.parametrize("end", [{"cut": "500 answers"}, {"is_done": False}])
def test_day_of_a_survey_that_did_not_see_all_is_not_known(jobs: Jobs, end: dict[str, object]):
    """Not even one of which all that was listed is here; what was missing is still."""
    before = days_after(jobs, _job(jobs, _study("20261129", StudyState.INCOMPLETE, 1)), (), AT - timedelta(days=1))
    job = _job(jobs, _study("20261130", StudyState.COMPLETE), dates="20261127-20261130", **end)  # type: ignore[arg-type]
    days = days_after(jobs, job, before, AT)
    assert [(30, 1, 0, False), (29, 1, 1, True), (28, 0, 0, False), (27, 0, 0, False)] == _seen(days)
    assert AT - timedelta(days=1) == days[1].at


def test_pull_of_days_by_hand_mends_them_and_one_of_a_patient_does_not(jobs: Jobs):
    """Only who asked for all of a day may say that it is whole."""
    before = days_after(jobs, _job(jobs, _study("20261129", StudyState.INCOMPLETE, 1)), (), AT)
    of_patient = jobs.begin("PACS1", Question(study_date="20261129", patient_id="4711"), is_dry=False)
    assert before is days_after(jobs, of_patient, before, AT)
    after = days_after(jobs, _job(jobs, _study("20261129", StudyState.COMPLETE), dates="20261129"), before, AT)
    assert [(30, 0, 0, True), (29, 1, 0, True), (28, 0, 0, True)] == _seen(after)


def test_days_and_studies_are_bounded(jobs: Jobs):
    """The newest days, and of each as many studies as the heartbeat has room for, the newest days' first."""
    studies = [
        _study(f"{date(2026, 11, 30) - timedelta(days=number // 30):%Y%m%d}", StudyState.INCOMPLETE, 1, number)
        for number in range(90)
    ]
    days = days_after(jobs, _job(jobs, *studies, dates="20200101-"), (), AT)
    assert [date(2026, 11, 30) - timedelta(days=ago) for ago in range(MOST_DAYS)] == [each.day for each in days]
    assert [30, MOST_STUDIES - 30, 0] == [len(each.lacking) for each in days[:3]]
    assert [30, 30, 30, 0] == [each.missing for each in days[:4]]
