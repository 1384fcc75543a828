"""Lambda handlers of the queues: decode, call one function, report the messages that failed.

A permanent error is recorded in the catalog and its message is done; anything else fails that message alone, so that
a dead letter is a bug and not a bad file. The same handlers run outside Lambda, in `worker`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from dicomflow.bucket.keys import is_manifest
from dicomflow.catalog.deliveries import record_problem
from dicomflow.catalog.imports import count_backlog
from dicomflow.errors import InternalError, PermanentError
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.drive import drive
from dicomflow.pipeline.events import StoredObjectEvent, decode_object_events
from dicomflow.pipeline.follow import collect_event
from dicomflow.pipeline.index import index_objects
from dicomflow.pipeline.metrics import Name
from dicomflow.pipeline.outbox import send_events
from dicomflow.pipeline.plan import plan_delivery
from dicomflow.pipeline.transfers import TRANSFER_QUEUE, handle_message
from dicomflow.pipeline.wakeups import wake_driver

__all__ = ["QUEUES", "Dependencies", "Handler", "handlers_of"]

logger = logging.getLogger(__name__)

QUEUES: Final = ("index", "plan", "drive", "collect", TRANSFER_QUEUE)
MESSAGE_KEY: Final = "message:"  # in the place of an object key, for a message that names none

SqsEvent = Mapping[str, Any]
Handler = Callable[[SqsEvent], dict[str, Any]]
RecordHandler = Callable[[Dependencies, SQSRecord], None]


def handlers_of(deps: Dependencies) -> dict[str, Handler]:
    """Return each queue's handler: from Lambda's SQS event to its partial batch response."""
    return {
        "index": lambda event: _then_send(deps, handle_index(deps, event)),
        "plan": lambda event: _then_send(deps, _handle_each(deps, event, _plan_record)),
        "drive": lambda event: _handle_each(deps, event, _drive_record),  # the driver sends by itself
        "collect": lambda event: _then_send(deps, _handle_each(deps, event, _collect_record)),
        TRANSFER_QUEUE: lambda event: _handle_each(deps, event, _transfer_record),
    }


def _then_send(deps: Dependencies, response: dict[str, Any]) -> dict[str, Any]:
    """Send what the batch has told, before its messages go: who dies here gets them again, and sends it then.

    What is not taken is no message's failure: it waits in the outbox, and the driver comes back for it.
    """
    try:
        due_at = send_events(deps)
        if due_at is not None and deps.import_enabled:  # without imports there is no driver
            wake_driver(deps, due_at, "events")
    except Exception:  # the boundary between two kinds of work
        logger.exception("events_not_sent")
    return response


def handle_index(deps: Dependencies, event: SqsEvent) -> dict[str, Any]:
    """Index the objects of a whole batch at once."""
    objects: list[StoredObjectEvent] = []
    for record in event["Records"]:
        try:
            objects += decode_object_events(record["messageId"], record["body"], deps.bucket)
        except PermanentError as error:
            _record_problem(deps, MESSAGE_KEY + record["messageId"], error)
    result = index_objects(
        deps.engine,
        deps.store,
        objects,
        issuers=deps.issuers,
        character_sets=deps.character_sets,
        clock=deps.clock,
    )
    deps.metrics.count(Name.INSTANCES_INDEXED, result.indexed)
    deps.metrics.count(Name.OBJECTS_UNREADABLE, result.problems)
    for message_id, reason in result.failed.items():
        logger.warning("message_failed", extra={"queue": "index", "message_id": message_id, "error": reason})
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in result.failed]}


def _plan_record(deps: Dependencies, record: SQSRecord) -> None:
    """Plan each manifest of a message; what one failed with is raised when all are tried."""
    failure: Exception | None = None
    for stored in decode_object_events(record.message_id, record.body, deps.bucket):
        if not is_manifest(stored.key):
            continue
        try:
            _plan_manifest(deps, stored.key)
        except PermanentError as error:
            _record_problem(deps, stored.key, error)
        except Exception as error:  # noqa: BLE001  # raised below
            failure = error
    if failure is not None:
        raise failure


def _plan_manifest(deps: Dependencies, key: str) -> None:
    now = deps.clock()
    plan_delivery(
        deps.engine,
        deps.store,
        key,
        import_enabled=deps.import_enabled,
        now=now,
        stat_ae_titles=deps.stat_ae_titles,
    )
    if deps.import_enabled:
        wake_driver(deps, now, "planned")


def _drive_record(deps: Dependencies, record: SQSRecord) -> None:
    try:
        drive(deps, record.body)
    except PermanentError as error:  # this message is what brings the driver back: it is never done with
        raise InternalError("the driver cannot send its own wake-up") from error
    _tell_backlog(deps)


def _collect_record(deps: Dependencies, record: SQSRecord) -> None:
    try:
        document = json.loads(record.body)
    except (ValueError, RecursionError) as error:
        raise PermanentError("the message is not JSON") from error
    if not isinstance(document, dict):
        raise PermanentError("the message is no event")
    collect_event(deps, document)
    _tell_backlog(deps)


def _transfer_record(deps: Dependencies, record: SQSRecord) -> None:
    handle_message(deps, record.message_id, record.body)


def _tell_backlog(deps: Dependencies) -> None:
    with deps.engine.begin() as connection:
        backlog = count_backlog(connection)
    deps.metrics.backlog(backlog)


def _handle_each(deps: Dependencies, event: SqsEvent, handle: RecordHandler) -> dict[str, Any]:
    """Handle each record of a batch by itself."""

    def handle_record(record: SQSRecord) -> None:
        try:
            handle(deps, record)
        except PermanentError as error:
            _record_problem(deps, MESSAGE_KEY + record.message_id, error)
        except Exception:
            logger.exception("message_failed", extra={"message_id": record.message_id})
            raise

    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
    response = process_partial_response(dict(event), handle_record, processor)
    return {"batchItemFailures": list(response["batchItemFailures"])}


def _record_problem(deps: Dependencies, key: str, error: PermanentError) -> None:
    logger.warning("message_refused", extra={"key": key, "error": str(error)})
    with deps.engine.begin() as connection:
        record_problem(connection, key, str(error))
