"""What a comparison says of each day, for the calendar that the cloud shows: bounded, whatever a source has."""

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

from dicomflow.bucket.compared import MOST_DAYS, MOST_STUDIES, ComparedDay, LackingStudy
from dicomflow.edge.pull.jobs import Job, Jobs, JobState
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.report import is_whole

__all__ = ["days_after"]

_MOST_CHARACTERS: Final = 160


@dataclass(slots=True)
class _Sums:
    studies: int = 0
    images: int = 0
    missing: int = 0
    is_whole: bool = True
    lacking: list[LackingStudy] = field(default_factory=list)


def days_after(jobs: Jobs, job: Job, before: tuple[ComparedDay, ...], at: datetime) -> tuple[ComparedDay, ...]:
    """Return the days of a source, the newest first, as they are known after a job that was begun `at`, local time.

    A job that asks for less than whole days changes none. A day of which something was missing stays so until it is
    compared as a whole: a source that does not answer has not mended it.
    """
    question = job.question
    if question != Question(study_date=question.study_date, is_full=question.is_full):
        return before
    known = {each.day: each for each in before}
    for day, sums in _sums(jobs, job, at.date()).items():
        found = ComparedDay(day, at, sums.studies, sums.images, sums.missing, sums.is_whole, tuple(sums.lacking))
        if found.is_whole or found.missing or day not in known or not known[day].missing:
            known[day] = found
    newest = sorted(known.values(), key=lambda each: each.day, reverse=True)[:MOST_DAYS]
    room, bounded = MOST_STUDIES, []
    for each in newest:
        bounded.append(replace(each, lacking=each.lacking[:room]))
        room -= len(bounded[-1].lacking)
    return tuple(bounded)


def _sums(jobs: Jobs, job: Job, today: date) -> dict[date, _Sums]:
    """Return what is known of each day that was asked for; of a day that is not told of whole, that it is not."""
    window = job.question.window()
    first = max(window.first or date.min, today - timedelta(days=MOST_DAYS - 1))
    last = min(window.last or today, today)
    is_told = job.state is JobState.DONE and not job.cut
    days = {
        first + timedelta(days=number): _Sums(is_whole=is_told) for number in range(max(0, (last - first).days + 1))
    }
    by_text = {f"{day:%Y%m%d}": sums for day, sums in days.items()}
    for study in jobs.studies(job.id):
        if (sums := by_text.get(study.study_date[:8])) is None:
            continue
        sums.studies += 1
        sums.images += study.source or 0
        sums.missing += study.missing
        sums.is_whole &= bool(study.missing) or is_whole(study)
        if not is_whole(study) and len(sums.lacking) < MOST_STUDIES:
            sums.lacking.append(LackingStudy(study.uid, study.missing, study.reason[:_MOST_CHARACTERS]))
    return days
