"""The console of a deployed stack on this machine: each request goes on as one call of the stack's console function.

Knows no AWS: how the function is called is given to it. Requests of other sites end here, and again there.
"""

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dicomflow.console.forwarded import CALLER, HOSTS, USER_HEADER
from dicomflow.errors import DicomflowError, TransientError
from dicomflow.sites import OwnSite

__all__ = ["create_forwarder"]

_MAX_BODY_BYTES: Final = 64 << 10
_MAX_CALLS: Final = 4
"""At once: a new account runs ten functions, and the pipeline's are among them."""
_OWN_HEADERS: Final = frozenset({"content-length", "date", "server", "connection", "transfer-encoding"})

Call = Callable[[Mapping[str, Any]], dict[str, Any]]


def create_forwarder(call: Call, user: str) -> Starlette:
    """Return the application.

    Args:
        call: calls the console's function with an event and returns its result; raises `DicomflowError` where it fails.
        user: who looks, for the audit trail.
    """
    secret = secrets.token_urlsafe(32)  # sessions end with this process
    calls = anyio.CapacityLimiter(_MAX_CALLS)

    async def endpoint(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                return PlainTextResponse(f"more than {_MAX_BODY_BYTES:,} bytes\n", status_code=413)
        event = _event(request, body, user, secret)
        try:
            return await anyio.to_thread.run_sync(_answer, call, event, limiter=calls)
        except DicomflowError as error:
            return PlainTextResponse(f"{error}\n", status_code=502, headers={"cache-control": "no-store"})

    route = Route("/{path:path}", endpoint, methods=["GET", "POST"])
    return Starlette(routes=[route], middleware=[Middleware(OwnSite, hosts=HOSTS)])


def _event(request: Request, body: bytes, user: str, secret: str) -> dict[str, Any]:
    """Return a request as API Gateway's HTTP APIs put it, version 2.0 of their payload format."""
    path = request.scope.get("raw_path", request.url.path.encode()).decode("ascii")
    headers = {name: ",".join(request.headers.getlist(name)) for name in request.headers if name != "cookie"}
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": request.url.query,
        "cookies": request.headers.getlist("cookie"),
        "headers": headers | {USER_HEADER: user, "x-forwarded-proto": "http"},
        "requestContext": {"http": {"method": request.method, "path": path, "sourceIp": CALLER}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
        "secret": secret,
        "start": 0,
    }


def _answer(call: Call, event: dict[str, Any]) -> Response:
    """Return the function's answer, whose body may come in parts.

    Raises:
        TransientError: the answer changed between two parts.
    """
    first = told = call(event)
    text = told["body"]
    while len(text) < first["characters"]:
        told = call(event | {"start": len(text)})
        if told["digest"] != first["digest"] or not told["body"]:
            raise TransientError("the answer changed while it was read in parts: open the page again")
        text += told["body"]
    response = Response(base64.b64decode(text), status_code=first["statusCode"])
    del response.headers["content-length"]
    for name, value in first["headers"].items():
        if name.lower() not in _OWN_HEADERS:
            response.headers[name] = value
    response.headers["content-length"] = str(len(response.body))
    for cookie in first.get("cookies", ()):
        response.headers.append("set-cookie", cookie)
    return response
