"""The order of puts, and the pauses after failures, on a clock of the test's."""

import asyncio
from typing import Any

import pytest
from clocks import Clock
from waiting import WAIT_SECONDS

from dicomflow.edge.deliver.delivery import Delivery
from dicomflow.edge.deliver.queue import PutQueue


@pytest.fixture
def queue(clock: Clock) -> PutQueue:
    """Give an empty queue whose pauses are ten seconds an attempt."""
    return PutQueue(clock, lambda attempt: 10.0 * attempt)


def _delivery(name: str, oldest_at: float = 0.0) -> Delivery:
    return Delivery(name, "1.2", 0.0, 0.0, oldest_at=oldest_at)


async def _take(queue: PutQueue) -> str | None:
    """Return the delivery of the next put, or None when there is none to be had now."""
    put = await _take_put(queue)
    return put.delivery.delivery_id if put is not None else None


async def _take_put(queue: PutQueue) -> Any:
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    if taking.done():
        return taking.result()
    taking.cancel()
    await asyncio.wait([taking], timeout=WAIT_SECONDS)
    assert taking.cancelled()
    return None


def test_puts_come_by_rank_then_age_then_arrival(queue: PutQueue):
    """The highest rank first, of equal rank the oldest delivery, of one delivery in the order of arrival."""

    async def _run() -> list[str | None]:
        for name, oldest_at, rank in [("young", 9, 0), ("old", 1, 0), ("late", 1, -1), ("stat", 99, 5), ("old2", 1, 0)]:
            queue.add(_delivery(name, oldest_at), None, rank)
        return [await _take(queue) for _ in range(6)]

    assert ["stat", "old", "old2", "young", "late", None] == asyncio.run(_run())


def test_failed_put_comes_again_after_its_pause(queue: PutQueue, clock: Clock):
    """One failure delays its own object alone, longer each time."""

    async def _run() -> None:
        queue.add(_delivery("a", 1), None, 0)
        queue.add(_delivery("b", 2), None, 0)
        put = await _take_put(queue)
        assert 10.0 == queue.failed(put)
        assert "b" == await _take(queue)
        queue.succeeded()
        assert await _take(queue) is None
        clock.now += 10.0
        again = await _take_put(queue)
        assert again is put
        assert 20.0 == queue.failed(again)

    asyncio.run(_run())


def test_failing_store_is_tried_by_one_put_at_a_time(queue: PutQueue, clock: Clock):
    """After three failures all wait for the pause, then one goes, and only its success lets the others go."""

    async def _run() -> None:
        for number in range(6):
            queue.add(_delivery(str(number)), None, 0)
        puts = [await _take_put(queue) for _ in range(3)]
        pauses = [queue.failed(put) for put in puts]
        assert queue.is_store_failing
        assert await _take(queue) is None
        clock.now += pauses[-1]
        assert await _take(queue) is not None
        assert await _take(queue) is None
        queue.succeeded()
        assert not queue.is_store_failing
        taken = {await _take(queue) for _ in range(5)}
        assert 5 == len(taken - {None})

    asyncio.run(_run())


def test_pauses_of_a_failing_store_grow_for_the_store_not_for_its_objects(queue: PutQueue, clock: Clock):
    """Through a long outage the pause between tries grows, and no object is held back afterwards."""

    async def _run() -> None:
        for number in range(4):
            queue.add(_delivery(str(number)), None, 0)
        pauses = []
        for _ in range(8):
            put = await _take_put(queue)
            pauses.append(queue.failed(put))
            clock.now += 100.0
        assert [10.0, 20.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0] == pauses
        assert await _take(queue) is not None
        queue.succeeded()
        assert 3 == len({await _take(queue) for _ in range(3)} - {None})

    asyncio.run(_run())


