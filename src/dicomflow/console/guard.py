"""What stands before every page: the host's name, the user, and the headers that keep a browser from being misled."""

from typing import Final
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomflow.console.access import Access
from dicomflow.console.metrics import METRICS_PATH
from dicomflow.sites import is_own_host

__all__ = ["Guard", "Headers", "wants_json"]

_PUBLIC: Final = ("/login", "/static/", METRICS_PATH)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_TRANSPORT: Final = "max-age=31536000"


def wants_json(connection: HTTPConnection) -> bool:
    """Tell whether a page's JSON twin is asked for, by its address or by Accept."""
    if connection.url.path.endswith(".json"):
        return True
    accepted = connection.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


class Headers:
    """Adds the headers to every answer. Pages are kept nowhere: they show patients."""

    def __init__(self, app: ASGIApp, *, is_https: bool) -> None:
        self._app = app
        self._added = _HEADERS | ({"strict-transport-security": _TRANSPORT} if is_https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._added.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Guard:
    """Lets through who may see pages, and tells the pages who it is, as `request.state.user`."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a stranger, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        if not is_own_host(connection, self._access.hosts):
            return PlainTextResponse("not a host of this console\n", status_code=421)
        if "\0" in connection.scope["path"] or b"%00" in connection.scope["query_string"]:
            return PlainTextResponse("no text has a NUL\n", status_code=400)
        user = self._access.user_of(connection)
        connection.state.user = user
        connection.state.role = self._access.role_of(user)
        path = connection.url.path
        if user is not None or path.startswith(_PUBLIC):
            return None
        is_page = connection.scope["method"] == "GET" and not path.endswith(".png") and not wants_json(connection)
        if not is_page or self._access.users is None:
            return JSONResponse({"error": "log in first"}, status_code=401)
        after = path + (f"?{connection.url.query}" if connection.url.query else "")
        return RedirectResponse(f"/login?next={quote(after, safe='')}", status_code=303)
