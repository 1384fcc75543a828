"""How the deliverer gets on: what waits, how fast it goes, and when it will be level; a small file once a second."""

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicomflow.regularfiles import create_regular, read_regular, write_all

__all__ = ["PROGRESS_FILE", "Progress", "read_gathered_until", "read_progress"]

PROGRESS_FILE: Final = "progress.json"
_WINDOW_SECONDS: Final = 30.0
_WRITE_SECONDS: Final = 1.0
# A clock that is kept right is set by less.
_CLOCK_STEP_SECONDS: Final = 5.0
# Of what is set aside: the log has all.
_MOST_TOLD: Final = 20
# Of the last second in the line's speed, against all before.
_NEWS_WEIGHT: Final = 0.2


class _Rate:
    """Bytes a second over the last window; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._seen: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, size_bytes: int) -> None:
        self._seen.append((self._clock(), size_bytes))
        self._sum += size_bytes

    def per_second(self) -> float:
        now = self._clock()
        while self._seen and self._seen[0][0] < now - _WINDOW_SECONDS:
            self._sum -= self._seen.popleft()[1]
        return self._sum / max(1.0, min(_WINDOW_SECONDS, now - self._started_at))


class Progress:
    """Counts what the deliverer does; with `busy_files` waiting the line is full. Event loop: one owner."""

    def __init__(self, path: Path, clock: Callable[[], float], busy_files: int = 1) -> None:
        self._path = path
        self._clock = clock
        self._busy_files = busy_files
        self._written_at = float("-inf")
        self._arrivals = _Rate(clock)
        self._stores = _Rate(clock)
        self._files = self._bytes = 0
        # What the line carries when there is enough to send, in bytes a second: the forecast's speed. It is measured
        # only while the line is full and puts succeed, since an edge that is level stores no faster than it receives.
        self._capacity = 0.0
        self._measured_at = clock()
        self._measured_bytes = 0
        self._is_measuring = False
        self._last_error = ""

    @property
    def waiting_files(self) -> int:
        """How many instances wait to be stored."""
        return self._files

    @property
    def line_bytes_per_second(self) -> float:
        """What the line carries when there is enough to send; 0 while that is not known."""
        return self._capacity

    def arrived(self, size_bytes: int) -> None:
        """Count an instance that was received."""
        self._arrivals.add(size_bytes)

    def queued(self, size_bytes: int) -> None:
        """Count an instance that waits to be stored."""
        self._files += 1
        self._bytes += size_bytes

    def stored(self, size_bytes: int) -> None:
        """Count an instance that was stored."""
        self._stores.add(size_bytes)
        self._measured_bytes += size_bytes
        self._leave(size_bytes)

    def given_up(self, size_bytes: int) -> None:
        """Count an instance that went to quarantine."""
        self._leave(size_bytes)

    def failed(self, error: str) -> None:
        """Keep the last failure for the operator."""
        self._last_error = error
        self._is_measuring = False

    def forget(self) -> None:
        """Remove what the last run wrote: of what it had gathered a ledger that was begun anew may know nothing."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def is_due(self) -> bool:
        """Tell whether a second has passed since the last file."""
        return self._clock() - self._written_at >= _WRITE_SECONDS

    def write(
        self,
        *,
        is_store_failing: bool,
        limit: int = 0,
        pause_seconds: float = 0.0,
        resent_skipped: int = 0,
        resent_stored_again: int = 0,
        gathered_until: float | None = None,
        is_full: bool = False,
        is_name_shared: bool = False,
        set_aside: Mapping[Path, str] | None = None,
    ) -> None:
        """Write the file; it is news, so nothing is synced.

        Args:
            is_store_failing: whether the last puts all failed.
            limit: the bandwidth's limit in force, in bytes a second; 0 for none.
            pause_seconds: until the failing store is tried again.
            resent_skipped: how many instances were sent again and not stored again, since the deliverer's start.
            resent_stored_again: how many were, since the store did not have what the ledger says.
            gathered_until: what was acknowledged until then, in seconds since the epoch, is in the ledger; None while
                that is not known.
            is_full: whether the spool's volume has no room.
            is_name_shared: whether another edge has this one's name.
            set_aside: what cannot be worked on, with the reasons.
        """
        self._written_at = self._clock()
        rate, arriving = self._stores.per_second(), self._arrivals.per_second()
        self._measure(is_store_failing=is_store_failing)
        document = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "waiting_files": self._files,
            "waiting_bytes": self._bytes,
            "stored_bytes_per_second": round(rate),
            "received_bytes_per_second": round(arriving),
            "level_in_seconds": self._level_in(arriving, limit, pause_seconds),
            "store": "failing" if is_store_failing else "ok",
            "last_error": self._last_error,
            "resent_skipped": resent_skipped,
            "resent_stored_again": resent_stored_again,
            "gathered_until": gathered_until,
            "spool_full": is_full,
            "name_shared": is_name_shared,
            "set_aside": len(set_aside or {}),
            "set_aside_reasons": {str(path): reason for path, reason in list((set_aside or {}).items())[:_MOST_TOLD]},
        }
        temporary = self._path.with_suffix(".tmp")
        try:
            with create_regular(temporary) as file:
                write_all(file, json.dumps(document).encode())
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _leave(self, size_bytes: int) -> None:
        self._files -= 1
        self._bytes -= size_bytes
        if self._files < self._busy_files:
            self._is_measuring = False

    def _measure(self, *, is_store_failing: bool) -> None:
        """Take the time since the last measure into the speed, if the line was full all the while and none failed."""
        now = self._clock()
        # While a failing store is left alone nothing fails, and nothing is sent either.
        self._is_measuring = self._is_measuring and not is_store_failing
        if self._is_measuring and not self._measured_bytes:
            return  # a large object is on its way
        if self._is_measuring and now > self._measured_at:
            measured = self._measured_bytes / (now - self._measured_at)
            self._capacity += (measured - self._capacity) * (_NEWS_WEIGHT if self._capacity else 1.0)
        self._measured_at, self._measured_bytes = now, 0
        self._is_measuring = self._files >= self._busy_files and not is_store_failing

    def _level_in(self, arriving: float, limit: int, pause: float) -> float | None:
        """Return the seconds until nothing waits, at the speed the line has shown; None while that is not known.

        A store that fails is taken to be back at the next try.
        """
        if not self._files:
            return 0.0
        # A line whose speed was not seen yet is taken to carry what the limit allows.
        spare = (min(self._capacity or limit, limit) if limit else self._capacity) - arriving
        return round(pause + (self._bytes + pause * arriving) / spare, 1) if spare > 0 else None


def read_gathered_until(spool: Path) -> float:
    """Return until when all that was acknowledged is in the ledger, in seconds since the epoch.

    While that is not known it is before any time, since a clock that was never set may be before the epoch; so it is
    where it lies ahead, since the clock was set back.
    """
    found = (read_progress(spool) or {}).get("gathered_until")
    if not isinstance(found, int | float) or found > time.time() + _CLOCK_STEP_SECONDS:
        return -math.inf
    return float(found)


def read_progress(spool: Path) -> dict[str, Any] | None:
    """Return the last progress of a spool's deliverer; None when it never ran."""
    try:
        document: Any = json.loads(read_regular(spool / PROGRESS_FILE))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
