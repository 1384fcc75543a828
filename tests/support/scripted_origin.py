"""A DICOMweb origin that answers as a test says: pages, limits, refusals and lies."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomflow.serving import WebServer

__all__ = ["ScriptedOrigin", "row", "scripted"]


class ScriptedOrigin:
    """Answers searches from `rows`, so many at once; `faults` are taken one a request before that."""

    def __init__(self, rows: list[Mapping[str, Any]], most: int = 1000) -> None:
        self.rows = rows
        self.most = most
        self.faults: list[Response | None] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.retrieve: Callable[[Request], Response] = lambda _request: Response(status_code=404)
        self.url = ""

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        self.asked.append((request.url.path, dict(request.query_params)))
        self.headers.append(dict(request.headers))
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            return fault
        if re.search(r"/instances/[\d.]+$", request.url.path):
            return self.retrieve(request)
        at = int(request.query_params.get("offset", 0))
        return JSONResponse(self.rows[at : at + min(self.most, int(request.query_params.get("limit", self.most)))])


@contextmanager
def scripted(origin: ScriptedOrigin) -> Iterator[ScriptedOrigin]:
    """Serve it."""
    server = WebServer(Starlette(routes=[Route("/{path:path}", origin.answer)]), "127.0.0.1", 0)
    server.start()
    origin.url = f"{server.url}/datastore/0123456789abcdef"
    try:
        yield origin
    finally:
        server.close()


def row(**values: tuple[str, Any]) -> dict[str, Any]:
    """Return a row: names are `x` and a tag, values a VR and a value."""
    return {name[1:]: {"vr": vr, "Value": [value]} for name, (vr, value) in values.items()}
