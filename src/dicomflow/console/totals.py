"""What takes long to count, counted once in a while: rows of whole tables, and conflicts. Threads: any."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine

from dicomflow.catalog.conflicts import list_conflicts
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.report import count_everything

__all__ = ["CONFLICTS_COUNTED", "Counted", "Totals"]

CONFLICTS_COUNTED: Final = 100
"""Of each kind; more are shown as "100 or more"."""
_AGE: Final = timedelta(seconds=15)
# Counting takes at most one part in so many of the time.
_SHARE: Final = 20


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted, and when; `counts` as `catalog.report.count_everything` has it."""

    at: datetime
    counts: dict[str, Any]
    conflicts: dict[str, int]


class Totals:
    """Counts when what was counted is old, and gives the last numbers meanwhile."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: Counted | None = None
        self._good_until: datetime | None = None

    def read(self) -> Counted:
        """Return numbers that are at most a little while old."""
        with self._lock:
            started_at = self._clock()
            if self._counted is None or self._good_until is None or started_at >= self._good_until:
                counts = count_everything(self._engine)
                with begin_read(self._engine) as connection:
                    found = list_conflicts(connection, limit=CONFLICTS_COUNTED)
                conflicts: dict[str, int] = {}
                for each in found:
                    conflicts[each.kind] = conflicts.get(each.kind, 0) + 1
                self._counted = Counted(started_at, counts, conflicts)
                now = self._clock()
                self._good_until = now + max(_AGE, _SHARE * (now - started_at))
            return self._counted
