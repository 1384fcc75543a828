"""Images that go back to sites: what was asked for, how far it is, and the form that asks for more.

No patient data: UIDs, names of destinations and numbers.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicomflow.bucket.transfer import TransferState
from dicomflow.catalog.custody import find_study
from dicomflow.catalog.transfer_returns import OPEN
from dicomflow.catalog.transfers import (
    RETRIED,
    Selection,
    Summary,
    count_transfers,
    find_instances,
    get_transfer,
    instances_of_transfer,
    list_transfers,
)
from dicomflow.console.edges import read_edges
from dicomflow.console.guard import wants_json
from dicomflow.console.page import Context, Page, plain
from dicomflow.errors import PermanentError, TransientError
from dicomflow.pipeline.transfers import ask_for_transfer, cancel, retry

__all__ = ["ask", "change", "send_back", "transfer", "transfers"]

_ROWS: Final = 100
_INSTANCES: Final = 1000
_CHANGES: Final = {"retry": retry, "cancel": cancel}


def transfers(context: Context, request: Request) -> Page:
    """Show transfers by state, the latest first, with their progress."""
    states = [state for state in request.query_params.getlist("state") if state]
    if unknown := [state for state in states if state not in set(TransferState)]:
        raise HTTPException(400, f"there is no state {unknown[0][:40]!r}")
    with context.reading() as connection:
        counts = count_transfers(connection)
        found = list_transfers(connection, states or None, _ROWS)
    document = {"states": states, "counts": counts, "transfers": [_shown(each) for each in found], "limit": _ROWS}
    return Page("transfers.html", plain(document))


def transfer(context: Context, request: Request) -> Page:
    """Show one transfer: what became of each instance, those that failed first."""
    name = request.path_params["name"]
    with context.reading() as connection:
        found = get_transfer(connection, name)
        rows = instances_of_transfer(connection, name, _INSTANCES)
    if found is None:
        raise HTTPException(404, "there is no such transfer")
    instances = [
        {
            "sop_instance_uid": row.sop_instance_uid,
            "state": row.state,
            "status": None if row.status is None else f"{row.status:04X}",
            "attempts": row.attempts,
            "reason": row.reason,
        }
        for row in rows
    ]
    return Page("transfer.html", plain({"transfer": _shown(found), "instances": instances, "limit": _INSTANCES}))


def ask(context: Context, request: Request) -> Page:
    """Ask for confirmation: where to, and how much it is."""
    uid = request.path_params["uid"]
    destinations, problem = [], None
    with context.reading() as connection:
        if find_study(connection, uid) is None:
            raise HTTPException(404, "the catalog has no such study")
        instances = find_instances(connection, [Selection(study=uid)], as_stored=True)
        try:
            find_instances(connection, [Selection(study=uid)])
        except PermanentError as error:
            problem = str(error)
    try:
        for edge in () if problem else read_edges(context.store, context.clock()):
            known = () if edge.heartbeat is None else edge.heartbeat.destinations
            destinations += [
                {"edge": edge.name, "name": each.name, "ae_title": each.ae_title, "is_silent": edge.is_silent}
                for each in known
            ]
    except TransientError as error:
        problem = str(error)
    document = {
        "uid": uid,
        "instances": len(instances),
        "bytes": sum(each["bytes"] for each in instances),
        "destinations": destinations,
        "problem": problem,
    }
    return Page("send.html", plain(document))


def send_back(context: Context, request: Request, form: Mapping[str, str]) -> Response:
    """Queue a transfer; the form's token is checked before this."""
    edge, _, destination = form.get("destination", "").partition("/")
    uid = form.get("uid", "")
    if not edge or not destination or not uid:
        raise HTTPException(400, "the form names no study, or no destination")
    try:
        name = ask_for_transfer(
            context.engine,
            context.store,
            context.enqueue,
            context.clock(),
            uid=uid,
            destination=destination,
            edge=edge,
            requested_by=request.state.user,
        )
    except PermanentError as error:
        raise HTTPException(409, str(error)) from error
    return _done(request, name)


def change(context: Context, request: Request) -> Response:
    """Try a transfer again, or cancel it."""
    name, do = request.path_params["name"], _CHANGES.get(request.path_params["action"])
    if do is None:
        raise HTTPException(404, "a transfer can be tried again or cancelled")
    try:
        do(context.engine, context.enqueue, context.clock(), name, request.state.user)
    except PermanentError as error:
        raise HTTPException(409, str(error)) from error
    return _done(request, name)


def _done(request: Request, name: str) -> Response:
    if wants_json(request):
        return JSONResponse({"transfer": name})
    return RedirectResponse(f"/transfers/{name}", status_code=303)


def _shown(found: Summary) -> dict[str, Any]:
    state = found.row.state
    return found.document() | {
        "can_retry": state in set(RETRIED) and found.total > found.counts.get("done", 0),
        "can_cancel": state in set(OPEN),
    }
