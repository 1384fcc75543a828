"""What is called complete, missing and unknown, for console, metrics and alarms alike."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from dicomflow.bucket.compared import (
    LATE_AFTER,
    MOST_DAYS,
    MOST_STUDIES,
    ComparedDay,
    ComparedSource,
    LackingStudy,
    Standing,
    is_late,
    judge_day,
    judge_source,
)
from dicomflow.bucket.heartbeat import Heartbeat

AT = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)
DAY = ComparedDay(date(2026, 11, 29), AT, studies=2, images=40, missing=0, is_whole=True)
SOURCE = ComparedSource("PACS1", AT, 40, 0, is_whole=True, days=(DAY,))
SOON = AT + timedelta(hours=12)


@pytest.mark.parametrize(
    ("change", "standing"),
    [
        ({}, Standing.COMPLETE),
        ({"images": 0}, Standing.NOTHING),
        ({"missing": 1, "is_whole": False}, Standing.MISSING),
        ({"is_whole": False, "reason": "cannot connect"}, Standing.UNCHECKED),
        ({"at": SOON - LATE_AFTER - timedelta(seconds=1)}, Standing.UNCHECKED),
        ({"at": SOON - timedelta(days=9), "missing": 1}, Standing.MISSING),
    ],
)
def test_source_is_complete_only_with_a_whole_report_of_last_night(change: dict[str, object], standing: Standing):
    """One that is old, failed or partial is not checked; what was missing stays so until somebody looks again."""
    assert standing is judge_source(replace(SOURCE, **change), SOON)


def test_source_that_never_reported_is_not_checked():
    """The heartbeat names it, and has nothing of it."""
    beat = Heartbeat("hill", "1", AT, "HILL", 0, 0, 0, 1, 0.0, sources=(SOURCE,), nightly=("PACS1", "PACS2"))
    assert {"PACS1": SOURCE, "PACS2": None} == Heartbeat.from_json(beat.to_json()).compared()
    assert Standing.UNCHECKED is judge_source(None, SOON)
    assert is_late(None, SOON)


@pytest.mark.parametrize(
    ("change", "standing"),
    [
        ({}, Standing.COMPLETE),
        ({"studies": 0, "images": 0}, Standing.NOTHING),
        ({"missing": 3}, Standing.MISSING),
        ({"is_whole": False}, Standing.UNCHECKED),
        ({"day": date(2026, 11, 30)}, Standing.UNCHECKED),
        # Half past two in the night of Hawaii's 29th is the 30th in UTC: a day ends where the edge is.
        ({"at": datetime(2026, 11, 29, 20, 30, tzinfo=timezone(timedelta(hours=-10)))}, Standing.UNCHECKED),
    ],
)
def test_day_is_complete_only_when_all_of_it_was_compared_after_its_end(change: dict[str, object], standing: Standing):
    """Today is not over; of a day that was not read whole nobody knows."""
    assert standing is judge_day(replace(DAY, **change), SOURCE, SOON)


def test_no_day_is_complete_while_reports_are_late():
    """Not even one that was; what was missing is still missing."""
    late = AT + LATE_AFTER + timedelta(seconds=1)
    assert Standing.UNCHECKED is judge_day(DAY, SOURCE, late)
    assert Standing.MISSING is judge_day(replace(DAY, missing=1), SOURCE, late)
    assert Standing.UNCHECKED is judge_day(None, SOURCE, SOON)
    assert Standing.UNCHECKED is judge_day(DAY, None, SOON)


def test_heartbeat_with_all_that_a_source_may_tell_stays_small():
    """An edge puts one a minute, and readers refuse a mebibyte: a source of the worst kind takes a fiftieth of it."""
    lacking = tuple(LackingStudy("2.25." + "9" * 59, 4095, "r" * 160) for _ in range(MOST_STUDIES))
    day = replace(DAY, studies=10**5, images=10**8, missing=10**8, is_whole=False)
    days = (replace(day, lacking=lacking), *[day] * (MOST_DAYS - 1))
    assert len(Heartbeat("hill", "1", AT, "HILL", 0, 0, 0, 1, 0.0, sources=(replace(SOURCE, days=days),)).to_json()) < (
        (1 << 20) // 45
    )
