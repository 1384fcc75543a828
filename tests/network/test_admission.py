"""Counting open associations in a table that workers share."""

from typing import Any

import pytest

from dicomflow.network.admission import Admission, clear_row, table_length

WORKERS, LIMIT = 2, 4


def test_limit_in_all_holds_over_workers():
    """What one worker has let in counts for the other, and a place that is left is free for both."""
    table = [0] * table_length(WORKERS, LIMIT)
    workers = [Admission(table, index, LIMIT, 0) for index in range(WORKERS)]
    places = [workers[number % 2].enter("CT1") for number in range(LIMIT)]
    assert all(isinstance(place, int) for place in places)
    assert "4 associations are open already" == workers[0].enter("CT2")
    assert isinstance(places[1], int)
    workers[1].leave(places[1])
    assert isinstance(workers[0].enter("CT2"), int)


def test_limit_of_one_ae_title_leaves_room_for_others():
    """A title at its limit is told so; another title is let in."""
    table = [0] * table_length(WORKERS, LIMIT)
    workers = [Admission(table, index, LIMIT, 1) for index in range(WORKERS)]
    assert isinstance(workers[0].enter("CT1"), int)
    assert "1 associations of this AE title are open already" == workers[1].enter("CT1")
    assert isinstance(workers[1].enter("CT2"), int)


def test_row_of_a_dead_worker_is_free_again():
    """Clearing a worker's row frees its places and nobody else's."""
    table = [0] * table_length(WORKERS, LIMIT)
    workers = [Admission(table, index, LIMIT, 0) for index in range(WORKERS)]
    for _ in range(2):
        for worker in workers:
            worker.enter("CT1")
    clear_row(table, 0, LIMIT)
    assert 2 == sum(map(bool, table[: WORKERS * LIMIT]))
    assert isinstance(workers[0].enter("CT1"), int)


@pytest.fixture
def begun() -> tuple[list[int], Admission, Admission]:
    """Give a table and two workers that have begun."""
    table = [0] * table_length(WORKERS, LIMIT)
    first, second = (Admission(table, index, LIMIT, 0) for index in range(WORKERS))
    first.begin()
    second.begin()
    return table, first, second


def test_worker_that_is_less_busy(begun: Any):
    """That is one with two connections fewer."""
    _, first, second = begun
    first.count_connection(1)
    assert (None, None) == (first.less_busy(), second.less_busy())
    first.count_connection(1)
    assert (1, None) == (first.less_busy(), second.less_busy())
    second.count_connection(1)
    assert first.less_busy() is None


def test_nothing_is_given_to_a_worker_that_is_not_there(begun: Any):
    """One that has died, and the one in its place until it has begun."""
    table, first, _ = begun
    clear_row(table, 1, LIMIT)
    for _ in range(3):
        first.count_connection(1)
    assert first.less_busy() is None
    again = Admission(table, 1, LIMIT, 0)
    assert first.less_busy() is None
    again.begin()
    assert 1 == first.less_busy()


def test_what_is_on_the_way_counts(begun: Any, monkeypatch: pytest.MonkeyPatch):
    """A burst is shared before the other worker has taken anything; what it does not take in time counts no more."""
    now = [100.0]
    monkeypatch.setattr("dicomflow.network.admission.time.monotonic", lambda: now[0])
    _, first, second = begun
    given = 0
    for _ in range(6):
        first.count_connection(1)
        if first.less_busy() == 1:
            first.count_connection(-1)
            given += 1
    assert 3 == given
    second.count_connection(1)
    first.count_connection(1)
    assert [1, 1, None] == [first.less_busy() for _ in range(3)]
    now[0] += 1
    assert 1 == first.less_busy()


def test_worker_that_ends_gives_nothing_away(begun: Any):
    """The others end too."""
    _, first, _ = begun
    for _ in range(3):
        first.count_connection(1)
    first.close()
    assert first.less_busy() is None


def test_connections_take_no_places():
    """Counting connections leaves the places for associations as they are."""
    table = [0] * table_length(WORKERS, LIMIT)
    workers = [Admission(table, index, LIMIT, 0) for index in range(WORKERS)]
    for worker in workers:
        worker.count_connection(1)
    assert all(isinstance(workers[number % 2].enter("CT1"), int) for number in range(LIMIT))
