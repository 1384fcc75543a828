"""Tells the store how this edge is: one small object, every minute and when something that matters has changed.

News, not truth: a store that does not take it is told later, and nothing waits for it. Where that object is not the one
that was put last, another edge of this name is at work: nothing of it is lost, but both hear each other's answers.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from dicomflow import __version__
from dicomflow.bucket.heartbeat import Heartbeat, KnownDestination, SeenPeer, WaitingDestination
from dicomflow.bucket.keys import heartbeat_key
from dicomflow.edge.commitment.requests import count_requests
from dicomflow.edge.deliver.delivery import ReceivedInstance
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.compared import read_compared
from dicomflow.edge.spool.setaside import SetAside
from dicomflow.edge.spool.view import free_bytes, look
from dicomflow.errors import PermanentError

__all__ = ["Heartbeats"]

_EVERY_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 5.0
# Looking takes at most one twentieth of the time.
_IDLE_SHARE: Final = 20.0
# So that the object stays small whoever sends.
_MAX_PEERS: Final = 50
_MAX_REMEMBERED_PEERS: Final = 1000
# So often on end: a put of the process before this one may come late, once.
_SURELY: Final = 2
_TELL_EVERY_SECONDS: Final = 600.0

_logger = logging.getLogger(__name__)


class Heartbeats:
    """Gathers whom the edge hears of and puts its heartbeat. Event loop: one owner.

    `put` stores an object whole, `fetch` reads one, None where there is none or none may be read; `is_full` tells
    whether images find no room; `clock` tells the time in UTC.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        aside: SetAside,
        put: Callable[[str, bytes], Awaitable[None]],
        fetch: Callable[[str], Awaitable[bytes | None]],
        is_full: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._root = settings.spool.dir
        self._aside = aside
        self._put = put
        self._fetch = fetch
        self._is_full = is_full
        self._run = uuid.uuid4().hex
        self._others = 0
        self._warned_at: datetime | None = None
        self._clock = clock
        self._peers: dict[tuple[str, str], SeenPeer] = {}
        self._has_new_peer = False
        self._told: tuple[bool, int, bool, int] | None = None
        self._told_at: datetime | None = None

    def saw(self, instance: ReceivedInstance) -> None:
        """Count an instance for its sender."""
        key = (instance.calling_ae_title, instance.file.peer)
        known = self._peers.pop(key, None)
        count = known.instances if known else 0
        self._has_new_peer |= known is None
        at = max(instance.received_at, known.seen_at) if known else instance.received_at
        self._peers[key] = SeenPeer(*key, count + 1, at)  # the last in the map is the last that was heard of
        if len(self._peers) > _MAX_REMEMBERED_PEERS:
            del self._peers[next(iter(self._peers))]

    async def follow(self, look_seconds: float = _LOOK_SECONDS) -> None:
        """Put a heartbeat when one is due, until cancelled."""
        while True:
            started_at = time.monotonic()
            pause = look_seconds
            try:
                await self.beat()
            except Exception as error:  # noqa: BLE001  # news only: nothing is lost by waiting
                _logger.warning("heartbeat_not_put error=%s", type(error).__name__)
                pause = _EVERY_SECONDS
            # A spool with a million files takes seconds to look at.
            await asyncio.sleep(max(pause, _IDLE_SHARE * (time.monotonic() - started_at)))

    async def beat(self) -> bool:
        """Put a heartbeat if the last one is old or says something else than this one; tell whether it was put."""
        state = await asyncio.to_thread(self._state)
        now, told = self._clock(), self._told_at
        is_old = told is None or (now - told).total_seconds() >= _EVERY_SECONDS
        if not is_old and state == self._told and not self._has_new_peer:
            return False
        self._has_new_peer = False
        peers = tuple(list(self._peers.values())[: -_MAX_PEERS - 1 : -1])
        if told is not None:
            await self._look_for_another(now)
        heartbeat = await asyncio.to_thread(self._look, now, peers)
        await self._put(heartbeat_key(heartbeat.edge), heartbeat.to_json())
        self._told_at, self._told = now, state
        return True

    @property
    def is_shared(self) -> bool:
        """Whether another edge has this one's name."""
        return self._others >= _SURELY

    async def _look_for_another(self, now: datetime) -> None:
        """See whether what was put last is still there."""
        try:
            found = await self._fetch(heartbeat_key(self._settings.name))
        except Exception:  # noqa: BLE001  # it may be told all the same
            return
        if found is None:
            return
        try:
            is_ours = Heartbeat.from_json(found).run == self._run
        except PermanentError:
            is_ours = False
        self._others = 0 if is_ours else self._others + 1
        is_news = self._warned_at is None or (now - self._warned_at).total_seconds() >= _TELL_EVERY_SECONDS
        if self.is_shared and is_news:
            self._warned_at = now
            _logger.warning("edge_name_shared name=%s", self._settings.name)

    def _state(self) -> tuple[bool, int, bool, int]:
        """Return what is news when it changes: whether something waits, how much is quarantined, and what is wrong."""
        view = look(self._root, ages=False)
        is_waiting = bool(view.received + view.delivering + sum(view.waiting().values()))
        return is_waiting, view.quarantined, self._is_full(), len(self._aside.reasons())

    def _look(self, now: datetime, peers: tuple[SeenPeer, ...]) -> Heartbeat:
        view = look(self._root)
        nightly = tuple(name for name, each in self._settings.sources.items() if each.nightly is not None)
        return Heartbeat(
            edge=self._settings.name,
            version=__version__,
            at=now,
            ae_title=self._settings.dimse.ae_title,
            received=view.received,
            delivering=view.delivering,
            quarantined=view.quarantined,
            free_bytes=free_bytes(self._root),
            oldest_seconds=round(view.oldest_seconds(), 1),
            peers=peers,
            is_full=self._is_full(),
            set_aside=len(self._aside.reasons()),
            undelivered_reports=count_requests(self._root)["undelivered"],
            destinations=tuple(KnownDestination(name, each.ae_title) for name, each in self._settings.nodes.items()),
            sources=read_compared(self._root, nightly),
            nightly=nightly,
            waiting=tuple(
                WaitingDestination(name, count, round(max(0.0, now.timestamp() - oldest_at), 1))
                for name, (count, oldest_at) in view.destinations.items()
                if count
            ),
            run=self._run,
            is_shared=self.is_shared,
        )
