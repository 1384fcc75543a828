"""The functions that Lambda calls, one a queue: `dicomflow.pipeline.lambdas.index` and so on; `watch` is for a clock.

Everything they need is built from the environment at the first call and kept for the next ones. Logging is that of all
our programs, JSON, with the invocation's request id in each line. Not powertools': to its Logger the fields of our
events are text in a message, and one query should find a delivery in the lines of edge and functions alike). Events
are not logged.
"""

import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from dicomflow import logs
from dicomflow.errors import DicomflowError, InternalError, PermanentError
from dicomflow.pipeline.connect import build_dependencies, build_queues, build_store, client_of
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.handlers import SqsEvent, handlers_of
from dicomflow.pipeline.heartbeats import completeness, read_heartbeats, silences, waits
from dicomflow.pipeline.metrics import EmfMetrics
from dicomflow.pipeline.settings import load_settings
from dicomflow.pipeline.worker import SqsQueues

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

__all__ = ["collect", "drive", "index", "migrate", "plan", "relay", "transfers", "watch"]

logger = logging.getLogger(__name__)

_request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)


def index(event: SqsEvent, context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Index the objects of a batch."""
    return _handle("index", event, context)


def plan(event: SqsEvent, context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Queue the series of each manifest."""
    return _handle("plan", event, context)


def drive(event: SqsEvent, context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Start and follow import jobs."""
    return _handle("drive", event, context)


def collect(event: SqsEvent, context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Act on the service's job events."""
    return _handle("collect", event, context)


def transfers(event: SqsEvent, context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Prepare what goes back to a site, and take in what became of it."""
    return _handle("transfers", event, context)


def watch(_event: Any = None, context: "LambdaContext | None" = None) -> dict[str, float]:
    """Write how long each edge has been silent, which is returned, and what else their heartbeats tell alarms.

    Called by a schedule. Needs no database.
    """
    store_url = os.environ.get("DICOMFLOW_STORE_URL")
    if not store_url:
        raise PermanentError("DICOMFLOW_STORE_URL is not set")
    _configure_logging()
    _request_id.set(context.aws_request_id if context else None)
    beats, now = read_heartbeats(build_store(store_url)[1]), datetime.now(UTC)
    found = silences(beats, now)
    _metrics().write_silences(found)
    _metrics().write_waits(waits(beats))
    _metrics().write_completeness(completeness(beats, now).values())
    return found


def migrate(event: Mapping[str, Any], context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Bring the catalog's schema to this version's; called by CloudFormation, by way of the CDK's provider."""
    # The other functions need neither Alembic nor the owner's secret.
    from dicomflow.pipeline.migration import get_secret, load_migration_settings, migrate_on_deploy  # noqa: PLC0415

    _configure_logging()
    _request_id.set(context.aws_request_id if context else None)
    settings = load_migration_settings()
    return migrate_on_deploy(event, settings, lambda arn: get_secret(arn, settings.relay))


def relay(event: Mapping[str, Any], context: "LambdaContext | None" = None) -> dict[str, Any]:
    """Make a call of a service for a function that cannot reach it; runs outside the VPC, and logs no parameter."""
    from dicomflow.pipeline.relay import answer_call  # noqa: PLC0415  # only this function answers

    _configure_logging()
    _request_id.set(context.aws_request_id if context else None)
    return answer_call(event, _client)


def _handle(queue: str, event: SqsEvent, context: "LambdaContext | None") -> dict[str, Any]:
    _request_id.set(context.aws_request_id if context else None)
    handler = handlers_of(_dependencies())[queue]
    try:
        answer = handler(event)
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        _queues().put_off(queue, [record for record in event["Records"] if record["messageId"] in failed])
    except (DicomflowError, SQLAlchemyError):
        raise
    except Exception as error:
        # What leaves a function, its runtime logs whole: our own line has the traceback, without the text.
        logger.exception("function_failed", extra={"queue": queue})
        raise InternalError(f"{queue} failed: {type(error).__name__}") from None
    finally:
        _metrics().flush()
    return answer


@cache
def _dependencies() -> Dependencies:
    """Build them once for the life of the process; a failure is tried again by the next call."""
    _configure_logging()
    return replace(build_dependencies(load_settings()), metrics=_metrics())


@cache
def _client(service: str) -> Any:
    return client_of(service)


@cache
def _queues() -> SqsQueues:
    settings = load_settings()
    return build_queues(settings.queues.urls(), settings.relay)


@cache
def _metrics() -> EmfMetrics:
    """Gather what an invocation counts; written at its end."""
    return EmfMetrics()


@cache
def _configure_logging() -> None:
    logs.configure(os.environ.get("DICOMFLOW_LOG_LEVEL", "INFO"), as_json=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_add_request_id)


def _add_request_id(record: logging.LogRecord) -> bool:
    """Let a line be found by the id under which Lambda and its traces know the invocation."""
    if request_id := _request_id.get():
        record.request_id = request_id
    return True
