"""Who visits a web application of ours: a proxy that has asked tells it, and guessing is slowed down.

Knows no application, and no file of users.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from starlette.requests import HTTPConnection

__all__ = ["Attempts", "Proxy"]

_MAX_TRIED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Proxy:
    """A reverse proxy that has asked who it is (OIDC), and tells it in a header: believed from these networks only."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    header: str

    def user_of(self, connection: HTTPConnection) -> str | None:
        """Return the user that the proxy names; None when the request does not come from it."""
        if connection.client is None:
            return None
        try:
            address = ip_address(connection.client.host)
        except ValueError:
            return None
        if not any(address in network for network in self.networks):
            return None
        return connection.headers.get(self.header, "").strip() or None


class Attempts:
    """Slows down guessing: after so many failures of a user or an address, a pause. Threads: any.

    An attempt counts from its beginning, so that those which arrive while others are looked at are counted too.
    """

    def __init__(self, allowed: int, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = allowed
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def begin(self, *names: str) -> float | None:
        """Count an attempt, as failed until it is taken back; None when one of these has failed too often of late.

        Returns:
            What `succeeded` takes it back by.
        """
        now = self._clock()
        since = now - self._pause_seconds
        with self._lock:
            recent = {name: [at for at in self._failed.get(name, ()) if at > since] for name in names}
            if any(len(ats) >= self._allowed for ats in recent.values()):
                return None
            for name, ats in recent.items():
                self._failed.pop(name, None)
                self._failed[name] = [*ats, now]
            while len(self._failed) > _MAX_TRIED:
                self._failed.popitem(last=False)
        return now

    def succeeded(self, begun: float, *names: str) -> None:
        """Take back an attempt that was no failure."""
        with self._lock:
            for name in names:
                ats = self._failed.get(name, [])
                if begun in ats:
                    ats.remove(begun)
