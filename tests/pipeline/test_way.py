"""The way of one import through the modules, as a reader who follows the calls goes it."""

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dicomflow
from dicomflow.pipeline.follow import collect_event

ROOT = Path(dicomflow.__file__).parent
ROOMS = ("pipeline", "healthimaging")
PLUMBING = {"pipeline/metrics", "pipeline/dependencies"}
STEPS = ("claim", "call", "follow", "settle", "tell")
MOST_STAYS = 30


def stays_of(*acts: Callable[[], Any]) -> list[str]:
    """Return the modules that some calls go through: one entry for each time that one is entered or come back to.

    The catalog's statements and counting belong to the step that uses them.
    """
    path: list[str] = []
    stack: list[str] = []

    def follow(frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_filename
        if event not in {"call", "return"} or not name.startswith(str(ROOT)):
            return
        room = Path(name).relative_to(ROOT).with_suffix("").as_posix()
        if not room.startswith(ROOMS) or room in PLUMBING:
            return
        if event == "call":
            stack.append(room)
        else:
            stack.pop()
        path.extend(stack[-1:])

    for act in acts:
        sys.setprofile(follow)
        try:
            act()
        finally:
            sys.setprofile(None)
    return [room for room, _ in groupby(path)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_way_of_an_import_is_followed_in_a_few_stays(deployment: Any) -> None:
    """From the run that starts a job to the event of its end: each step is a module, and there are few returns."""
    deployment.plan(deployment.deliver({"1.2.1": 3}, delivery="d1"))
    start = stays_of(deployment.drive)
    for _ in range(2):
        deployment.advance(10)
    event = next(each for each in deployment.events if each["detail"].get("jobStatus") == "COMPLETED")
    end = stays_of(lambda: collect_event(deployment.deps, event))
    assert {"1.2.1": "completed"} == deployment.states()
    way = [*start, *end]
    assert len(way) <= MOST_STAYS, way
    assert {f"pipeline/{step}" for step in STEPS} <= set(way)
