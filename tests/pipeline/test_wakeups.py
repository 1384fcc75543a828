"""The driver's wake-ups: one under way at a time, and none lost."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dicomflow.errors import TransientError
from dicomflow.pipeline import wakeups
from dicomflow.pipeline.wakeups import acknowledge, wake_driver


def test_wake_driver_answered_at_once_leaves_the_next_one_free(deployment: Any):
    """A driver that is faster than the one who wakes it does not keep the next wake-up from being sent."""
    sent = []

    def enqueue(_queue: str, body: str, _delay_seconds: int = 0) -> None:
        sent.append(body)
        acknowledge(deps, body)

    deps = replace(deployment.deps, enqueue=enqueue)
    assert wake_driver(deps, deps.clock(), "planned")
    deployment.advance(2)
    assert wake_driver(deps, deps.clock(), "planned")
    assert 2 == len(sent)


def test_wake_driver_that_cannot_be_sent_leaves_the_next_one_free(deployment: Any):
    """A queue that fails is reported, and does not count as a wake-up that is under way."""

    def enqueue(_queue: str, _body: str, _delay_seconds: int = 0) -> None:
        raise TransientError("the queue is away")

    with pytest.raises(TransientError):
        wake_driver(replace(deployment.deps, enqueue=enqueue), deployment.now(), "planned")
    assert wake_driver(deployment.deps, deployment.now(), "planned")


def test_wake_driver_after_a_death_before_the_send_sends_it(deployment: Any, monkeypatch: pytest.MonkeyPatch):
    """What comes again relies on no message that nobody is known to have sent, however late that was to come."""

    def die(_queue: str, _body: str, _delay_seconds: int = 0) -> None:
        raise SystemExit

    in_four_minutes = deployment.now() + timedelta(seconds=245)
    with monkeypatch.context() as patched:
        patched.setattr(wakeups, "acknowledge", lambda *_: None)  # the dead do nothing more
        with pytest.raises(SystemExit):
            wake_driver(replace(deployment.deps, enqueue=die), in_four_minutes, "sweep")
    deployment.advance(60)
    assert wake_driver(deployment.deps, in_four_minutes, "sweep")
    deployment.advance(60)
    assert not wake_driver(deployment.deps, in_four_minutes, "sweep")


def test_wake_driver_while_one_is_under_way_sends_none(deployment: Any):
    """One that comes in time is enough; an earlier one is sent all the same."""
    in_a_minute = deployment.now() + timedelta(seconds=60)
    assert wake_driver(deployment.deps, in_a_minute, "sweep")
    assert not wake_driver(deployment.deps, in_a_minute, "sweep")
    assert wake_driver(deployment.deps, deployment.now(), "planned")
