"""What the system does: senders and deliveries, imports and their retry, edges, problems, and the audit trail.

No patient data: UIDs, AE titles and numbers.
"""

import json
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicomflow.catalog.activity import count_states
from dicomflow.catalog.audit import page_of_audit_events, record_audit_event
from dicomflow.catalog.conflicts import KINDS, list_conflicts, list_problems
from dicomflow.catalog.import_pages import jobs_of_series, page_of_imports, reasons_of_imports
from dicomflow.catalog.imports import find_series, retry_series
from dicomflow.catalog.outcomes import outcomes_of_series
from dicomflow.catalog.senders import list_deliveries, list_senders
from dicomflow.catalog.states import RETRIED, RETRYABLE, SeriesState
from dicomflow.console.counters import read_counters
from dicomflow.console.edges import LOW_BYTES, read_edges
from dicomflow.console.guard import wants_json
from dicomflow.console.page import Context, Page, decode_key, encode_key, plain, positive
from dicomflow.errors import TransientError
from dicomflow.pipeline.wakeups import DRIVE_QUEUE

__all__ = ["associations", "audit", "edges", "import_", "imports", "problems", "retry"]

PAGE_ROWS: Final = 50
_DAYS: Final = (1, 7, 30)
_CONFLICTS: Final = 100


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


def imports(context: Context, request: Request) -> Page:
    """Show the import queue: what waits, runs, is in, and has failed with its reasons."""
    states = [_state(name) for name in request.query_params.getlist("state") if name]
    after = decode_key(request.query_params.get("after"), datetime, int)
    with context.reading() as connection:
        counts = count_states(connection)
        found = page_of_imports(connection, states or None, after=after, limit=PAGE_ROWS)
        reasons = reasons_of_imports(connection, [row.series_import_id for row in found.rows])
    rows = [
        plain(row) | {"reasons": reasons.get(row.series_import_id, []), "can_retry": row.state in RETRYABLE}
        for row in found.rows
    ]
    document = {
        "states": states,
        "counts": {state: counts.get(state, 0) for state in SeriesState},
        "imports": rows,
        "next": _next("/imports", {"state": states}, encode_key(found.next_key)),
        "is_first": after is None,
        "retried": _number(request.query_params.get("retried")),
    }
    return Page("imports.html", plain(document))


def import_(context: Context, request: Request) -> Page:
    """Show one import: its jobs, and what became of each instance."""
    number = positive(request.path_params["number"], "import")
    with context.reading() as connection:
        rows = find_series(connection, str(number))
        if not rows:
            raise HTTPException(404, f"there is no import {number}")
        row = rows[0]
        outcomes = outcomes_of_series(connection, row)
        jobs = jobs_of_series(connection, number)
    document = {
        "import": plain(row) | {"can_retry": row.state in RETRYABLE},
        "jobs": jobs,
        "instances": outcomes,
        "retried": _number(request.query_params.get("retried")),
    }
    return Page("import.html", plain(document))


def retry(context: Context, request: Request, number: int | None) -> Response:
    """Queue one import again, or all that have failed; the form is checked before this."""
    now = context.clock()
    with context.engine.begin() as connection:
        states = RETRYABLE if number is not None else RETRIED
        queued = retry_series(connection, now, states, None if number is None else [number])
        if number is not None and not queued:
            raise HTTPException(409, f"import {number} is not failed, partial or disabled")
        rows = find_series(connection, str(number)) if number is not None else []
        record_audit_event(
            connection,
            now,
            actor=request.state.user,
            action="retry_imports",
            uid=rows[0].series_instance_uid if rows else None,
            details={"imports": queued[:PAGE_ROWS], "series": len(queued)},
        )
    if queued:
        context.enqueue(DRIVE_QUEUE, json.dumps({"reason": "retry"}))
    if wants_json(request):
        return JSONResponse({"queued": queued})
    back = "/imports" if number is None else f"/imports/{number}"
    return RedirectResponse(f"{back}?retried={len(queued)}", status_code=303)


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
    with context.reading() as connection:
        found = list_problems(connection, after=after, limit=PAGE_ROWS + 1)
        conflicts = list_conflicts(connection, limit=_CONFLICTS)
    shown = found[:PAGE_ROWS]
    next_key = encode_key((shown[-1].object_key,)) if len(found) > PAGE_ROWS else None
    document = {
        "problems": shown,
        "conflicts": [plain(each) | {"meaning": KINDS[each.kind]} for each in conflicts],
        "limit": _CONFLICTS,
        "next": _next("/problems", {}, next_key),
        "is_first": not after,
    }
    return Page("problems.html", plain(document))


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


def _state(name: str) -> SeriesState:
    try:
        return SeriesState(name)
    except ValueError as error:
        raise HTTPException(400, f"there is no state {name[:40]!r}") from error


def _next(path: str, kept: dict[str, Any], key: str | None) -> str | None:
    return None if key is None else f"{path}?{urlencode(kept | {'after': key}, doseq=True)}"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None
