"""What nightly comparisons of an edge with its sources found, as its heartbeat tells it, and how that is judged.

One place for the judgement: console, metrics and alarms call the same things missing, and the same unknown.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final

from dicomflow.bucket.documents import Moment, Text, WholeNumber

__all__ = [
    "LATE_AFTER",
    "MOST_DAYS",
    "MOST_STUDIES",
    "ComparedDay",
    "ComparedSource",
    "LackingStudy",
    "Standing",
    "is_late",
    "judge_day",
    "judge_source",
]

LATE_AFTER: Final = timedelta(hours=36)
"""Of a comparison that is made every night: one was missed, and half a day more has gone."""
MOST_DAYS: Final = 62
"""Of one source, so that a heartbeat stays small: two months."""
MOST_STUDIES: Final = 40
"""Of one source: studies that are named because something of them is missing, or nobody knows."""


class Standing(StrEnum):
    """How a day, or a source over all its days, stands; `NOTHING` is compared too, and the source has nothing."""

    COMPLETE = "complete"
    MISSING = "missing"
    UNCHECKED = "not_checked"
    NOTHING = "nothing_there"


@dataclass(frozen=True, slots=True)
class LackingStudy:
    """A study of which images are missing, or, where none are counted, one that could not be compared."""

    study: Text
    missing: WholeNumber
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class ComparedDay:
    """The studies of one day of a source: its date there, when it was compared last, and counts of images.

    `is_whole` tells that all of the day could be compared; `lacking` names studies, not necessarily all.
    """

    day: date
    at: Moment
    studies: WholeNumber
    images: WholeNumber
    missing: WholeNumber
    is_whole: bool
    lacking: tuple[LackingStudy, ...] = ()


@dataclass(frozen=True, slots=True)
class ComparedSource:
    """What the last nightly comparison with a source found: when it began, images there, and how many are missing.

    `is_whole` tells that all that the source has of these days is here; where it is not, and nothing is counted as
    missing, the source did not tell all, or could not be asked, and `reason` says why. `days` has them one by one, and
    days before them as they were compared last.
    """

    name: Text
    at: Moment
    images: int
    missing: int
    is_whole: bool
    reason: Text = ""
    days: tuple[ComparedDay, ...] = ()


def is_late(source: ComparedSource | None, now: datetime) -> bool:
    """Tell whether a nightly comparison did not report when it should have; None has never reported."""
    return source is None or now - source.at > LATE_AFTER


def judge_source(source: ComparedSource | None, now: datetime) -> Standing:
    """Return how a source that is compared nightly stands: what is missing stays so until somebody looks again."""
    if source is not None and source.missing:
        return Standing.MISSING
    if source is None or is_late(source, now) or not source.is_whole:
        return Standing.UNCHECKED
    return Standing.COMPLETE if source.images else Standing.NOTHING


def judge_day(day: ComparedDay | None, source: ComparedSource | None, now: datetime) -> Standing:
    """Return how a day of a source stands: complete only if all of it was compared after its end, and reports come."""
    if day is not None and day.missing:
        return Standing.MISSING
    if day is None or not day.is_whole or day.at.date() <= day.day or is_late(source, now):
        return Standing.UNCHECKED
    return Standing.COMPLETE if day.studies else Standing.NOTHING
