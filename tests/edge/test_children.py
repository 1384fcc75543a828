"""Whether a child gets on, told by its beats and by the time that its supervisor itself has seen."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dicomflow.edge.children import Child, beat, beat_until, slots_of


def child(beats: list[int]) -> Child:
    """Give a child with both its places, that was looked after once."""
    made = Child("deliverer", lambda: "another", "process", 0.0, slots_of(0))  # type: ignore[arg-type,return-value]
    made.look(beats, 0.1)
    return made


def wait(made: Child, beats: list[int], seconds: float) -> None:
    """Look after a child for some seconds, ten times a second."""
    for _ in range(round(seconds * 10)):
        made.look(beats, 0.1)


def test_child_that_beats_is_never_silent():
    """Whatever its counts are, they change."""
    beats = [0, 0]
    made = child(beats)
    for _ in range(1000):
        beat(beats, 0)
        beat(beats, 1)
        made.look(beats, 0.1)
    assert (0.0, False) == (made.silent_seconds, made.is_frozen)


def test_child_that_stops_is_silent_and_then_frozen():
    """First it is not ready, and after half a minute it is to be replaced."""
    beats = [5, 5]
    made = child(beats)
    wait(made, beats, 20)
    assert (True, False) == (made.silent_seconds > 10, made.is_frozen)
    wait(made, beats, 11)
    assert made.is_frozen


def test_loop_that_is_busy_does_not_have_the_process_killed():
    """A deliverer that takes up thousands of deliveries is silent for long, and works."""
    beats = [5, 5]
    made = child(beats)
    for _ in range(6000):
        beat(beats, 0)
        made.look(beats, 0.1)
    assert made.silent_seconds > 500
    assert not made.is_frozen


def test_child_that_starts_has_more_time():
    """Before its first beat it may be reading its modules from a slow disk, and after five minutes it may not."""
    beats = [0, 0]
    made = child(beats)
    wait(made, beats, 250)
    assert not made.is_frozen
    wait(made, beats, 60)
    assert made.is_frozen


def test_child_is_no_problem_once_it_has_begun():
    """A process that only reads its modules is not ready yet: it may still end of what it reads."""
    beats = [0, 0]
    made = child(beats)
    made.process = SimpleNamespace(is_alive=lambda: True)  # type: ignore[assignment]
    assert "has not begun" == made.problem
    beat(beats, 0)
    made.look(beats, 0.1)
    assert not made.problem
    wait(made, beats, 20)
    assert "has not moved for 20 s" == made.problem
    made.process = SimpleNamespace(is_alive=lambda: False)  # type: ignore[assignment]
    assert "does not run" == made.problem


def test_time_that_the_supervisor_did_not_see_is_not_the_childs():
    """After a suspended night, or a stop of the supervisor itself, nobody is killed."""
    beats = [5, 5]
    made = child(beats)
    for _ in range(5):
        made.look(beats, 30_000.0)
    assert (5.0, False) == (made.silent_seconds, made.is_frozen)


def test_child_that_is_replaced_begins_anew():
    """Its counts are zero again, and it is neither silent nor killed."""
    beats = [5, 5]
    made = child(beats)
    wait(made, beats, 31)
    made.is_killed = True
    made.replace(beats, 31.0)
    assert ([0, 0], 0.0, False, False, "another") == (
        beats,
        made.silent_seconds,
        made.is_frozen,
        made.is_killed,
        made.process,
    )


def test_child_that_dies_at_its_start_is_started_later_each_time():
    """And one that had lived for a while at once; where there is no process to be had it is tried again."""

    def _start() -> Any:
        raise BlockingIOError

    made = Child("worker-0", _start, "process", 0.0)  # type: ignore[arg-type]
    pauses = []
    for _ in range(9):
        made.bury(1.0)
        pauses.append(made.restart_at)
    assert [1.1, 1.2, 1.4, 1.8] == pauses[:4]
    assert 11.0 == pauses[-1]
    made.bury(31.0)
    assert 31.1 == made.restart_at
    with pytest.raises(BlockingIOError):
        made.replace([], 40.0)
    assert 50.0 == made.restart_at


def test_thread_of_its_own_beats_until_it_is_over(until: Any):
    """Whatever the others do."""
    beats, over = [0, 0], threading.Event()
    beat_until(over, beats, 1)
    until(lambda: beats[1] > 1)
    over.set()
    assert 0 == beats[0]
