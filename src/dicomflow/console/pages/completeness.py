"""Whether everything arrived: what sources have and edges lack, day by day, as nightly comparisons found it.

No patient data: UIDs, dates of studies and counts.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from dicomflow.bucket.compared import ComparedDay, ComparedSource, Standing, is_late, judge_day, judge_source
from dicomflow.catalog.custody import find_study
from dicomflow.console.edges import Edge, read_edges
from dicomflow.console.page import Context, Page, plain
from dicomflow.errors import TransientError

__all__ = ["compared_day", "completeness"]

_WEEK: Final = timedelta(days=7)
_FEWEST_WEEKS: Final = 5
_WORST_FIRST: Final = (Standing.MISSING, Standing.UNCHECKED, Standing.COMPLETE, Standing.NOTHING)


def completeness(context: Context, _request: Request) -> Page:
    """Show a calendar for each source of each edge: red where something is missing, grey where nobody knows."""
    now = context.clock()
    try:
        edges, problem = read_edges(context.store, now), None
    except TransientError as error:
        edges, problem = [], str(error)
    shown = [_shown(edge, name, source, now) for edge, name, source in _sources(edges)]
    document = {
        "at": now,
        "problem": problem,
        "sources": sorted(shown, key=lambda each: _WORST_FIRST.index(each["standing"])),
        "unread": [{"edge": edge.name, "problem": edge.problem} for edge in edges if edge.heartbeat is None],
    }
    return Page("completeness.html", plain(document))


def compared_day(context: Context, request: Request) -> Page:
    """Show one day of a source: the studies of which something is missing, or nobody knows."""
    names = request.path_params["edge"], request.path_params["source"]
    now, day = context.clock(), _day(request.path_params["day"])
    edges = read_edges(context.store, now)
    found = [(edge, source) for edge, name, source in _sources(edges) if names == (edge.name, name)]
    if not found:
        raise HTTPException(404, "no edge compares itself every night with such a source")
    edge, source = found[0]
    known = next((each for each in source.days if each.day == day), None) if source else None
    lacking = known.lacking if known else ()
    with context.reading() as connection:
        studies = [plain(each) | {"is_known": find_study(connection, each.study) is not None} for each in lacking]
    document = {
        "edge": edge.name,
        "source": names[1],
        "day": day,
        "standing": judge_day(known, source, now),
        "why": _why(day, known, source, now),
        "compared": known,
        "studies": studies,
        "reason": source.reason if source else "",
    }
    return Page("compared_day.html", plain(document))


def _sources(edges: list[Edge]) -> Iterator[tuple[Edge, str, ComparedSource | None]]:
    for edge in edges:
        if edge.heartbeat is not None:
            for name, source in sorted(edge.heartbeat.compared().items()):
                yield edge, name, source


def _shown(edge: Edge, name: str, source: ComparedSource | None, now: datetime) -> dict[str, Any]:
    days = {each.day: each for each in source.days} if source else {}
    undated = source.missing if source and not any(each.missing for each in source.days) else 0
    return {
        "edge": edge.name,
        "is_silent": edge.is_silent,
        "age_seconds": edge.age_seconds,
        "source": name,
        "standing": judge_source(source, now),
        "is_late": is_late(source, now),
        "at": source.at.astimezone(UTC) if source else None,
        "images": source.images if source else None,
        "missing": source.missing if source else None,
        "undated": undated,
        "reason": source.reason if source else "",
        "weeks": _weeks(days, source, now),
    }


def _weeks(days: dict[date, ComparedDay], source: ComparedSource | None, now: datetime) -> list[list[Any]]:
    """Return weeks from Monday on, the present one first; days to come are None."""
    today = max([now.date(), *days])
    monday = today - timedelta(days=today.weekday())
    first = min([monday - (_FEWEST_WEEKS - 1) * _WEEK, *days])
    weeks = []
    while monday + _WEEK > first:
        week = (monday + timedelta(days=number) for number in range(7))
        weeks.append([_cell(day, days.get(day), source, now) if day <= today else None for day in week])
        monday -= _WEEK
    return weeks


def _cell(day: date, known: ComparedDay | None, source: ComparedSource | None, now: datetime) -> dict[str, Any]:
    return {
        "day": day,
        "label": f"{day.day} {day:%b}" if day.day == 1 or day.weekday() == 0 else str(day.day),
        "standing": judge_day(known, source, now),
        "images": known.images if known else None,
        "missing": known.missing if known else None,
    }


def _why(day: date, known: ComparedDay | None, source: ComparedSource | None, now: datetime) -> str:
    """Say in words why a day stands as it does."""
    if known is None:
        return "No comparison has looked at this day."
    match judge_day(known, source, now):
        case Standing.MISSING:
            return "The source has images of this day that are not here."
        case Standing.COMPLETE:
            return "All that the source has of this day is here."
        case Standing.NOTHING:
            return "The source has nothing of this day."
    if not known.is_whole:
        return "The last comparison could not see all of this day."
    if known.at.date() <= day:
        return "The day was not over when it was compared last; the next night looks again."
    return "Nothing was missing when it was compared last, and no comparison has reported since it should have."


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise HTTPException(404, f"{text[:40]!r} is no date") from None
