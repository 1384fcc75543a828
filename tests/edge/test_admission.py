"""Counting open associations in a table that workers share."""

from dicomflow.edge.admission import Admission, clear_row, table_length

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


def test_worker_that_is_less_busy():
    """That is one with two connections fewer; one that has died, or has not begun, is none."""
    table = [0] * table_length(WORKERS, LIMIT)
    first = Admission(table, 0, LIMIT, 0)
    for _ in range(3):
        first.count_connection(1)
    assert first.less_busy() is None
    second = Admission(table, 1, LIMIT, 0)
    assert (1, None) == (first.less_busy(), second.less_busy())
    second.count_connection(1)
    assert 1 == first.less_busy()
    second.count_connection(1)
    assert first.less_busy() is None
    second.count_connection(-1)
    clear_row(table, 1, LIMIT)
    assert first.less_busy() is None


def test_worker_that_begins_anew_has_no_connections():
    """Whatever the one before it had."""
    table = [0] * table_length(WORKERS, LIMIT)
    first, second = (Admission(table, index, LIMIT, 0) for index in range(WORKERS))
    for worker in (first, first, second, second):
        worker.count_connection(1)
    clear_row(table, 1, LIMIT)
    Admission(table, 1, LIMIT, 0)
    assert 1 == first.less_busy()


def test_connections_take_no_places():
    """Counting connections leaves the places for associations as they are."""
    table = [0] * table_length(WORKERS, LIMIT)
    workers = [Admission(table, index, LIMIT, 0) for index in range(WORKERS)]
    for worker in workers:
        worker.count_connection(1)
    assert all(isinstance(workers[number % 2].enter("CT1"), int) for number in range(LIMIT))
