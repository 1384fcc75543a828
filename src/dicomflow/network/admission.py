"""How many associations are open, in all and of one calling AE title, and how many connections each worker has.

The table is shared memory: a row for each worker, a place for each association it may have, and behind the rows the
number of connections of each worker and one, or 0 while there is no such worker. A worker writes in its own row and its
own number only, so no lock spans processes; those of a worker that died are cleared by the supervisor.
"""

import threading
import time
import zlib
from collections.abc import MutableSequence, Sequence
from typing import Final

__all__ = ["Admission", "clear_row", "open_associations", "table_length"]

# A worker takes what is given to it in less, if it can.
_ON_THE_WAY_SECONDS: Final = 0.1


def table_length(workers: int, max_associations: int) -> int:
    """Return how many places the shared table needs."""
    return workers * (max_associations + 1)


def open_associations(table: Sequence[int], max_associations: int) -> int:
    """Return how many associations all workers have."""
    return sum(1 for each in table[: _first_count(table, max_associations)] if each)


def clear_row(table: MutableSequence[int], index: int, max_associations: int) -> None:
    """Forget the associations and connections of a worker that died."""
    for place in range(index * max_associations, (index + 1) * max_associations):
        table[place] = 0
    table[_first_count(table, max_associations) + index] = 0


def _first_count(table: Sequence[int], max_associations: int) -> int:
    return len(table) // (max_associations + 1) * max_associations


class Admission:
    """One worker's way to the table. Thread: any; `_lock` guards this worker's row."""

    def __init__(
        self, table: MutableSequence[int], index: int, max_associations: int, max_associations_per_ae_title: int
    ) -> None:
        self._table = table
        self._row = range(index * max_associations, (index + 1) * max_associations)
        self._first_count = _first_count(table, max_associations)
        self._count = self._first_count + index
        self._index = index
        self._given: dict[int, tuple[int, int, float]] = {}
        self._is_closed = False
        self._max = max_associations
        self._max_per_ae_title = max_associations_per_ae_title
        self._lock = threading.Lock()

    def count_connection(self, change: int) -> None:
        """Note that this worker has a connection more, or with -1 one less."""
        with self._lock:
            self._table[self._count] += change

    def begin(self) -> None:
        """Be one of the workers that connections are given to."""
        with self._lock:
            self._table[self._count] += 1

    def close(self) -> None:
        """Give no more away: the others end too."""
        self._is_closed = True

    def less_busy(self) -> int | None:
        """Return the worker to give a connection to: one with at least two less than this one, so that both gain.

        It is taken for given, until that worker's count tells more or `_ON_THE_WAY_SECONDS` have passed.
        """
        if self._is_closed:
            return None
        with self._lock:
            now = time.monotonic()
            counts = list(self._table[self._first_count :])
            on_the_way = {
                worker: given
                for worker, (count, given, at) in self._given.items()
                if counts[worker] == count and now - at < _ON_THE_WAY_SECONDS
            }
            expected = {worker: count + on_the_way.get(worker, 0) for worker, count in enumerate(counts) if count}
            least = min(expected, key=lambda worker: expected[worker], default=self._index)
            if expected.get(least, 0) > counts[self._index] - 2:
                return None
            self._given[least] = (counts[least], on_the_way.get(least, 0) + 1, now)
            return least

    def enter(self, calling_ae_title: str) -> int | str:
        """Take a place and return it for `leave`, or return why there is none."""
        mark = zlib.crc32(calling_ae_title.encode()) | 1 << 32  # never the 0 of a free place
        with self._lock:
            # A slice: the table's items are dear one by one.
            open_now = [each for each in self._table[: self._first_count] if each]
            if len(open_now) >= self._max:
                return f"{self._max} associations are open already"
            if self._max_per_ae_title and open_now.count(mark) >= self._max_per_ae_title:
                return f"{self._max_per_ae_title} associations of this AE title are open already"
            place = next(place for place in self._row if not self._table[place])
            self._table[place] = mark
            return place

    def leave(self, place: int) -> None:
        """Give a place back."""
        with self._lock:
            self._table[place] = 0
