"""The console as an application: routes, templates, forms, and what stands before them."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from obstore.store import ObjectStore
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dicomflow.archive.pixels.pictures import Pictures
from dicomflow.console.access import Access, Role, check_form, form_token
from dicomflow.console.guard import Guard, Headers, wants_json
from dicomflow.console.history import History
from dicomflow.console.metrics import METRICS_PATH, build_registry
from dicomflow.console.page import Context, Page, Views, positive, require_role
from dicomflow.console.pages import completeness, deleting, files, images, imports, overview, studies, transfers, work
from dicomflow.console.templating import Templates
from dicomflow.console.totals import Totals
from dicomflow.errors import DicomflowError
from dicomflow.pipeline.settings import load_character_sets, load_issuers

__all__ = ["build_context", "create_console"]

_STATIC: Final = Path(__file__).parent / "static"
_MAX_FORM_BYTES: Final = 16 << 10
_SESSION_SECONDS: Final = 43_200
_UID: Final = "{uid}"

ShowPage = Callable[[Context, Request], Page]
Answer = Callable[[Context, Request], Response]


def build_context(
    engine: Engine,
    store: ObjectStore,
    enqueue: Callable[[str, str], None],
    metrics: Mapping[str, Callable[[], str]],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    viewer_port: int | None = None,
) -> Context:
    """Return what the pages are made from.

    Args:
        engine: the catalog; who looks at patients' data is written into it.
        store: the bucket.
        enqueue: sends a message to a queue of the pipeline, by its name.
        metrics: by the edge's name, a function that reads its `/metrics`.
        clock: tells the time.
        viewer_port: where OHIF is served on the same host; None where it is not.
    """
    return Context(
        engine=engine,
        store=store,
        pictures=Pictures(store),
        history=History(engine, store, clock),
        totals=Totals(engine, clock),
        enqueue=enqueue,
        metrics=metrics,
        clock=clock,
        views=Views(),
        viewer_port=viewer_port,
        site_settings=lambda: (load_issuers(), load_character_sets()),
    )


def create_console(context: Context, access: Access, secret: str | None = None) -> Starlette:
    """Return the application; its lifespan must be run for the charts to have a history.

    Args:
        context: what the pages are made from.
        access: who may see them.
        secret: signs the cookies; by default it is made here, and sessions end with the process.
    """
    templates = Templates(access)

    def shows(path: str, make: ShowPage) -> list[BaseRoute]:
        def endpoint(request: Request) -> Response:
            return templates.answer(request, make(context, request))

        return [Route(f"{path}.json", endpoint), Route(path, endpoint)]

    def answers(path: str, make: Answer) -> Route:
        def endpoint(request: Request) -> Response:
            return make(context, request)

        return Route(path, endpoint)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(context.history.follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await run_in_threadpool(context.pictures.close)

    routes: list[BaseRoute] = [
        Route("/", lambda _request: RedirectResponse("/overview", status_code=303)),
        *shows("/overview", overview.overview),
        *shows("/studies", studies.studies),
        *shows("/arrivals", studies.arrivals),
        *shows(f"/studies/{_UID}/send", transfers.ask),
        Route(f"/studies/{_UID}/delete", _delete(context), methods=["POST"]),
        *shows(f"/studies/{_UID}/delete", deleting.ask),
        *shows(f"/studies/{_UID}", studies.study),
        answers(f"/series/{_UID}.zip", files.zipped),
        *shows(f"/series/{_UID}", images.series),
        answers(f"/instances/{_UID}/frames/{{number}}.png", images.frame),
        answers(f"/instances/{_UID}/thumbnail.png", images.thumbnail),
        answers(f"/instances/{_UID}.dcm", files.download),
        *shows(f"/instances/{_UID}/header", files.header),
        *shows(f"/instances/{_UID}", images.instance),
        *shows("/associations", work.associations),
        answers("/imports.csv", imports.table),
        *shows("/imports", imports.imports),
        Route("/imports/retry", _retry(context), methods=["POST"]),
        Route("/imports/{number}/retry", _retry(context), methods=["POST"]),
        *shows("/imports/{number}", imports.import_),
        Route("/transfers", _send_back(context), methods=["POST"]),
        Route("/transfers/{name}/{action:str}", _change_transfer(context), methods=["POST"]),
        *shows("/transfers", transfers.transfers),
        *shows("/transfers/{name}", transfers.transfer),
        *shows("/completeness", completeness.completeness),
        *shows("/completeness/{edge}/{source}/{day}", completeness.compared_day),
        *shows("/edges", work.edges),
        answers("/problems.csv", work.problems_table),
        *shows("/problems", work.problems),
        *shows("/audit", work.audit),
        *_login(context, access, templates),
        _metrics(context),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    cookie = "__Host-dicomflow" if access.is_https else "dicomflow"
    middleware = [
        Middleware(Headers, is_https=access.is_https),
        Middleware(
            SessionMiddleware,
            secret_key=secret or secrets.token_urlsafe(32),
            session_cookie=cookie,
            max_age=_SESSION_SECONDS,
            same_site="strict",
            https_only=access.is_https,
        ),
        Middleware(Guard, access=access),
    ]
    handlers: dict[Any, Any] = {  # keyed by class or status, as Starlette has it
        HTTPException: templates.refuse,
        DicomflowError: templates.fail,
        Exception: _broken,
    }
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


def _metrics(context: Context) -> Route:
    registry = build_registry(context.totals, context.store)

    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Route(METRICS_PATH, metrics)


def _retry(context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        text = request.path_params.get("number")
        number = None if text is None else positive(text, "import")
        return await run_in_threadpool(imports.retry, context, request, number, form)

    return endpoint


def _send_back(context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        return await run_in_threadpool(transfers.send_back, context, request, form)

    return endpoint


def _delete(context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        form = await _form(request, Role.ADMIN)
        return await run_in_threadpool(deleting.delete, context, request, form)

    return endpoint


def _change_transfer(context: Context) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        await _form(request)
        return await run_in_threadpool(transfers.change, context, request)

    return endpoint


def _login(context: Context, access: Access, templates: Templates) -> list[BaseRoute]:
    """Return the routes of the page to log in on, and out; without a file of users there is none."""
    if access.users is None:
        return []

    async def show(request: Request) -> Response:
        after = _own_address(request.query_params.get("next", ""))
        return templates.answer(request, Page("login.html", {"next": after, "mistake": None}))

    async def log_in(request: Request) -> Response:
        form = await _form(request, None)
        user, after = form.get("user", "")[:200], _own_address(form.get("next", ""))
        address = request.client.host if request.client else ""
        names = (f"user {user}", f"address {address}")
        begun = access.attempts.begin(*names)
        if begun is None:
            mistake = "Too many attempts. Wait five minutes."
        elif await run_in_threadpool(access.log_in, request, user, form.get("passcode", "")):
            access.attempts.succeeded(begun, *names)
            request.state.user = f"console:{user}"
            await run_in_threadpool(context.record, request, "log_in", None)
            return RedirectResponse(after, status_code=303)
        else:
            request.state.user = "console"
            await run_in_threadpool(context.record, request, "log_in_refused", None)
            mistake = "Name or passcode is wrong."
        return templates.answer(request, Page("login.html", {"next": after, "mistake": mistake}, 401))

    async def log_out(request: Request) -> Response:
        await _form(request, None)
        access.log_out(request)
        return RedirectResponse("/login", status_code=303)

    return [
        Route("/login", show),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
    ]


async def _form(request: Request, needed: Role | None = Role.OPERATOR) -> dict[str, str]:
    """Return the fields of a form that came from a page of ours, of a user whose role may do it.

    Raises:
        HTTPException: 413, it is too large; 403, its token is not that of the session, or the role is another.
    """
    if needed is not None:
        require_role(request, needed)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, f"a form of more than {_MAX_FORM_BYTES:,} bytes is none of ours")
    fields = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    if not check_form(request, fields.get("csrf", "") or request.headers.get("x-csrf-token", "")):
        raise HTTPException(403, "the form is too old, or came from another site: open the page again")
    form_token(request)
    return fields


def _own_address(text: str) -> str:
    """Return an address to go on to, of our own site only."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_own and not text.startswith("/login") else "/overview"


async def _broken(request: Request, _error: Exception) -> Response:
    """Answer what must not happen without a word of the error; it is in the log."""
    if wants_json(request):
        return JSONResponse({"error": "internal error"}, status_code=500)
    return PlainTextResponse("internal error: see the console's log\n", status_code=500)
