"""Questions and windows: what is asked is what was meant, and halves leave nothing out."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomflow.dimse.identifier import Tag
from dicomflow.edge.pull.questions import Question, Window, parse_question
from dicomflow.errors import PermanentError

TODAY = date(2026, 11, 30)
DAYS = st.dates(date(1900, 1, 1), date(2100, 1, 1))


@given(st.one_of(st.none(), DAYS), st.one_of(st.none(), DAYS), DAYS, st.integers(0, 1439))
def test_halves_hold_what_the_whole_holds_and_nothing_twice(
    first: date | None, last: date | None, day: date, minute: int
):
    """Down to a minute, whatever the ends are; only what has no date is in neither half of everything."""
    window: Window = Window(first, last)
    text, clock = day.strftime("%Y%m%d"), f"{minute // 60:02}{minute % 60:02}00"
    inside = window.holds(text, clock)
    for _ in range(60):
        halves = window.halves(TODAY)
        if halves is None:
            return
        assert inside == any(half.holds(text, clock) for half in halves)
        assert not all(half.holds(text, clock) for half in halves)
        window = next((half for half in halves if half.holds(text, clock)), halves[0])
    pytest.fail("it is halved for ever")


def test_a_day_is_asked_in_times_and_days_are_not():
    """Without combined matching, a time means that time of each day (PS3.4 C.2.2.2.5)."""
    day = Window(TODAY, TODAY)
    first, second = day.halves(TODAY) or (day, day)
    assert (b"20261130", b"000000-115959.999999") == (first.keys()[Tag.STUDY_DATE], first.keys()[Tag.STUDY_TIME])
    assert b"120000-235959.999999" == second.keys()[Tag.STUDY_TIME]
    week = Window(TODAY - timedelta(days=6), TODAY)
    assert (b"20261124-20261130", b"") == (week.keys()[Tag.STUDY_DATE], week.keys()[Tag.STUDY_TIME])
    assert b"-20261130" == Window(None, TODAY).keys()[Tag.STUDY_DATE]
    assert b"20261130-" == Window(TODAY).keys()[Tag.STUDY_DATE]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"study_date": "2026-01-31"}, "is no date"),
        ({"study_date": "20260230"}, "is no date"),
        ({"study_date": "20260201-20260101"}, "end before they begin"),
        ({"modality": "C*"}, "wildcard"),
        ({"patient_id": "A\\B"}, "backslash"),
        ({"priors": 3}, "name the patient ID"),
        ({"uids": iter(["1.2.3", "nonsense"])}, "1 lines of the list"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(asked: dict, says: str):
    """What would be asked of a source would be something else."""
    with pytest.raises(PermanentError, match=says):
        parse_question(**asked)


def test_a_question_is_the_same_after_it_was_kept():
    """So that an interrupted job is found again."""
    question = parse_question(study_date="20260101-", modality="ct", uids=iter(["1.2", "1.3", "1.2"]), is_full=True)
    assert question == Question.from_json(question.to_json())
    assert ("CT", ("1.2", "1.3")) == (question.modality, question.uids)
