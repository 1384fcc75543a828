"""The import queue: whose series waits, runs, is in, or has failed and why; searched, retried, and given as CSV.

Shows patients, as the list of studies does: a search and an export are in the audit trail.
"""

import csv
import io
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicomflow.catalog.activity import count_states
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.import_pages import (
    about_studies,
    count_reasons,
    failed_for,
    jobs_of_series,
    page_of_imports,
    reasons_of_imports,
    senders_of_deliveries,
)
from dicomflow.catalog.imports import find_series, retry_series
from dicomflow.catalog.outcomes import outcomes_of_series
from dicomflow.catalog.states import RETRIED, RETRYABLE, SeriesState
from dicomflow.console.guard import wants_json
from dicomflow.console.page import Context, Page, decode_key, encode_key, plain, positive
from dicomflow.pipeline.wakeups import DRIVE_QUEUE

__all__ = ["as_csv", "import_", "imports", "retry", "table"]

PAGE_ROWS: Final = 50
_CSV_ROWS: Final = 10_000
_MAX_TEXT: Final = 200
_ABOUT: Final = ("patient_name", "patient_id", "study_date", "study_description", "accession_number")
_COLUMNS: Final = (
    *("series_import_id", "state", *_ABOUT, "study_instance_uid", "series_instance_uid", "senders", "object_count"),
    *("bytes", "attempts", "updated_at", "message", "reasons"),
)


def imports(context: Context, request: Request) -> Page:
    """Show a page of the queue, the series of a study together, the latest change first."""
    states, text = _asked(request)
    after = decode_key(request.query_params.get("after"), datetime, int)
    rows, next_key, counts, reasons = _read(context, states, text, after, PAGE_ROWS)
    if text and after is None:
        context.record(request, "search_imports", None, {"found": len(rows)})
    kept: dict[str, Any] = {"state": [str(each) for each in states]} | ({"q": text} if text else {})
    query = urlencode(kept, doseq=True)
    document = {
        "states": states,
        "text": text,
        "counts": {state: counts.get(state, 0) for state in SeriesState},
        "reasons": [{"reason": reason, "series": count} for reason, count in reasons],
        "imports": _together(rows),
        "next": None if next_key is None else f"/imports?{urlencode(kept | {'after': next_key}, doseq=True)}",
        "csv": "/imports.csv" + (f"?{query}" if query else ""),
        "is_first": after is None,
        "retried": _number(request.query_params.get("retried")),
    }
    return Page("imports.html", plain(document))


def table(context: Context, request: Request) -> Response:
    """Answer what a search finds as CSV, up to ten thousand rows."""
    states, text = _asked(request)
    rows, *_ = _read(context, states, text, None, _CSV_ROWS)
    context.record(request, "export_imports", None, {"rows": len(rows)})
    return as_csv("imports", _COLUMNS, rows)


def as_csv(name: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> Response:
    """Return rows as a file for a spreadsheet, in which no value is a formula."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    # With a mark of its encoding, or spreadsheets take it for another.
    return Response("\ufeff" + written.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


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


def retry(context: Context, request: Request, number: int | None, form: Mapping[str, str]) -> Response:
    """Queue one import again, those that failed for a reason, or all that failed; the form is checked before this."""
    now, reason = context.clock(), form.get("reason", "")
    with context.engine.begin() as connection:
        states = RETRYABLE if number is not None else RETRIED
        wanted = [number] if number is not None else failed_for(connection, reason) if reason else None
        queued = retry_series(connection, now, states, wanted)
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


def _asked(request: Request) -> tuple[list[SeriesState], str]:
    states = [_state(name) for name in request.query_params.getlist("state") if name]
    return states, request.query_params.get("q", "").strip()[:_MAX_TEXT]


def _read(
    context: Context, states: list[SeriesState], text: str, after: Any, limit: int
) -> tuple[list[dict[str, Any]], str | None, Mapping[str, int], list[tuple[str, int]]]:
    with context.reading() as connection:
        counts = count_states(connection)
        found = page_of_imports(connection, states or None, text=text, after=after, limit=limit)
        reasons = reasons_of_imports(connection, [row.series_import_id for row in found.rows])
        about = about_studies(connection, {row.study_instance_uid for row in found.rows})
        senders = senders_of_deliveries(connection, {row.delivery_id for row in found.rows})
        common = count_reasons(connection) if counts.keys() & set(RETRIED) else []
    rows = []
    for row in found.rows:
        known = about.get(row.study_instance_uid)
        rows.append(
            plain(row)
            | {name: plain(getattr(known, name, None)) for name in _ABOUT}
            | {"senders": senders.get(row.delivery_id, []), "reasons": reasons.get(row.series_import_id, [])}
            | {"can_retry": row.state in RETRYABLE}
        )
    return rows, encode_key(found.next_key), counts, common


def _together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with those of a study one after the other, where the first of them was."""
    by_study: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_study.setdefault(row["study_instance_uid"], []).append(row)
    return [row for together in by_study.values() for row in together]


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case list() if value and isinstance(value[0], list | tuple):
            return "; ".join(f"{count} x {reason}" for reason, count in value)
        case list():
            return ", ".join(map(str, value))
        case str() if value.startswith(("=", "+", "-", "@", "\t", "\r")):
            return f"'{value}"
        case _:
            return str(value)


def _state(name: str) -> SeriesState:
    try:
        return SeriesState(name)
    except ValueError as error:
        raise HTTPException(400, f"there is no state {name[:40]!r}") from error


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None
