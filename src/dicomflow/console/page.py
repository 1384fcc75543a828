"""What a page is: a document, which its JSON twin shows as it stands and its template shows to people.

Owns the context that pages are made from, the keys of pages, and the audit of who looked. Knows no HTML.
"""

import base64
import binascii
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

from obstore.store import ObjectStore
from sqlalchemy import Connection, Engine, Row
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dicomflow.archive.pixels.pictures import Pictures
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.engine import begin_read
from dicomflow.console.access import Role
from dicomflow.console.history import History
from dicomflow.console.totals import Totals

__all__ = ["Context", "Page", "Views", "decode_key", "encode_key", "plain", "positive", "require_role"]

_MAX_REMEMBERED: Final = 10_000
_MAX_KEY_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class Page:
    """A document and the template that shows it."""

    template: str
    document: dict[str, Any]
    status: int = 200


class Views:
    """Remembers who has looked at what of late, so that a look is one row of the audit and not one a frame.

    Threads: any.
    """

    def __init__(self, again_seconds: float = 3600.0) -> None:
        self._again_seconds = again_seconds
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str, str], datetime] = OrderedDict()

    def is_new(self, now: datetime, user: str, action: str, uid: str) -> bool:
        """Tell whether this look is to be recorded."""
        key = user, action, uid
        with self._lock:
            last = self._seen.pop(key, None)
            is_new = last is None or (now - last).total_seconds() >= self._again_seconds
            self._seen[key] = now if last is None or is_new else last
            if len(self._seen) > _MAX_REMEMBERED:
                self._seen.popitem(last=False)
        return is_new


@dataclass(frozen=True, slots=True)
class Context:
    """What pages are made from; `enqueue` sends to a queue of the pipeline, `metrics` reads edges' counters.

    `viewer_port` is where OHIF is served on the same host.
    """

    engine: Engine
    store: ObjectStore
    pictures: Pictures
    history: History
    totals: Totals
    enqueue: Callable[[str, str], None]
    metrics: Mapping[str, Callable[[], str]]
    clock: Callable[[], datetime]
    views: Views
    # Issuers and character sets as the pipeline has them, for objects that are read again.
    site_settings: Callable[[], tuple[Mapping[str, str], Mapping[str, str]]]
    viewer_port: int | None = None

    def viewer_url(self, request: Request, path: str) -> str | None:
        """Return a path of the viewer as an address; None where there is no viewer."""
        if self.viewer_port is None:
            return None
        host = request.url.hostname or ""
        named = f"[{host}]" if ":" in host else host
        return f"{request.url.scheme}://{named}:{self.viewer_port}{path}"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        with begin_read(self.engine) as connection:
            yield connection

    def record(self, request: Request, action: str, uid: str | None, details: Mapping[str, Any] | None = None) -> None:
        """Add to the audit trail what a user does."""
        with self.engine.begin() as connection:
            record_audit_event(
                connection, self.clock(), actor=request.state.user, action=action, uid=uid, details=details or {}
            )

    def record_view(self, request: Request, action: str, uid: str) -> None:
        """Add to the audit trail that a user looks at a patient's data, unless it is there from a little while ago."""
        if self.views.is_new(self.clock(), request.state.user, action, uid):
            self.record(request, action, uid)


def require_role(request: Request, needed: Role) -> None:
    """Refuse what the user's role may not do.

    Raises:
        HTTPException: 403, the text names both roles.
    """
    if not request.state.role.may(needed):
        raise HTTPException(403, f"this needs the role {needed}, and yours is {request.state.role}")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: rows and dataclasses as objects, times as ISO 8601."""
    match value:
        case Row():
            return {name: plain(item) for name, item in value._mapping.items()}  # noqa: SLF001  # SQLAlchemy's public name
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():  # what PostgreSQL makes of the sum of a bigint
            return int(value) if value == value.to_integral_value() else float(value)
        case float() if not math.isfinite(value):
            return None  # JSON has no such number (RFC 8259 6)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return plain(asdict(value))
        case _:
            return value


def encode_key(key: tuple[Any, ...] | None) -> str | None:
    """Return the key of a page as text for an address."""
    if key is None:
        return None
    parts = [part.isoformat() if isinstance(part, datetime) else part for part in key]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def decode_key(text: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """Return the key that a text stands for.

    Raises:
        HTTPException: 400, the text is no key with parts of these kinds.
    """
    if not text:
        return None
    try:
        if len(text) > _MAX_KEY_CHARACTERS:
            raise ValueError("too long")  # noqa: TRY301  # wrapped like all others
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        found = tuple(_key_part(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise HTTPException(400, "this is no page; start from the first") from error
    return found


def positive(text: str, name: str) -> int:
    """Return a number of an address.

    Raises:
        HTTPException: 404, it is none that a row could have.
    """
    if not text.isdecimal() or len(text) > 18 or not text.isascii():
        raise HTTPException(404, f"there is no {name} {text[:40]!r}")
    return int(text)


def _key_part(part: Any, kind: type) -> Any:
    """Return a part of a key that a statement can take.

    Raises:
        ValueError: it is of another kind, or nothing that a row could have.
    """
    if kind is datetime:
        moment = datetime.fromisoformat(part)
        if moment.tzinfo is None:
            raise ValueError("a time without a time zone")
        return moment
    is_huge = isinstance(part, int) and abs(part) >= 1 << 63
    if type(part) is not kind or is_huge or (isinstance(part, str) and "\0" in part):
        raise ValueError(f"{type(part).__name__} in the place of {kind.__name__}")
    if isinstance(part, str):
        part.encode()  # half of a surrogate pair is no text
    return part
