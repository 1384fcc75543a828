"""The overview: what went through in the last hour, what waits, and what needs attention first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.requests import Request

from dicomflow.bucket.compared import Standing, is_late, judge_source
from dicomflow.catalog.activity import Backlog, activity_since, count_states, read_backlog
from dicomflow.catalog.states import SeriesState
from dicomflow.console.edges import LOW_BYTES, Edge, read_edges
from dicomflow.console.page import Context, Page, plain
from dicomflow.console.totals import Counted
from dicomflow.errors import TransientError

__all__ = ["Concern", "find_concerns", "overview"]

MINUTES: Final = 60
_LATE: Final = timedelta(minutes=30)
_OLD_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Concern:
    """Something an operator should look at: `level` is `bad` or `warn`."""

    level: str
    title: str
    advice: str
    href: str


def overview(context: Context, _request: Request) -> Page:
    """Show how it goes."""
    now = context.clock()
    edges, store_problem = _edges(context, now)
    with context.reading() as connection:
        activity = activity_since(connection, now, MINUTES)
        backlog = read_backlog(connection, now)
        states = count_states(connection)
    counted = context.totals.read()
    concerns = find_concerns(edges, backlog, states, counted, now)
    if store_problem is not None:
        concerns.insert(0, Concern("bad", store_problem, "Edges and images cannot be shown until it does.", "/edges"))
    document = {
        "at": now,
        "counts": counted.counts,
        "flow": {
            "received": _line(context.history.received(activity.first, MINUTES))
            | {"is_known": context.history.has_received},
            "delivered": _line(activity.delivered),
            "indexed": _line(activity.indexed),
            "imported": _line(activity.imported),
        },
        "first": activity.first,
        "delivered_bytes": sum(activity.delivered_bytes),
        "backlog": {
            "to_deliver": sum(edge.waiting for edge in edges),
            "to_index": backlog.objects_to_index,
            "to_import": backlog.instances_queued + backlog.instances_in_progress,
        },
        "queue": backlog,
        "imports": states,
        "samples": context.history.document(),
        "edges": {"all": len(edges), "silent": sum(edge.is_silent for edge in edges)},
        "concerns": concerns,
    }
    return Page("overview.html", plain(document))


def find_concerns(
    edges: list[Edge], backlog: Backlog, states: Mapping[str, int], counted: Counted, now: datetime
) -> list[Concern]:
    """Return what needs attention, the worst first."""
    found = [
        *_of_hidden(states),
        *_of_edges(edges, now),
        *_of_imports(backlog, states, now),
        *_of_objects(backlog, counted),
    ]
    return sorted(found, key=lambda concern: concern.level != "bad")


def _of_edges(edges: list[Edge], now: datetime) -> Iterator[Concern]:
    for edge in edges:
        for level, what, advice in _of_edge(edge):
            yield Concern(level, f"Edge {edge.name} {what}", advice, "/edges")
        for level, what, advice in _of_sources(edge, now):
            yield Concern(level, f"Edge {edge.name} {what}", advice, "/completeness")


def _of_edge(edge: Edge) -> Iterator[tuple[str, str, str]]:
    """Yield level, what it does, and advice."""
    told = edge.heartbeat
    if told is None:
        yield "bad", "cannot be read", edge.problem or ""
        return
    if edge.is_silent:
        minutes = round((edge.age_seconds or 0.0) / 60)
        advice = "Is it running, and can it reach the store? It keeps receiving while it cannot."
        yield "bad", f"is silent for {minutes:,} minutes", advice
    if told.quarantined:
        advice = "On the edge, dicomflow spool list says why, and dicomflow spool retry tries again."
        yield "bad", f"holds {told.quarantined:,} instances it cannot deliver", advice
    if told.set_aside:
        advice = "On the edge, dicomflow spool list says which and why. Everything else goes on."
        yield "bad", f"cannot read {told.set_aside:,} files or folders of its spool", advice
    for destination in told.waiting:
        if destination.oldest_seconds >= _OLD_SECONDS:
            minutes = round(destination.oldest_seconds / 60)
            what = f"has {destination.instances:,} images for {destination.name}, the oldest for {minutes:,} minutes"
            advice = "Is it there, and does it take them? Everything else goes on; the edge's log has what it answers."
            yield "warn", what, advice
    if told.undelivered_reports:
        advice = "On the edge, dicomflow commitments list says why, and dicomflow commitments retry tries again."
        yield "warn", f"gave up {told.undelivered_reports:,} storage commitment reports", advice
    if told.is_shared:
        advice = "Two edges have this name. No image is lost, but both hear and send what is meant for one: rename one."
        yield "bad", "is not the only one of its name", advice
    if told.is_full:
        advice = "What it holds is stored on, and makes room. Free space on its volume."
        yield "bad", "refuses images: its disk is full", advice
    elif told.free_bytes < LOW_BYTES:
        yield "warn", f"has {told.free_bytes / 1e9:.1f} GB left", "It slows senders down, and refuses them at last."
    if told.oldest_seconds > _OLD_SECONDS:
        minutes = round(told.oldest_seconds / 60)
        yield "warn", f"has had instances for {minutes:,} minutes", "Its line to the store is slow or down."


def _of_sources(edge: Edge, now: datetime) -> Iterator[tuple[str, str, str]]:
    """Yield level, what nightly comparisons found, and advice."""
    for name, source in edge.heartbeat.compared().items() if edge.heartbeat else ():
        advice = f"dicomflow pull {name} --nightly on the edge has the studies. It tries again each night."
        standing = judge_source(source, now)
        if source is not None and standing is Standing.MISSING:
            what = f"lacks {source.missing:,} of {source.images:,} images that {name} has of the last days"
            yield "bad", what, advice
        elif source is None:
            yield "warn", f"has not compared itself with {name} yet", "It does so every night."
        elif is_late(source, now):
            yield "warn", f"has not compared itself with {name} since {source.at:%Y-%m-%d %H:%M}", advice
        elif standing is Standing.UNCHECKED:
            yield "warn", f"could not compare all of the last days with {name}", source.reason or advice


def _of_hidden(states: Mapping[str, int]) -> Iterator[Concern]:
    """Yield what is thought to be done, and is not: somebody looks for these images and finds none."""
    if hidden := states.get(SeriesState.HIDDEN, 0):
        title = f"{hidden:,} series imported that no viewer shows"
        advice = "The image sets are not primary: dicomflow imports repair makes one visible."
        yield Concern("bad", title, advice, f"/imports?state={SeriesState.HIDDEN}")


def _of_imports(backlog: Backlog, states: Mapping[str, int], now: datetime) -> list[Concern]:
    found = []
    failed, partial = states.get(SeriesState.FAILED, 0), states.get(SeriesState.PARTIAL, 0)
    if failed or partial:
        title = f"{failed + partial:,} series {'is' if failed + partial == 1 else 'are'} not in, or not whole"
        advice = "Each has its reason, and can be tried again."
        found.append(Concern("bad", title, advice, f"/imports?state={SeriesState.FAILED}&state={SeriesState.PARTIAL}"))
    if backlog.paused_until is not None:
        until = backlog.paused_until.strftime("%H:%M:%S")
        found.append(
            Concern(
                "warn",
                f"HealthImaging has said that it is too much; the next start is at {until} UTC",
                "Nothing is lost: imports go on by themselves.",
                f"/imports?state={SeriesState.QUEUED}",
            )
        )
    if backlog.oldest_queued_at is not None and now - backlog.oldest_queued_at > _LATE:
        minutes = round((now - backlog.oldest_queued_at).total_seconds() / 60)
        found.append(
            Concern(
                "warn",
                f"A series has waited for its import for {minutes:,} minutes",
                "Is the pipeline running?",
                f"/imports?state={SeriesState.QUEUED}",
            )
        )
    return found


def _of_objects(backlog: Backlog, counted: Counted) -> list[Concern]:
    found = []
    for queue, count in backlog.dead_messages.items():
        found.append(
            Concern(
                "bad",
                f"{count:,} messages of the queue {queue} were given up",
                "That means a bug: see the log, then send them again.",
                "/problems",
            )
        )
    if counted.counts["unreadable"]:
        found.append(
            Concern(
                "warn",
                f"{_objects(counted.counts['unreadable'])} cannot be indexed",
                "They are stored; each has its reason.",
                "/problems",
            )
        )
    if total := sum(counted.conflicts.values()):
        found.append(
            Concern(
                "warn",
                f"{total:,} {'contradiction' if total == 1 else 'contradictions'} between objects or patients",
                "Nothing was dropped; somebody should decide.",
                "/problems#conflicts",
            )
        )
    return found


def _edges(context: Context, now: datetime) -> tuple[list[Edge], str | None]:
    try:
        return read_edges(context.store, now), None
    except TransientError as error:
        return [], f"{str(error)[:1].upper()}{str(error)[1:]}"


def _objects(count: int) -> str:
    return f"{count:,} object" + ("" if count == 1 else "s")


def _line(counts: tuple[int, ...]) -> dict[str, Any]:
    """Return a chart's line, with its sum, and the last whole minute as the present rate."""
    return {"per_minute": counts, "sum": sum(counts), "last_minute": counts[-2] if len(counts) > 1 else 0}
