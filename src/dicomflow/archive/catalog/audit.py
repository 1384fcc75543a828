"""The audit trail of an archive, written beside the answers: some rows at once, none of them lost while it runs.

A row waits for the writer for a moment only, and equal ones of that moment become one with a count: a viewer asks for a
study frame by frame. Where the catalog takes no rows they are kept, and when too many wait nothing more is answered.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Engine

from dicomflow.archive.access import Principal
from dicomflow.catalog.audit import record_audit_event
from dicomflow.errors import TransientError

__all__ = ["CatalogAudit"]

_MOST_WAITING: Final = 10_000
_PAUSE_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 2.0

_logger = logging.getLogger(__name__)

_Entry = tuple[str, str, str | None, str]


class CatalogAudit:
    """Writes what is asked for into a catalog, in a thread of its own until `close`. Threads: any.

    `_changed` guards what waits; a row stays there until it is written.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock
        self._waiting: Counter[_Entry] = Counter()
        self._writing: Counter[_Entry] = Counter()
        self._changed = threading.Condition()
        self._is_closed = False
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, principal: Principal, action: str, uid: str | None, details: Mapping[str, Any]) -> None:
        """Have a row written within a moment."""
        entry = (principal.name, action, uid, json.dumps(dict(details), sort_keys=True))
        with self._changed:
            if self._is_closed or len(self._waiting) >= _MOST_WAITING:
                raise TransientError("what is asked cannot be noted in the audit trail now")
            self._waiting[entry] += 1
            self._changed.notify_all()

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until what was recorded is written; False when that took too long."""
        self._pause.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, seconds)

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._pause.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_closed)
                if not self._waiting:
                    return
                is_last = self._is_closed
            self._pause.wait(_PAUSE_SECONDS)  # others are about to come
            if not self._write() and is_last:
                _logger.error("audit_lost rows=%d", len(self._waiting))
                return

    def _write(self) -> bool:
        """Write what waits; where that fails it waits on, and this returns False a little later."""
        with self._changed:
            self._writing, self._waiting = self._waiting, Counter()
            self._pause.clear()
        try:
            now = self._clock()
            with self._engine.begin() as connection:
                for (actor, action, uid, details), count in self._writing.items():
                    told = json.loads(details) | ({"times": count} if count > 1 else {})
                    record_audit_event(connection, now, actor=actor, action=action, uid=uid, details=told)
        except Exception as error:  # noqa: BLE001  # whatever it is, the rows stay and are tried again
            _logger.warning("audit_waits rows=%d error=%s", len(self._writing), type(error).__name__)
            with self._changed:
                self._waiting += self._writing
                self._writing = Counter()
                self._changed.notify_all()
            self._pause.wait(0 if self._is_closed else _AGAIN_SECONDS)
            return False
        with self._changed:
            self._writing = Counter()
            self._changed.notify_all()
        return True
