"""How many associations are open, in all and of one calling AE title, and how many connections each worker has.

The table is shared memory: a row for each worker, a place for each association it may have, and behind the rows the
number of connections of each worker and one, or 0 while there is no such worker. A worker writes in its own row and its
own number only, so no lock spans processes; those of a worker that died are cleared by the supervisor.
"""

import threading
import zlib
from collections.abc import MutableSequence

__all__ = ["Admission", "clear_row", "table_length"]


def table_length(workers: int, max_associations: int) -> int:
    """Return how many places the shared table needs."""
    return workers * (max_associations + 1)


def clear_row(table: MutableSequence[int], index: int, max_associations: int) -> None:
    """Forget the associations and connections of a worker that died."""
    for place in range(index * max_associations, (index + 1) * max_associations):
        table[place] = 0
    table[_first_count(table, max_associations) + index] = 0


def _first_count(table: MutableSequence[int], max_associations: int) -> int:
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
        self._table[self._count] = 1
        self._max = max_associations
        self._max_per_ae_title = max_associations_per_ae_title
        self._lock = threading.Lock()

    def count_connection(self, change: int) -> None:
        """Note that this worker has a connection more, or with -1 one less."""
        with self._lock:
            self._table[self._count] += change

    def less_busy(self) -> int | None:
        """Return a worker that has at least two connections less than this one, which one of them would make even."""
        counts = self._table[self._first_count :]
        fewest = min(count for count in counts if count)
        return counts.index(fewest) if fewest <= self._table[self._count] - 2 else None

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
