"""What came of a job: counts of images, study by study, and whether anything is missing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from dicomflow.edge.pull.jobs import Job, Jobs, JobState, Study, StudyState

__all__ = ["COLUMNS", "Totals", "documents", "is_whole", "row_of", "summary", "totals"]

COLUMNS: Final = (
    "study",
    "date",
    "modalities",
    "state",
    "source",
    "here",
    "stored",
    "imported",
    "missing",
    "refused",
    "unknown",
    "reason",
)


@dataclass(slots=True)
class Totals:
    """Counts of images over all studies of a job, and of studies by their state."""

    source: int = 0
    here: int = 0
    missing: int = 0
    refused: int = 0
    stored: int = 0
    imported: int = 0
    unknown: int = 0


def is_whole(study: Study) -> bool:
    """Tell whether nothing of a study is missing, as far as its source lets that be known."""
    return not study.missing and study.state in {StudyState.COMPLETE, StudyState.COUNTED}


def totals(jobs: Jobs, job: Job) -> tuple[Totals, Counter[str], bool]:
    """Return the sums of a job, its studies by their state, and whether all that was asked for is here."""
    sums, states = Totals(), Counter[str]()
    all_whole = job.state is JobState.DONE and not job.cut
    for study in jobs.studies(job.id):
        states[study.state] += 1
        all_whole &= is_whole(study)
        sums.source += study.source or 0
        for name in ("here", "missing", "refused", "stored", "imported", "unknown"):
            setattr(sums, name, getattr(sums, name) + getattr(study, name))
    return sums, states, all_whole


def row_of(study: Study) -> tuple[Any, ...]:
    """Return a study as a row of the table; a number that nobody knows is empty."""
    return (
        study.uid,
        study.study_date,
        study.modalities.replace("\\", "/"),
        str(study.state),
        study.source,
        study.here,
        study.stored,
        study.imported,
        study.missing,
        study.refused,
        study.unknown,
        study.reason,
    )


def documents(jobs: Jobs, job: Job) -> Iterator[dict[str, Any]]:
    """Yield each study as the members of a JSON object, with the images that are missing and why."""
    for study in jobs.studies(job.id):
        document = dict(zip(COLUMNS, row_of(study), strict=True))
        lacking = jobs.missing(job.id, study.uid)
        document["missing_images"] = [
            {"series": each.series_uid, "image": each.uid, "reason": each.reason} for each in lacking
        ]
        yield document


def summary(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return the members of a report that stand before its studies."""
    sums, states, all_whole = totals(jobs, job)
    return asdict(sums) | {
        "states": dict(states),
        "is_whole": all_whole,
        "is_done": job.state is JobState.DONE,
        "possibly_cut": job.cut,
        "notes": list(job.notes),
    }