def test_puts_in_flight_when_the_store_goes_make_one_pause(queue: PutQueue, clock: Clock):
    """However many fail together, the store is tried again after the first pause, and only tries make it longer."""

    async def _run() -> None:
        for number in range(10):
            queue.add(_delivery(str(number)), None, 0)
        puts = [await _take_put(queue) for _ in range(8)]
        assert [10.0, 10.0] == [queue.failed(put) for put in puts][-2:]
        assert 10.0 == queue.pause_seconds
        clock.now += 10.0
        assert 20.0 == queue.failed(await _take_put(queue))

    asyncio.run(_run())


def test_pause_of_a_failing_store_is_told_until_it_is_over(queue: PutQueue, clock: Clock):
    """The forecast counts it: nothing is put before."""

    async def _run() -> None:
        for number in range(4):
            queue.add(_delivery(str(number)), None, 0)
        assert 0 == queue.pause_seconds
        pauses = [queue.failed(await _take_put(queue)) for _ in range(3)]
        clock.now += 4.0
        assert pauses[-1] - 4.0 == queue.pause_seconds
        clock.now += 100.0
        assert 0 == queue.pause_seconds
        await _take_put(queue)
        queue.succeeded()
        assert 0 == queue.pause_seconds

    asyncio.run(_run())


def test_slow_object_does_not_hold_back_other_series(queue: PutQueue, clock: Clock):
    """Each try of a failing store is another object's, so an object it never takes hides nothing."""

    async def _run() -> list[str]:
        queue.add(_delivery("poison", 1), None, 9)
        for number in range(3):
            queue.add(_delivery(str(number), 5), None, 0)
        tried = []
        for _ in range(6):
            put = await _take_put(queue)
            tried.append(put.delivery.delivery_id)
            queue.failed(put)
            clock.now += 1000.0
        return tried

    tried = asyncio.run(_run())
    assert {"poison", "0", "1", "2"} == set(tried)


def test_dropped_put_frees_its_place_for_the_next_try(queue: PutQueue, clock: Clock):
    """A put that is given up while the store fails does not block the tries that follow."""

    async def _run() -> None:
        for number in range(5):
            queue.add(_delivery(str(number)), None, 0)
        for put in [await _take_put(queue) for _ in range(3)]:
            queue.failed(put)
        clock.now += 1000.0
        assert await _take(queue) is not None
        queue.dropped()
        assert await _take(queue) is not None

    asyncio.run(_run())


def test_waiting_take_is_woken_by_a_new_put(queue: PutQueue):
    """A worker that waits on an empty queue has the next put at once."""

    async def _run() -> str:
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add(_delivery("a"), None, 0)
        return (await asyncio.wait_for(taking, WAIT_SECONDS)).delivery.delivery_id

    assert "a" == asyncio.run(_run())


def test_cancelled_take_ends_and_takes_nothing(queue: PutQueue):
    """Cancellation is not swallowed, and the put that comes then is another's."""

    async def _run() -> str | None:
        takings = [asyncio.create_task(queue.take()) for _ in range(20)]
        await asyncio.sleep(0)
        queue.add(_delivery("a"), None, 0)
        for taking in takings:
            taking.cancel()
        await asyncio.wait(takings, timeout=WAIT_SECONDS)
        assert all(taking.cancelled() for taking in takings)
        return await _take(queue)

    assert "a" == asyncio.run(_run())


def test_changed_ranks_order_what_waits(queue: PutQueue, clock: Clock):
    """New ranks hold for puts that were queued before, those in a pause too."""

    async def _run() -> list[str | None]:
        queue.add(_delivery("failed", 0), None, 0)
        queue.failed(await _take_put(queue))
        for name, oldest_at in [("a", 1), ("b", 2), ("c", 3)]:
            queue.add(_delivery(name, oldest_at), None, 0)
        ranks = {"c": 5, "failed": 9}
        queue.rank_again(lambda delivery: ranks.get(delivery.delivery_id, 0))
        clock.now += 10.0
        return [await _take(queue) for _ in range(4)]

    assert ["failed", "c", "a", "b"] == asyncio.run(_run())
