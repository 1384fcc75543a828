"""Finding studies, and one study with all that is known of it. Patient data: each look is in the audit trail."""

from datetime import date, datetime
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import Row
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dicomflow.archive.web.ohif import viewer_path
from dicomflow.catalog.audit import page_of_audit_events
from dicomflow.catalog.conflicts import KINDS
from dicomflow.catalog.custody import (
    conflicts_of_study,
    deliveries_of_study,
    find_study,
    image_sets_of_study,
    imports_of_study,
    middles_of_study,
    problems_of_study,
    series_of_study,
)
from dicomflow.catalog.import_pages import about_studies
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.senders import list_deliveries
from dicomflow.catalog.states import SHOWN, SeriesState
from dicomflow.catalog.transfers import list_transfers
from dicomflow.console.page import Context, Page, decode_key, encode_key, plain

__all__ = ["arrivals", "studies", "study"]

PAGE_ROWS: Final = 25
_AUDIT_ROWS: Final = 20
_TRANSFERS: Final = 10
_TEXTS: Final = {
    "name": "patient_name",
    "patient_id": "patient_id",
    "accession": "accession_number",
    "uid": "study_instance_uid",
    "modality": "modality",
}
_DATES: Final = {"first": "first_date", "last": "last_date"}


def studies(context: Context, request: Request) -> Page:
    """Show the studies that fit what is asked for, the latest first."""
    asked = {name: request.query_params.get(name, "").strip() for name in (*_TEXTS, *_DATES, "status")}
    wanted, mistakes = _filter(asked)
    after = decode_key(request.query_params.get("after"), str, int)
    if mistakes:
        empty: dict[str, object] = {"asked": asked, "mistakes": mistakes, "studies": [], "next": None, "first": None}
        return Page("studies.html", empty, 400)
    with context.reading() as connection:
        found = search_studies(connection, wanted, after=after, limit=PAGE_ROWS)
    given = sorted(name for name, value in asked.items() if value)
    if given and after is None:
        context.record(request, "search_studies", None, {"by": given, "found": len(found.studies)})
    next_key = encode_key(found.next_key)
    kept = {name: value for name, value in asked.items() if value}
    document = {
        "asked": asked,
        "mistakes": {},
        "studies": [
            {name: value for name, value in plain(each).items() if name not in {"study_key", "patient_key"}}
            for each in found.studies
        ],
        "next": None if next_key is None else "/studies?" + urlencode(kept | {"after": next_key}),
        "first": None if after is None else "/studies?" + urlencode(kept),
    }
    return Page("studies.html", document)


def arrivals(context: Context, request: Request) -> Page:
    """Show what came last: deliveries, the latest first, each with its studies, their patients and who sent them."""
    after = decode_key(request.query_params.get("after"), datetime, str)
    with context.reading() as connection:
        found = list_deliveries(connection, after=after, limit=PAGE_ROWS)
        uids = {uid for each in found.deliveries for uid in each.study_instance_uids}
        about = {uid: plain(row) for uid, row in about_studies(connection, uids).items()}
    rows = [
        plain(each)
        | {"studies": [{"study_instance_uid": uid} | about.get(uid, {}) for uid in each.study_instance_uids]}
        for each in found.deliveries
    ]
    next_key = encode_key(found.next_key)
    document = {
        "arrivals": rows,
        "next": None if next_key is None else "/arrivals?" + urlencode({"after": next_key}),
        "first": None if after is None else "/arrivals",
    }
    return Page("arrivals.html", document)


def study(context: Context, request: Request) -> Page:
    """Show one study: series, how they came, imports, conflicts, and who has looked at it."""
    uid = request.path_params["uid"]
    with context.reading() as connection:
        found = find_study(connection, uid)
        if found is None:
            raise HTTPException(404, "the catalog has no such study")
        series = series_of_study(connection, found.study_key)
        middles = middles_of_study(connection, found.study_key)
        shown = [_series(row, middles.get(row.series_key)) for row in series]
        image_sets = image_sets_of_study(connection, found.study_key)
        imports = imports_of_study(connection, uid)
        document = {
            "study": found,
            "series": shown,
            "imports": imports,
            "image_sets": image_sets,
            "deliveries": deliveries_of_study(connection, uid),
            "conflicts": [
                plain(each) | {"meaning": KINDS[each.kind]}
                for each in conflicts_of_study(connection, found.study_key, uid)
            ],
            "problems": problems_of_study(connection, uid),
            "transfers": [each.document() for each in list_transfers(connection, uid=uid, limit=_TRANSFERS)],
            "viewer_url": context.viewer_url(request, viewer_path(uid)),
            "audit": page_of_audit_events(connection, uid=uid, actor=None, before=None, limit=_AUDIT_ROWS)[0],
        }
    context.record_view(request, "view_study", uid)
    return Page("study.html", plain(document))


def _series(row: Row[Any], middle: Row[Any] | None) -> dict[str, Any]:
    """Return a series with the instance in its middle, which stands for it."""
    thumbnail = middle.sop_instance_uid if middle is not None and middle.rows else None
    shown: dict[str, Any] = plain(row)
    return shown | {"thumbnail": thumbnail}


def _filter(asked: dict[str, str]) -> tuple[StudyFilter, dict[str, str]]:
    """Return the filter, and what of the form is no date or status."""
    values: dict[str, Any] = {column: asked[name] for name, column in _TEXTS.items() if asked[name]}
    if "modality" in values:
        values["modality"] = values["modality"].upper()
    mistakes: dict[str, str] = {}
    for name, column in _DATES.items():
        if asked[name]:
            try:
                values[column] = date.fromisoformat(asked[name])
            except ValueError:
                mistakes[name] = "is no date: write it as 2026-01-31"
    if asked["status"]:
        if asked["status"] in set(SHOWN):
            values["status"] = SeriesState(asked["status"])
        else:
            mistakes["status"] = f"is none of {', '.join(SHOWN)}"
    return StudyFilter(**values), mistakes
