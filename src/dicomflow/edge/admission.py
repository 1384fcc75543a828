"""How many associations are open, in all and of one calling AE title, counted over all workers.

The table is shared memory: a row for each worker, a place for each association it may have. A worker writes in its
own row only, so no lock spans processes, and the row of a worker that died is cleared by the supervisor.
"""

import threading
import zlib
from collections.abc import MutableSequence

__all__ = ["Admission", "clear_row", "table_length"]


def table_length(workers: int, max_associations: int) -> int:
    """Return how many places the shared table needs."""
    return workers * max_associations


def clear_row(table: MutableSequence[int], index: int, max_associations: int) -> None:
    """Forget the associations of a worker that died."""
    for place in range(index * max_associations, (index + 1) * max_associations):
        table[place] = 0


class Admission:
    """One worker's way to the table. Thread: any; `_lock` guards this worker's row."""

    def __init__(
        self, table: MutableSequence[int], index: int, max_associations: int, max_associations_per_ae_title: int
    ) -> None:
        self._table = table
        self._row = range(index * max_associations, (index + 1) * max_associations)
        self._max = max_associations
        self._max_per_ae_title = max_associations_per_ae_title
        self._lock = threading.Lock()

    def enter(self, calling_ae_title: str) -> int | str:
        """Take a place and return it for `leave`, or return why there is none."""
        mark = zlib.crc32(calling_ae_title.encode()) | 1 << 32  # never the 0 of a free place
        with self._lock:
            open_now = [each for each in self._table[:] if each]  # a slice: the table's items are dear one by one
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
