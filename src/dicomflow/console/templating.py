"""From a page's document to HTML or JSON; how numbers, times and names are written."""

import json
from datetime import UTC, datetime, time
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from dicomflow import __version__
from dicomflow.catalog import states
from dicomflow.console.access import Access, Role, form_token
from dicomflow.console.guard import wants_json
from dicomflow.console.page import Page
from dicomflow.errors import DicomflowError

__all__ = ["Templates"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_DASH: Final = "–"  # noqa: RUF001  # as it is printed
_PAGES: Final = (
    ("/overview", "Overview", "gauge"),
    ("/studies", "Studies", "search"),
    ("/associations", "Associations", "send"),
    ("/imports", "Imports", "import"),
    ("/transfers", "Transfers", "send"),
    ("/completeness", "Completeness", "check"),
    ("/edges", "Edges", "edge"),
    ("/problems", "Problems", "alert"),
    ("/audit", "Audit", "list"),
)


class Templates:
    """Answers pages. Threads: any."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._environment = Environment(
            loader=PackageLoader("dicomflow.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["states"] = states
        self._environment.filters |= {
            "number": _number,
            "size": _size,
            "moment": _moment,
            "clock": _clock,
            "seconds": _seconds,
            "short": _short,
            "person": _person,
            "words": lambda text: str(text).replace("_", " "),
            "tail": lambda uid: uid if len(uid or "") <= 18 else f"…{uid[-16:]}",
            "compact": lambda value: json.dumps(value, ensure_ascii=False),
        }

    def answer(self, request: Request, page: Page) -> Response:
        """Return a page, or its JSON twin where that is asked for."""
        if wants_json(request):
            return JSONResponse(page.document, status_code=page.status)
        user, role = request.state.user, getattr(request.state, "role", Role.VIEWER)
        shared = {
            "path": request.url.path,
            "pages": _PAGES,
            "user": None if user is None else user.removeprefix("console:"),
            "can_log_out": self._access.users is not None and user is not None,
            "token": form_token(request),
            "version": __version__,
            "status": page.status,
            "role": role,
            "may": {each.value: role.may(each) for each in Role},
            "has_pages": user is not None and page.template != "login.html",
        }
        template = self._environment.get_template(page.template)
        return HTMLResponse(template.render(page=page.document, **shared), status_code=page.status)

    async def refuse(self, request: Request, error: HTTPException) -> Response:
        """Answer what is not there or not allowed."""
        if wants_json(request):
            return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
        if not hasattr(request.state, "user"):
            request.state.user = None
        return self.answer(request, Page("error.html", {"error": error.detail}, error.status_code))

    async def fail(self, request: Request, error: DicomflowError) -> Response:
        """Answer that catalog or store cannot be used now."""
        return await self.refuse(request, HTTPException(503, str(error)))


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _short(value: float | None) -> str:
    """Write a number in four characters."""
    if value is None:
        return ""
    if value < 1000:
        return f"{value:.0f}"
    value, unit = (value / 1000, "k") if value < 999_500 else (value / 1e6, "M")
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def _size(value: float | None) -> str:
    if value is None:
        return _DASH
    amount, unit = float(value), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:,.0f} {_UNITS[unit]}" if not unit or amount >= 100 else f"{amount:.1f} {_UNITS[unit]}"


def _moment(value: str | None) -> str:
    """Write a point in time to the second, in UTC; `times.js` makes it the viewer's own time, with UTC in the title."""
    if value is None:
        return _DASH
    at = datetime.fromisoformat(value)
    utc = at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), utc.strftime("%Y-%m-%d %H:%M:%S"))


def _clock(value: str | None) -> str:
    return "" if value is None else time.fromisoformat(value).strftime("%H:%M")


def _seconds(value: float | None) -> str:
    """Write a length of time in the unit that suits it."""
    if value is None:
        return _DASH
    for limit, per, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if value < limit:
            return f"{value / per:.0f} {unit}"
    return f"{value / 86_400:.0f} d"


def _person(value: str | None) -> str:
    """Write a person's name whole: family, prefix and given names, suffix; other scripts behind (PS3.5 6.2.1)."""
    if not value:
        return _DASH
    written = []
    for group in value.split("="):
        family, given, middle, prefix, suffix = (part.strip() for part in f"{group}^^^^".split("^")[:5])
        names = " ".join(part for part in (prefix, given, middle) if part)
        if name := ", ".join(part for part in (family, names, suffix) if part):
            written.append(name)
    return " · ".join(dict.fromkeys(written)) or _DASH
