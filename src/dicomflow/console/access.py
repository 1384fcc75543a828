"""Who may see the pages: nobody is asked on the machine itself, elsewhere a proxy or a file of passcodes says who.

Owns sessions, the token of forms and the refusal of foreign hosts. Knows no pages but the one to log in on.
"""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from starlette.requests import HTTPConnection, Request

from dicomflow.passcodes import PasscodeFile
from dicomflow.sites import LOOPBACK_HOSTS, is_of_another_site
from dicomflow.visitors import Attempts, Proxy

__all__ = ["Access", "Role", "Sessions", "check_form", "form_token"]

LOCAL_USER: Final = "console:local"
_TOKEN: Final = "csrf"  # noqa: S105  # a name
_SESSION: Final = "session"
_TOKEN_BYTES: Final = 32
_MAX_SESSIONS: Final = 10_000


class Role(StrEnum):
    """What a user may do; each may what those before it may."""

    VIEWER = "viewer"  # look at everything
    OPERATOR = "operator"  # try again, send back, accept
    ADMIN = "admin"  # download, delete

    def may(self, needed: "Role") -> bool:
        """Tell whether it has the rights of another."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Sessions:
    """Who is logged in, by the random name that the signed cookie carries; the process's end ends them all.

    Threads: any. `clock` gives monotonic seconds.
    """

    def __init__(self, idle_seconds: float, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._live: OrderedDict[str, tuple[str, float, float]] = OrderedDict()

    def begin(self, user: str) -> str:
        """Return the name of a new session."""
        name, now = secrets.token_urlsafe(_TOKEN_BYTES), self._clock()
        with self._lock:
            self._live[name] = (user, now, now)
            while len(self._live) > _MAX_SESSIONS:
                self._live.popitem(last=False)
        return name

    def user_of(self, name: str) -> str | None:
        """Return whose session it is; None when it was too long ago."""
        now = self._clock()
        with self._lock:
            user, began_at, seen_at = self._live.get(name, ("", 0.0, 0.0))
            if not user:
                return None
            if now - seen_at > self._idle_seconds or now - began_at > self._limit_seconds:
                del self._live[name]
                return None
            self._live[name] = (user, began_at, now)
            return user

    def end(self, name: str) -> None:
        """End a session; its cookie is then worth nothing."""
        with self._lock:
            self._live.pop(name, None)


@dataclass(frozen=True, slots=True)
class Access:
    """How users are known. With neither proxy nor users everyone is the local user: for loopback addresses only.

    `hosts` are the names under which it is reached, without ports; none listed means any. `roles` says by name what
    users may do, others are of `default_role`; the local user may everything.
    """

    proxy: Proxy | None = None
    users: PasscodeFile | None = None
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    is_https: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)
    default_role: Role = Role.OPERATOR
    sessions: Sessions = field(default_factory=lambda: Sessions(idle_seconds=1800, limit_seconds=43_200))
    attempts: Attempts = field(default_factory=lambda: Attempts(allowed=5, pause_seconds=300))

    @property
    def needs_login(self) -> bool:
        """Tell whether a stranger sees nothing."""
        return self.proxy is not None or self.users is not None

    def role_of(self, user: str | None) -> Role:
        """Return what a user may do, by the name that `user_of` gives."""
        if user == LOCAL_USER and not self.needs_login:
            return Role.ADMIN
        return self.roles.get((user or "").removeprefix("console:"), self.default_role)

    def user_of(self, connection: HTTPConnection) -> str | None:
        """Return who asks, as the audit trail names them; None is a stranger."""
        if not self.needs_login:
            return LOCAL_USER
        if self.proxy is not None and (user := self.proxy.user_of(connection)) is not None:
            return f"console:{user}"
        name = connection.session.get(_SESSION)
        user = self.sessions.user_of(name) if isinstance(name, str) else None
        return None if user is None else f"console:{user}"

    def log_in(self, request: Request, user: str, passcode: str) -> bool:
        """Begin a session if name and passcode are right; the cookie of before is worth nothing then."""
        if self.users is None or not self.users.accepts(user.encode(), passcode.encode()):
            return False
        self.log_out(request)
        request.session[_SESSION] = self.sessions.begin(user)
        return True

    def log_out(self, request: Request) -> None:
        """End the session of a request."""
        self.sessions.end(str(request.session.get(_SESSION, "")))
        request.session.clear()


def form_token(request: Request) -> str:
    """Return the token that a form of this session must bring back."""
    token = request.session.get(_TOKEN)
    if not isinstance(token, str):
        token = request.session[_TOKEN] = secrets.token_urlsafe(_TOKEN_BYTES)
    return token


def check_form(request: Request, token: str) -> bool:
    """Tell whether a form was sent from a page of this session, and not from another site."""
    if is_of_another_site(request):
        return False
    expected = request.session.get(_TOKEN)
    return isinstance(expected, str) and hmac.compare_digest(expected.encode(), token.encode())
