"""What stands before every answer: foreign hosts and sites are refused, strangers asked, errors told and not thrown.

An error in the middle of an answer ends its connection without the answer's end, so that no reader takes a part for the
whole.
"""

import logging
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomflow.archive.access import Principal
from dicomflow.archive.errors import BadQueryError, NotAllowedError, NotHeldError
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.web.access import LOCAL, WebAccess
from dicomflow.errors import TransientError
from dicomflow.sites import is_of_another_site, is_own_host

__all__ = ["Guard", "answer_of"]

_HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_RETRY_SECONDS: Final = "5"
_HEADERS: Final = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    # Patients' data: kept by whom it was sent to, and asked about each time.
    b"cache-control": b"private, no-cache",
    b"vary": b"Accept, Authorization",
}

_logger = logging.getLogger(__name__)


class Guard:
    """Lets through who is known, as `request.state.principal`, and makes answers of errors."""

    def __init__(self, app: ASGIApp, *, access: WebAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in _HEADERS.items() if name not in names),
                ]
            await send(message)

        app: ASGIApp | Response = self._app
        try:
            refusal = await self._refusal(HTTPConnection(scope))
            if refusal is not None:
                app = refusal
            await app(scope, receive, send_with_headers)
        except Exception as error:  # this is the boundary around one of many requests
            if has_started:
                _logger.warning("answer_cut error=%s path=%s", type(error).__name__, scope["path"])
                raise
            await answer_of(error)(scope, receive, send_with_headers)

    async def _refusal(self, connection: HTTPConnection) -> Response | None:
        if not is_own_host(connection, self._access.hosts):
            return PlainTextResponse("not a host of this archive\n", status_code=421)
        is_listed = connection.headers.get("origin") in self._access.origins
        if connection.scope["method"] not in _HARMLESS and not is_listed and is_of_another_site(connection):
            return PlainTextResponse("the page of another site may not ask this\n", status_code=403)
        # On a thread where somebody is asked: others' answers go on while a passcode or a token is checked.
        found = await run_in_threadpool(self._access.principal_of, connection) if self._access.asks else LOCAL
        if not isinstance(found, Principal):
            return found
        connection.state.principal = found
        return None


def answer_of(error: Exception) -> Response:
    """Return what an error is answered by; its text holds no patient data."""
    match error:
        case HTTPException():
            return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        case NotHeldError() | FrameError():
            return PlainTextResponse(f"{error}\n", status_code=404)
        case NotAllowedError():
            return PlainTextResponse(f"{error}\n", status_code=403)
        case BadQueryError():
            return PlainTextResponse(f"{error}\n", status_code=400)
        case TransientError():
            return PlainTextResponse(f"{error}\n", 503, {"retry-after": _RETRY_SECONDS})
    _logger.error("request_failed", exc_info=error)
    return PlainTextResponse("an error of the archive's own\n", status_code=500)
