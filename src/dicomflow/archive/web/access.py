"""Who asks over HTTP: nobody is asked on the machine itself; elsewhere a passcode, a bearer token or a proxy says who.

Knows no pages and no cookies: each request brings what proves it.
"""

import base64
import binascii
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from dicomflow.archive.access import Principal, Right
from dicomflow.archive.web.tokens import TokenError, Tokens
from dicomflow.errors import TransientError
from dicomflow.passcodes import PasscodeFile
from dicomflow.sites import LOOPBACK_HOSTS
from dicomflow.visitors import Attempts, Proxy

__all__ = ["LOCAL", "ReadingRights", "WebAccess"]

LOCAL: Final = Principal("web:local", frozenset(Right))
"""Who sits at this machine."""
ReadingRights: Final = frozenset({Right.QUERY, Right.RETRIEVE})
_REALM: Final = 'realm="dicomflow", charset="UTF-8"'
_MAX_CREDENTIALS: Final = 16 << 10


def _reading(_user: str) -> frozenset[Right]:
    return ReadingRights


@dataclass(frozen=True, slots=True)
class WebAccess:
    """How it is known who asks. With neither proxy, users nor tokens everyone is `LOCAL`: for loopback addresses only.

    Attributes:
        rights_of: what a user of the file, or one that the proxy names, may do.
        hosts: the names under which it is reached, without ports; none listed means any.
        origins: other sites whose pages may ask, `https://viewer.example.org`.
        public_url: what it is reached by, where that is not what requests say, without a slash at its end.
    """

    proxy: Proxy | None = None
    users: PasscodeFile | None = None
    tokens: Tokens | None = None
    rights_of: Callable[[str], frozenset[Right]] = _reading
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    origins: tuple[str, ...] = ()
    public_url: str | None = None
    attempts: Attempts = field(default_factory=lambda: Attempts(allowed=5, pause_seconds=300))
    checking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asks(self) -> bool:
        """Whether a stranger sees nothing."""
        return self.proxy is not None or self.users is not None or self.tokens is not None

    def principal_of(self, connection: HTTPConnection) -> Principal | Response:
        """Return who asks, or the answer to a stranger; it may take what a hash or a provider takes."""
        if not self.asks:
            return LOCAL
        if self.proxy is not None and (user := self.proxy.user_of(connection)) is not None:
            return Principal(f"web:{user}", self.rights_of(user))
        scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
        if len(credentials) > _MAX_CREDENTIALS:
            return self._stranger()
        if scheme.lower() == "bearer" and self.tokens is not None:
            try:
                return self.tokens.principal_of(credentials.strip())
            except TokenError:
                return self._stranger('error="invalid_token"')
            except TransientError:
                return PlainTextResponse("who signs tokens cannot be asked now\n", 503, {"retry-after": "10"})
        if scheme.lower() == "basic" and self.users is not None:
            return self._by_passcode(connection, self.users, credentials)
        return self._stranger()

    def _by_passcode(self, connection: HTTPConnection, users: PasscodeFile, credentials: str) -> Principal | Response:
        """Check name and passcode (RFC 7617); who guesses has to wait, and not who was let in before."""
        try:
            name, colon, passcode = base64.b64decode(credentials.strip(), validate=True).partition(b":")
            user = name.decode()
        except (binascii.Error, ValueError):
            return self._stranger()
        address = connection.client.host if connection.client is not None else ""
        tried = (f"user {user}", f"address {address}")
        if not users.remembers(name, passcode):
            # One after the other: a viewer asks eight things at once, which would be eight attempts.
            with self.checking:
                if not users.remembers(name, passcode):
                    begun = self.attempts.begin(*tried)
                    if begun is None:
                        return PlainTextResponse("too many failures: wait some minutes\n", 429, {"retry-after": "300"})
                    if not colon or not users.accepts(name, passcode):
                        return self._stranger()
                    self.attempts.succeeded(begun, *tried)
        return Principal(f"web:{user}", self.rights_of(user))

    def _stranger(self, error: str = "") -> Response:
        response = PlainTextResponse("say who you are\n", status_code=401)
        if self.tokens is not None:
            response.headers.append("www-authenticate", f"Bearer {error}".strip())
        if self.users is not None:
            response.headers.append("www-authenticate", f"Basic {_REALM}")
        return response
