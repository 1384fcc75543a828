"""Web applications on this machine and the pages of other sites, which a browser here may be made to ask us with.

Owns the names of this machine and what tells our own pages from others. Knows no application.
"""

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["LOOPBACK_HOSTS", "OwnSite", "is_of_another_site", "is_own_host"]

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_own_host(connection: HTTPConnection, hosts: tuple[str, ...]) -> bool:
    """Tell whether a request names us: a page of another site that resolves its name to our address does not."""
    if not hosts:
        return True
    try:
        name = urlsplit(f"//{connection.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return name in hosts


def is_of_another_site(connection: HTTPConnection) -> bool:
    """Tell whether a browser says that a page of another site sends this request; programs say nothing."""
    origin = connection.headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != connection.headers.get("host", ""):
            return True
    except ValueError:
        return True
    return connection.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}


class OwnSite:
    """Stands before an application that asks nobody who it is; lets through what is meant for this machine.

    A foreign Host is a page of another site that has resolved its name to our address; a request that may change
    something and comes from another site's page needs no answer to do harm.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = LOOPBACK_HOSTS) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is not ours, or pass the request on."""
        app = self._app
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            if not is_own_host(connection, self._hosts):
                app = PlainTextResponse("not a host of this machine\n", status_code=421)
            elif scope["method"] not in _HARMLESS and is_of_another_site(connection):
                app = PlainTextResponse("the page of another site may not ask this\n", status_code=403)
        await app(scope, receive, send)
