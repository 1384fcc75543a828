"""A build of the OHIF viewer, served as it is with a configuration of ours, and the archive beside it on its origin.

It needs more of a browser than the console's pages may have: scripts in its page, and WebAssembly that its codecs
compile. So it has a port, and a policy, of its own. What its build asks for from elsewhere it is not told of.
"""

import json
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomflow.errors import PermanentError

__all__ = ["create_viewer", "find_build", "viewer_path"]

_INDEX: Final = "index.html"
_CONFIG: Final = "app-config.js"
_DICOMWEB: Final = "/dicomweb"
# Its scripts stand in its page, its codecs are WebAssembly that is made from text, and its worker is one of its own.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; worker-src 'self' blob:;"
    " connect-src 'self' blob: data:; font-src 'self' data:;"
    " form-action 'none'; base-uri 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_SOURCE: Final = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "dicomweb",
    "configuration": {
        "friendlyName": "dicomflow",
        "name": "dicomflow",
        "qidoRoot": _DICOMWEB,
        "wadoRoot": _DICOMWEB,
        "wadoUriRoot": _DICOMWEB,
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": True,
        "supportsWildcard": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "staticWado": False,
        "singlepart": "bulkdata,video,pdf",
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        "omitQuotationForMultipartRequest": True,
    },
}
_CONFIGURATION: Final = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 3,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": True,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "dataSources": [_SOURCE],
    "defaultDataSourceName": "dicomweb",
}


def viewer_path(study_instance_uid: str) -> str:
    """Return the path of a study in the viewer."""
    return f"/viewer?StudyInstanceUIDs={study_instance_uid}"


def find_build(folder: Path) -> Path:
    """Return the folder of a build in what npm's package @ohif/app unpacks to, or in the build itself.

    Raises:
        PermanentError: there is none.
    """
    places = (".", "dist", "package/dist", "node_modules/@ohif/app/dist")
    found = next((folder / each for each in places if (folder / each / _CONFIG).is_file()), None)
    if found is None or not (found / _INDEX).is_file():
        raise PermanentError(f"--ohif {folder}: no build of OHIF is there: it has {_INDEX} and {_CONFIG}")
    return found.resolve()


def create_viewer(folder: Path, archive: ASGIApp) -> Starlette:
    """Return the viewer as an application.

    Args:
        folder: of its build, or of its package.
        archive: DICOMweb, which guards itself; of the viewer's files nothing is secret.

    Raises:
        PermanentError: there is no build.
    """
    build = find_build(folder)
    configuration = f"window.config = {json.dumps(_CONFIGURATION)};\n"

    def config(_request: Request) -> Response:
        return Response(configuration, media_type="text/javascript", headers={"cache-control": "no-cache"})

    def file(request: Request) -> Response:
        return _file(build, request.path_params["path"])

    return Starlette(
        routes=[
            Mount(_DICOMWEB, archive),
            Route(f"/{_CONFIG}", config),
            # The archive packs by itself what is worth it.
            Route("/{path:path}", file, middleware=[Middleware(GZipMiddleware, minimum_size=4096, compresslevel=1)]),
        ],
        middleware=[Middleware(_Headers)],
    )


def _file(build: Path, path: str) -> Response:
    """Answer a file of the build, and for each address of the viewer its page."""
    found = (build / path).resolve() if "\0" not in path else build
    if not found.is_relative_to(build):
        return PlainTextResponse("not a file of the viewer\n", 404)
    if path and found.is_file():
        # The names of bundles change with what is in them.
        is_named_by_content = ".bundle." in found.name or found.suffix == ".wasm"
        kept = "public, max-age=31536000, immutable" if is_named_by_content else "no-cache"
        return FileResponse(found, media_type=_TYPES.get(found.suffix), headers={"cache-control": kept})
    if found.suffix:
        return PlainTextResponse("not a file of the viewer\n", 404)
    return FileResponse(build / _INDEX, media_type="text/html", headers={"cache-control": "no-cache"})


class _Headers:
    """Adds the policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
