"""The limit on the upload, on a clock of the test's."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from waiting import WAIT_SECONDS

from dicomflow.edge.deliver.bandwidth import LEAST_IN_FLIGHT_BYTES, Bandwidth, InFlight, limit_at
from dicomflow.edge.settings import BandwidthRule, DeliverySettings

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def _settings(limit: int, *rules: BandwidthRule) -> DeliverySettings:
    return DeliverySettings(store_url="s3://bucket", max_bytes_per_second=limit, bandwidth=rules)


class Line:
    """A clock that moves by what is slept on it."""

    def __init__(self, settings: DeliverySettings) -> None:
        self.settings = settings
        self.now = MONDAY
        self.bandwidth = Bandwidth(lambda: self.settings, lambda: self.now, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def send(self, sizes: list[int]) -> float:
        """Return the seconds that the puts of so many bytes waited."""
        began = self.now

        async def _send() -> None:
            for size in sizes:
                await self.bandwidth.admit(size)

        asyncio.run(_send())
        return (self.now - began).total_seconds()


@pytest.mark.parametrize("size", [1_000, 33_333, 525_000])
def test_limit_is_kept_within_a_tenth_over_some_seconds(size: int):
    """Ten seconds' worth of objects takes between nine and eleven, small or large."""
    count = 10_000_000 // size
    seconds = Line(_settings(1_000_000)).send([size] * count + [0])
    assert count * size / 1_000_000 == pytest.approx(seconds, rel=0.1)


def test_object_larger_than_a_second_is_paid_for_afterwards():
    """An object of five seconds' worth goes at once, and the next one waits for it."""
    line = Line(_settings(1_000))
    assert 0 == line.send([5_000])
    assert 5 == pytest.approx(line.send([1]), rel=0.1)


def test_no_limit_lets_everything_go():
    """Without a limit nothing waits."""
    assert 0 == Line(_settings(0)).send([10**9] * 100)


def test_idle_time_is_not_saved_up():
    """After an hour without puts the limit holds again from the first second."""
    line = Line(_settings(1_000_000))
    line.send([1_000_000])
    line.now += timedelta(hours=1)
    assert 9 == pytest.approx(line.send([1_000_000] * 10), rel=0.1)


@pytest.mark.parametrize("jump_hours", [-5, 5])
def test_clock_jump_neither_stops_nor_floods_the_line(jump_hours: int):
    """A clock that is set back or forward leaves the limit as it is."""
    line = Line(_settings(1_000_000))
    line.send([1_000_000])
    line.now += timedelta(hours=jump_hours)
    assert 9.5 == pytest.approx(line.send([1_000_000] * 10), rel=0.12)


def test_lifted_limit_lets_go_what_waits_within_a_second():
    """A put that would wait a minute goes within a second of the new settings."""

    async def _run() -> float:
        line = Line(_settings(1_000))
        await line.bandwidth.admit(60_000)
        changed_at = line.now + timedelta(seconds=3)

        async def _sleep(seconds: float) -> None:
            line.now += timedelta(seconds=seconds)
            if line.now >= changed_at:
                line.settings = _settings(0)

        line.bandwidth._sleep = _sleep
        await line.bandwidth.admit(1)
        return (line.now - changed_at).total_seconds()

    assert 0 <= asyncio.run(_run()) <= 1


def test_first_rule_that_fits_hour_and_weekday_is_in_force():
    """Weekdays from eight to six have a limit of their own, nights another one's default."""
    settings = _settings(
        500,
        BandwidthRule(days=frozenset(range(5)), from_hour=8, to_hour=18, max_bytes_per_second=100),
        BandwidthRule(days=frozenset({5, 6}), max_bytes_per_second=0),
    )
    moments = [(0, 7), (0, 8), (4, 17), (4, 18), (5, 12), (6, 23)]
    limits = [limit_at(settings, MONDAY + timedelta(days=day, hours=hour, minutes=59)) for day, hour in moments]
    assert [500, 100, 100, 500, 0, 0] == limits


def _sent_at_once(sizes: list[int], line: float) -> int:
    """Return how many of some objects are sent before one of them has left."""

    async def _run() -> int:
        in_flight = InFlight(lambda: line)
        entering = [asyncio.create_task(in_flight.enter(size)) for size in sizes]
        for _ in range(3 * len(sizes)):
            await asyncio.sleep(0)
        entered = sum(each.done() for each in entering)
        for each in entering:
            each.cancel()
        await asyncio.wait(entering)
        return entered

    return asyncio.run(_run())


