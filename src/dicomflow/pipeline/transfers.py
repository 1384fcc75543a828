"""Transfers: images that go back to a site, from a message on the queue to what became of each.

A message asks for a transfer, or goes on with one: the objects are copied within the store to where the edge may read
them, the job is put after them, and then the edge is told in the one object that it asks for. What the edge tells
comes as the event of its object. Each step may be repeated, and a message that comes twice changes nothing.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Connection, Engine, Row

from dicomflow.bucket.keys import job_key, outbound_key, pending_key, returns_key, transfer_of_returns, transfer_prefix
from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.reading import read_document
from dicomflow.bucket.transfer import (
    MAX_REASON,
    Job,
    Pending,
    Returns,
    TransferState,
    decode,
    encode,
    is_transfer_id,
)
from dicomflow.catalog import transfers as catalog
from dicomflow.catalog.audit import record_audit_event
from dicomflow.catalog.deliveries import clear_problem, record_problem
from dicomflow.catalog.transfer_returns import hold_up_transfer, settle_returns
from dicomflow.catalog.transfers import Selection
from dicomflow.errors import PermanentError, TransientError
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.events import StoredObjectEvent, decode_object_events
from dicomflow.pipeline.metrics import Name
from dicomflow.pipeline.staging import COPIES_AT_ONCE, MAX_COPY_BYTES
from dicomflow.pipeline.transfer_requests import Request, edge_of, read_request

__all__ = [
    "TRANSFER_QUEUE",
    "ask_for_transfer",
    "cancel",
    "continue_message",
    "handle_message",
    "retry",
    "tell_edge",
]

logger = logging.getLogger(__name__)

TRANSFER_QUEUE: Final = "transfers"
COPIES_A_MESSAGE: Final = 2000
"""More are made by the next message, so that one takes no longer than its function has."""
_CHUNK_BYTES: Final = 16 << 20
_TELL_TRIES: Final = 5

Send = Callable[[str, str], None]
"""Sends a message to a queue."""


def continue_message(transfer_id: str) -> str:
    """Return the message that goes on with a transfer which is in the catalog."""
    return json.dumps({"transfer": transfer_id})


def handle_message(deps: Dependencies, message_id: str, body: str) -> None:
    """Do what a message asks for.

    Raises:
        PermanentError: the message is none of those that this queue has, or asks for what is not there.
        Exception: what a repeat may get over.
    """
    document = _decode(body)
    if _is_event(document):
        _settle_each(deps, decode_object_events(message_id, body, deps.bucket))
        return
    if set(document) == {"transfer"}:
        _prepare(deps, str(document["transfer"]))
        return
    request = read_request(message_id, document)
    _begin(deps, request)
    _prepare(deps, request.transfer)


def ask_for_transfer(
    engine: Engine,
    store: ObjectStore,
    enqueue: Send,
    now: datetime,
    *,
    uid: str,
    destination: str,
    edge: str | None,
    requested_by: str,
    as_stored: bool = False,
) -> str:
    """Queue a transfer of a study, series or instance, and return its name.

    Raises:
        PermanentError: the catalog has no such UID, it is not clear which edge knows the destination, or a repair has
            decided against what is stored and that is not wanted `as_stored`.
        TransientError: the store did not answer.
    """
    edge = edge_of(store, destination, edge)
    transfer_id = uuid4().hex
    with engine.begin() as connection:
        instances = catalog.find_instances(connection, [Selection(any=uid)], as_stored=as_stored)
        catalog.create_transfer(
            connection,
            now,
            transfer_id,
            edge=edge,
            destination=destination,
            uid=uid,
            requested_by=requested_by,
            instances=instances,
        )
        details = {"transfer": transfer_id, "edge": edge, "destination": destination, "instances": len(instances)}
        record_audit_event(connection, now, actor=requested_by, action="send_back", uid=uid, details=details)
    enqueue(TRANSFER_QUEUE, continue_message(transfer_id))
    return transfer_id


def retry(engine: Engine, enqueue: Send, now: datetime, transfer_id: str, actor: str) -> None:
    """Begin the next round of a transfer; of one that is queued only its message is sent again.

    Raises:
        PermanentError: there is none, or nothing of it is to be sent.
    """
    with engine.begin() as connection:
        found = _found(connection, transfer_id)
        if not found.row.edge or not found.total:
            raise PermanentError(f"{transfer_id} was refused, and has nothing to send: ask for it anew")
        if not catalog.retry_transfer(connection, now, transfer_id) and found.row.state != TransferState.QUEUED:
            raise PermanentError(f"{transfer_id} is {found.row.state}: only what has failed is sent again")
        _record(connection, now, actor, "retry_transfer", found)
    enqueue(TRANSFER_QUEUE, continue_message(transfer_id))


def cancel(engine: Engine, enqueue: Send, now: datetime, transfer_id: str, actor: str) -> None:
    """Cancel a transfer.

    Raises:
        PermanentError: there is none, or it has ended.
    """
    with engine.begin() as connection:
        found = _found(connection, transfer_id)
        if catalog.cancel_transfer(connection, now, transfer_id) is None:
            raise PermanentError(f"{transfer_id} is {found.row.state}: it has ended")
        _record(connection, now, actor, "cancel_transfer", found)
    enqueue(TRANSFER_QUEUE, continue_message(transfer_id))


def tell_edge(deps: Dependencies, edge: str) -> None:
    """Put what waits for an edge, as the catalog has it when this returns: whoever changes that calls this after.

    Two that put at once may do so in the other order than they have read: so each reads again, and puts again.

    Raises:
        TransientError: the store does not take it, or it changes all the time.
    """
    for _ in range(_TELL_TRIES):
        with deps.engine.begin() as connection:
            pending = catalog.pending_of_edge(connection, edge)
        _put(deps, pending_key(edge), encode(Pending(edge, pending)))
        with deps.engine.begin() as connection:
            if catalog.pending_of_edge(connection, edge) == pending:
                return
    raise TransientError(f"what waits for {edge} changes all the time")


def _found(connection: Connection, transfer_id: str) -> catalog.Summary:
    found = catalog.get_transfer(connection, transfer_id)
    if found is None:
        raise PermanentError(f"there is no transfer {transfer_id}")
    return found


def _record(connection: Connection, now: datetime, actor: str, action: str, found: catalog.Summary) -> None:
    details = {"transfer": found.row.transfer_id, "edge": found.row.edge, "destination": found.row.destination}
    record_audit_event(connection, now, actor=actor, action=action, uid=found.row.uid, details=details)


def _begin(deps: Dependencies, request: Request) -> None:
    """Add a transfer to the catalog; one that cannot be begun is there with its reason."""
    now, failure = deps.clock(), None
    edge, instances = request.edge or "", []
    try:
        edge = edge_of(deps.store, request.destination, request.edge)
        with deps.engine.begin() as connection:
            instances = catalog.find_instances(connection, request.selections, as_stored=request.as_stored)
    except PermanentError as error:
        failure = str(error)
        logger.warning("transfer_refused", extra={"transfer": request.transfer, "error": failure})
    with deps.engine.begin() as connection:
        catalog.create_transfer(
            connection,
            now,
            request.transfer,
            edge=edge,
            destination=request.destination,
            uid=request.uid,
            requested_by=request.requested_by,
            instances=instances,
            failure=failure,
        )


def _prepare(deps: Dependencies, transfer_id: str) -> None:
    """Make the copies of a round, then its job, and tell the edge."""
    with deps.engine.begin() as connection:
        found = _found(connection, transfer_id)
        copies = catalog.copies_to_make(connection, transfer_id)
    row = found.row
    if row.state != TransferState.QUEUED:
        if row.edge:
            tell_edge(deps, row.edge)
        return
    missing = list(_missing(deps, row, copies))
    _copy(deps, row, missing[:COPIES_A_MESSAGE])
    if len(missing) > COPIES_A_MESSAGE:
        deps.enqueue(TRANSFER_QUEUE, continue_message(transfer_id))
        return
    _put_job(deps, row)
    with deps.engine.begin() as connection:
        is_current = catalog.set_copied(connection, deps.clock(), transfer_id, row.rounds)
    if not is_current:
        # It was cancelled meanwhile, and perhaps tried again: then this job lies over that of the next round.
        deps.enqueue(TRANSFER_QUEUE, continue_message(transfer_id))
        return
    tell_edge(deps, row.edge)
    logger.info("transfer_prepared", extra={"transfer": transfer_id, "edge": row.edge, "instances": len(copies)})


def _put_job(deps: Dependencies, row: Row[Any]) -> None:
    with deps.engine.begin() as connection:
        instances = catalog.job_instances(connection, row.transfer_id)
    job = Job(row.edge, row.transfer_id, row.rounds, row.destination, instances)
    _put(deps, job_key(row.edge, row.transfer_id), encode(job))


def _missing(deps: Dependencies, row: Row[Any], copies: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
    """Yield the copies that are not there yet: those of a round before, or of a message before, are."""
    try:
        there = {each.key: each.bytes for each in list_objects(deps.store, transfer_prefix(row.edge, row.transfer_id))}
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error
    for each in copies:
        if there.get(outbound_key(row.edge, row.transfer_id, each.number)) != each.bytes:
            yield each


def _copy(deps: Dependencies, row: Row[Any], copies: Sequence[Row[Any]]) -> None:
    """Copy objects within the store; what is not there any more fails alone."""

    def copy(each: Row[Any]) -> tuple[int, Exception | None]:
        target = outbound_key(row.edge, row.transfer_id, each.number)
        try:
            if each.bytes <= MAX_COPY_BYTES:
                obstore.copy(deps.store, each.object_key, target)
            else:
                whole = obstore.get(deps.store, each.object_key).stream(min_chunk_size=_CHUNK_BYTES)
                obstore.put(deps.store, target, whole, use_multipart=True, chunk_size=_CHUNK_BYTES)
        except (BaseError, OSError, ValueError) as error:
            logger.warning("object_not_copied", extra={"key": each.object_key, "error": type(error).__name__})
            return each.number, error
        return each.number, None

    with ThreadPoolExecutor(COPIES_AT_ONCE, "copy") as threads:
        failures = {number: error for number, error in threads.map(copy, copies) if error is not None}
    gone = [number for number, error in failures.items() if isinstance(error, (FileNotFoundError, ValueError))]
    if gone:
        with deps.engine.begin() as connection:
            catalog.fail_instances(connection, row.transfer_id, gone, "the object is not in the store")
    if len(failures) > len(gone):
        raise TransientError(f"the store did not make {len(failures) - len(gone)} of {len(copies)} copies")


def _settle_each(deps: Dependencies, events: Iterable[StoredObjectEvent]) -> None:
    """Take in what each event is of; what one failed with is raised when all are tried."""
    failure: Exception | None = None
    for stored in events:
        named = transfer_of_returns(stored.key)
        if named is None:
            continue
        try:
            try:
                _settle(deps, *named)
            except PermanentError as error:
                _disbelieve(deps, *named, str(error))
        except Exception as error:  # noqa: BLE001  # raised below
            failure = error
    if failure is not None:
        raise failure


def _disbelieve(deps: Dependencies, edge: str, transfer_id: str, reason: str) -> None:
    """Say that what an edge has told is not believed, and tell it anew what it is to do: it may have been told else."""
    key = returns_key(edge, transfer_id)
    logger.warning("returns_not_believed", extra={"transfer": transfer_id, "edge": edge, "error": reason})
    text = f"what the edge told is not believed: {reason}"[:MAX_REASON]
    with deps.engine.begin() as connection:
        record_problem(connection, key, reason)
    if not is_transfer_id(transfer_id) or not edge.isprintable():  # what the key names no database holds
        return
    with deps.engine.begin() as connection:
        is_open = hold_up_transfer(connection, edge, transfer_id, text)
        found = catalog.get_transfer(connection, transfer_id)
    if found is None or found.row.edge != edge:
        return
    if is_open and found.row.copied_at is not None:
        _put_job(deps, found.row)
    tell_edge(deps, edge)


def _settle(deps: Dependencies, edge: str, transfer_id: str) -> None:
    """Take in what an edge says of a transfer now, which may be newer than the event.

    Raises:
        PermanentError: it is not to be believed.
        TransientError: the store did not answer.
    """
    try:
        returns = decode(Returns, read_document(deps.store, returns_key(edge, transfer_id))[0])
    except FileNotFoundError:
        return
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error
    if (returns.edge, returns.transfer) != (edge, transfer_id):
        raise PermanentError("what an edge returned is of another edge or transfer")
    with deps.engine.begin() as connection:
        settled = settle_returns(connection, deps.clock(), edge, returns)
        clear_problem(connection, returns_key(edge, transfer_id))
        found = catalog.get_transfer(connection, transfer_id)
    if settled is not None:
        deps.metrics.count(Name.INSTANCES_SENT_BACK, settled.arrived)
    if settled is not None and settled.ended:
        if settled.state in {TransferState.PARTIAL, TransferState.FAILED}:
            deps.metrics.count(Name.TRANSFERS_FAILED, 1)
        elif settled.state is TransferState.DONE:
            deps.metrics.count(Name.TRANSFERS_DONE, 1)
        logger.info("transfer_settled", extra={"transfer": transfer_id, "edge": edge, "state": settled.state})
    # Again when the event comes again: it may have ended between the two.
    if returns.is_final and found is not None and found.row.edge == edge:
        tell_edge(deps, edge)
        if found.row.answered_rounds >= found.row.rounds:
            _clear(deps, edge, transfer_id)


def _clear(deps: Dependencies, edge: str, transfer_id: str) -> None:
    """Remove the copies of a round that has ended; what stays goes by the bucket's lifecycle rule."""
    try:
        deps.store.delete([each.key for each in list_objects(deps.store, transfer_prefix(edge, transfer_id))])
    except (BaseError, OSError, TransientError) as error:
        logger.warning("copies_left", extra={"transfer": transfer_id, "error": type(error).__name__})


def _put(deps: Dependencies, key: str, content: bytes) -> None:
    try:
        obstore.put(deps.store, key, content, use_multipart=False)
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not take an object: {type(error).__name__}") from error


def _decode(body: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PermanentError("the message is not JSON") from error
    if not isinstance(document, dict):
        raise PermanentError("the message is no object")
    return document


def _is_event(document: dict[str, Any]) -> bool:
    """Tell events of the bucket, in all their shapes, from requests."""
    return "Records" in document or "Event" in document or document.get("source") == "aws.s3" or "Type" in document
