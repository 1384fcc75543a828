"""The archive as a web application: the routes of its services, behind the guard."""

from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from dicomflow.archive.archive import Archive
from dicomflow.archive.errors import BadQueryError, NotAllowedError, NotHeldError
from dicomflow.archive.pixels.picture import FrameError
from dicomflow.archive.storing import ImageStore
from dicomflow.archive.web import qido, stow, wado
from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.guard import Guard, answer_of
from dicomflow.errors import TransientError

__all__ = ["create_archive"]

_EXPOSED: Final = ("warning", "content-location", "content-range", "etag")
_ASKED: Final = ("authorization", "accept", "content-type", "range", "if-none-match")


def create_archive(archive: Archive, access: WebAccess, store: ImageStore | None = None) -> Starlette:
    """Return the application; its paths are those of PS3.18, below wherever it is mounted.

    Args:
        archive: what is asked.
        access: who may ask.
        store: takes what is stored over the web; without it nothing is.
    """
    routes = [*qido.routes(archive, access), *wado.routes(archive, access), *stow.routes(archive, access, store)]
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=list(access.origins),
        allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
        allow_headers=list(_ASKED),
        expose_headers=list(_EXPOSED),
        max_age=3600,
    )
    told: tuple[type[Exception], ...] = (
        *(HTTPException, NotAllowedError, BadQueryError),
        *(NotHeldError, FrameError, TransientError),
    )
    return Starlette(
        routes=routes,
        # What is refused and what fails has the headers of the first too, else a page sees no reason.
        middleware=[cross_origin, Middleware(Guard, access=access)],
        exception_handlers=dict.fromkeys(told, _told),
    )


def _told(_request: Request, error: Exception) -> Response:
    return answer_of(error)