@pytest.mark.parametrize(
    ("size", "line", "expected"),
    [
        pytest.param(525_000, 0, 8, id="images on any line"),
        pytest.param(50 << 20, 0, 1, id="large on a line not known"),
        pytest.param(50 << 20, 125_000, 1, id="large on 1 Mbit/s"),
        pytest.param(30 << 20, 125_000, 2, id="two that fit on 1 Mbit/s"),
        pytest.param(50 << 20, 12_500_000, 8, id="large on 100 Mbit/s"),
        pytest.param(10 * LEAST_IN_FLIGHT_BYTES, 0, 1, id="larger than all"),
    ],
)
def test_slow_line_is_shared_by_no_more_than_goes_through_in_time(size: int, line: float, expected: int):
    """Eight at once, unless their requests would time out for sharing the line."""
    assert expected == _sent_at_once([size] * 8, line)


def test_large_object_has_its_turn_among_small_ones():
    """Small ones that come after it wait for it, and it for those before it only."""

    async def _run() -> list[str]:
        in_flight = InFlight(lambda: 0.0)
        entered: list[str] = []

        async def _enter(name: str, size: int) -> None:
            await in_flight.enter(size)
            entered.append(name)

        small, large = 1 << 20, LEAST_IN_FLIGHT_BYTES
        tasks = [asyncio.create_task(_enter(*each)) for each in [("a", small), ("large", large), ("b", small)]]
        for size in (small, large, small):
            for _ in range(9):
                await asyncio.sleep(0)
            in_flight.leave(size)
        await asyncio.wait(tasks, timeout=WAIT_SECONDS)
        return entered

    assert ["a", "large", "b"] == asyncio.run(_run())


@pytest.mark.parametrize(
    ("sizes", "line", "tries", "seconds"),
    [
        pytest.param([], 0, 0, (30, 30), id="nothing"),
        pytest.param([100_000] * 8, 0, 0, (30, 45), id="images on any line"),
        pytest.param([64 << 20], 0, 0, (64 * 8.4, 1200), id="as much as 1 Mbit/s carries"),
        pytest.param([100 << 20] * 8, 12_500_000, 0, (2 * 67, 400), id="100 Mbit/s, half as fast as it was"),
        pytest.param([100 << 20] * 8, 12_500_000, 3, (8 * 67, 3000), id="much slower, after three tries"),
        pytest.param([64 << 20], 12_500_000, 60, (64 * 8.4, 1200), id="never less than the slowest line needs"),
    ],
)
def test_put_has_the_time_that_its_share_of_the_line_needs(
    sizes: list[int], line: float, tries: int, seconds: tuple[float, float]
):
    """By what is sent at once, on a line that may be slower than it has been; small objects have seconds."""

    async def _run() -> float:
        in_flight = InFlight(lambda: line)
        for size in sizes:
            await in_flight.enter(size)
        return in_flight.limit_seconds(tries)

    least, most = seconds
    assert least <= asyncio.run(_run()) <= most


def test_puts_of_which_none_gets_on_are_told_of_before_they_end():
    """Stalled is what has begun and does not move; nothing being sent, a part taken and a put done are none."""
    now = 1000.0

    async def _run() -> list[bool]:
        nonlocal now
        in_flight = InFlight(lambda: 0.0, lambda: now)
        seen = [in_flight.is_stalled]
        now += 100
        await in_flight.enter(1000)
        await in_flight.enter(1000)
        seen.append(in_flight.is_stalled)
        for act in (lambda: None, in_flight.moved, lambda: in_flight.leave(1000), lambda: in_flight.leave(1000)):
            act()
            seen.append(in_flight.is_stalled)
            now += 16
            seen.append(in_flight.is_stalled)
        return seen

    assert [False, False, False, True, False, True, False, True, False, False] == asyncio.run(_run())


@pytest.mark.parametrize("from_hour", range(24))
@pytest.mark.parametrize("days", [frozenset(range(7)), frozenset({0}), frozenset({6}), frozenset({2, 4})])
def test_rule_is_in_force_for_all_its_hours_also_over_midnight(from_hour: int, days: frozenset[int]):
    """From its first hour on, for as many as it says, on each of its days: the day after has what is left of them."""
    for to_hour in {*range(25)} - {from_hour}:
        rule = BandwidthRule(days=days, from_hour=from_hour, to_hour=to_hour, max_bytes_per_second=7)
        hours = (to_hour - from_hour) % 24 or 24
        expected = {(24 * day + from_hour + hour) % 168 for day in days for hour in range(hours)}
        found = {hour for hour in range(168) if limit_at(_settings(0, rule), MONDAY + timedelta(hours=hour)) == 7}
        assert expected == found, (from_hour, to_hour)


@pytest.mark.parametrize("fields", [{"from_hour": 5, "to_hour": 5}, {"from_hour": 0, "to_hour": 0}, {"days": []}])
def test_rule_that_would_never_be_in_force_is_refused(fields: dict[str, Any]):
    """Whoever wrote it meant something."""
    with pytest.raises(ValidationError):
        BandwidthRule(max_bytes_per_second=7, **fields)
