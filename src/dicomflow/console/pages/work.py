"""What the system does: senders and deliveries, edges, problems, and the audit trail.

No patient data: UIDs, AE titles and numbers.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from dicomflow.catalog.audit import page_of_audit_events
from dicomflow.catalog.conflicts import KINDS, list_conflicts, list_problems
from dicomflow.catalog.senders import list_deliveries, list_senders
from dicomflow.console.counters import read_counters
from dicomflow.console.edges import LOW_BYTES, read_edges
from dicomflow.console.page import Context, Page, decode_key, encode_key, plain
from dicomflow.console.pages.imports import as_csv
from dicomflow.errors import TransientError

__all__ = ["associations", "audit", "edges", "problems", "problems_table"]

PAGE_ROWS: Final = 50
_DAYS: Final = (1, 7, 30)
_CONFLICTS: Final = 100
_CSV_ROWS: Final = 10_000
_MAX_TEXT: Final = 200


def associations(context: Context, request: Request) -> Page:
    """Show who sends what, how fast, what was refused and why."""
    text = request.query_params.get("days", "7")
    days = int(text) if text in {str(each) for each in _DAYS} else 7
    after = decode_key(request.query_params.get("after"), datetime, str)
    with context.reading() as connection:
        senders = list_senders(connection, context.clock() - timedelta(days=days))
        found = list_deliveries(connection, after=after, limit=PAGE_ROWS)
    document = {
        "days": days,
        "choices": _DAYS,
        "senders": senders,
        "counters": [read_counters(name, read) for name, read in sorted(context.metrics.items())],
        "deliveries": found.deliveries,
        "next": _next("/associations", {"days": days}, encode_key(found.next_key)),
        "is_first": after is None,
    }
    return Page("associations.html", plain(document))


def edges(context: Context, _request: Request) -> Page:
    """Show each edge: when it was last heard of, its spool, free space and version."""
    now = context.clock()
    try:
        found, problem = read_edges(context.store, now), None
    except TransientError as error:
        found, problem = [], str(error)
    rows = [plain(edge) | {"waiting": edge.waiting} for edge in found]
    return Page("edges.html", plain({"at": now, "edges": rows, "problem": problem, "low_bytes": LOW_BYTES}))


def problems(context: Context, request: Request) -> Page:
    """Show objects that cannot be indexed, and what contradicts itself."""
    (after,) = decode_key(request.query_params.get("after"), str) or ("",)
    text = request.query_params.get("q", "").strip()[:_MAX_TEXT]
    with context.reading() as connection:
        found = list_problems(connection, having=text, after=after, limit=PAGE_ROWS + 1)
        conflicts = list_conflicts(connection, limit=_CONFLICTS)
    shown = found[:PAGE_ROWS]
    next_key = encode_key((shown[-1].object_key,)) if len(found) > PAGE_ROWS else None
    document = {
        "text": text,
        "problems": shown,
        "csv": "/problems.csv" + (f"?{urlencode({'q': text})}" if text else ""),
        "conflicts": [plain(each) | {"meaning": KINDS[each.kind]} for each in conflicts],
        "limit": _CONFLICTS,
        "next": _next("/problems", {"q": text} if text else {}, next_key),
        "is_first": not after,
    }
    return Page("problems.html", plain(document))


def problems_table(context: Context, request: Request) -> Response:
    """Answer the objects with a problem as CSV, up to ten thousand."""
    text = request.query_params.get("q", "").strip()[:_MAX_TEXT]
    with context.reading() as connection:
        found = list_problems(connection, having=text, limit=_CSV_ROWS)
    rows = [plain(each) for each in found]
    context.record(request, "export_problems", None, {"rows": len(rows)})
    return as_csv("problems", ("reason", "object_key", "edge", "bytes", "stored_at"), rows)


def audit(context: Context, request: Request) -> Page:
    """Show who did what, the latest first."""
    uid = request.query_params.get("uid", "").strip()
    actor = request.query_params.get("actor", "").strip()
    (before,) = decode_key(request.query_params.get("after"), int) or (None,)
    with context.reading() as connection:
        rows, last = page_of_audit_events(
            connection, uid=uid or None, actor=actor or None, before=before, limit=PAGE_ROWS
        )
    kept = {name: value for name, value in (("uid", uid), ("actor", actor)) if value}
    document = {
        "uid": uid,
        "actor": actor,
        "events": rows,
        "next": _next("/audit", kept, encode_key(None if last is None else (last,))),
        "is_first": before is None,
    }
    return Page("audit.html", plain(document))


def _next(path: str, kept: dict[str, Any], key: str | None) -> str | None:
    return None if key is None else f"{path}?{urlencode(kept | {'after': key}, doseq=True)}"
