"""What is set aside is left alone for a while, told once, and forgotten when it is gone."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock

from dicomflow.edge.spool.setaside import SetAside

PATH = Path("delivering/d1")


@pytest.fixture
def aside(clock: Clock) -> SetAside:
    """Give one that holds nothing."""
    return SetAside(clock)


def test_failure_is_held_longer_each_time_and_logged_once(aside: SetAside, clock: Clock, caplog: Any):
    """A second, then two, at most a minute; the log has one line until it fails in another way."""
    pauses = []
    for _ in range(9):
        aside.note(PATH, OSError(errno.EACCES, os.strerror(errno.EACCES)))
        began = clock.now
        while aside.holds(PATH):
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == pauses
    aside.note(PATH, OSError(errno.EIO, os.strerror(errno.EIO)))
    lines = [record.getMessage() for record in caplog.records]
    assert [
        "set_aside path=delivering/d1 reason=Permission denied",
        "set_aside path=delivering/d1 reason=Input/output error",
    ] == lines


def test_full_volume_holds_nothing(aside: SetAside):
    """What found no room is not to blame, and is tried again at once; it is told all the same."""
    aside.note(PATH, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert not aside.holds(PATH)
    assert {PATH: "No space left on device"} == aside.reasons()


def test_settled_or_gone_is_told_no_more(aside: SetAside, clock: Clock):
    """Either it could be worked on, or nobody has met it again."""
    aside.note(PATH, OSError(errno.EIO, "x"))
    aside.settle(PATH)
    assert {} == aside.reasons()
    aside.note(PATH, OSError(errno.EIO, "x"))
    clock.now += 62
    assert {} == aside.reasons()


def test_unknown_exception_is_told_with_its_place_and_without_its_text(aside: SetAside, caplog: Any):
    """The text may quote what was read, which may be a patient's."""
    try:
        int("DOE^JANE")
    except ValueError as error:
        aside.note(PATH, error)
    assert {PATH: "ValueError"} == aside.reasons()
    assert "at=test_setaside.py:" in caplog.text
    assert "DOE" not in caplog.text
