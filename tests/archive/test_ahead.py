"""Reading ahead: in order, several at once, no more than that, and an error in its turn."""

import threading

import pytest
from waiting import WAIT_SECONDS

from dicomflow.archive.ahead import ahead


def test_so_many_are_read_at_once_and_come_in_order():
    """Each waits for the others of its group: one after the other would never meet."""
    group = threading.Barrier(4)

    def read(number: int) -> int:
        group.wait(WAIT_SECONDS)
        return number

    assert list(range(8)) == list(ahead(read, range(8), 4))


def test_no_more_are_begun_than_that():
    """Memory holds so many, however slowly they are taken."""
    begun: list[int] = []
    found = ahead(lambda number: begun.append(number) or number, range(100), 3)
    assert 0 == next(found)
    assert len(begun) <= 3
    found.close()


@pytest.mark.parametrize("most", [1, 4])
def test_error_comes_in_its_turn(most: int):
    """What was read before it is given."""

    def read(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    found = ahead(read, range(5), most)
    assert [0, 1] == [next(found), next(found)]
    with pytest.raises(ValueError, match="the third"):
        next(found)
