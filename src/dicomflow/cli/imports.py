"""`dicomflow imports`: the import queue, for an operator."""

import json as json_
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from sqlalchemy import Connection, Engine, Row

from dicomflow.catalog import hidden, outcomes, queue
from dicomflow.catalog import imports as catalog
from dicomflow.catalog.engine import begin_read, require_schema
from dicomflow.catalog.moving import retry_elsewhere
from dicomflow.catalog.states import MOVED, RETRIED, RETRYABLE, SeriesState
from dicomflow.cli.database import DatabaseUrl, DataFolder, reading, writing
from dicomflow.cli.healthimaging import healthimaging_of
from dicomflow.cli.stores import StoreUrl, actor, store_of
from dicomflow.cli.tables import as_json, print_table
from dicomflow.errors import PermanentError, TransientError
from dicomflow.pipeline.connect import Later, build_queues
from dicomflow.pipeline.forecast import forecast_series
from dicomflow.pipeline.repair import Keep, Repair, Repaired
from dicomflow.pipeline.settings import load_relay
from dicomflow.pipeline.wakeups import DRIVE_QUEUE

__all__ = ["imports"]

imports = typer.Typer(
    help="List imports and what came of them; retry, repair.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

UNLIMITED_WIDTH: Final = 100_000  # a pipe or a file has no width
FORESEEN: Final = (SeriesState.QUEUED, SeriesState.FAILED, SeriesState.DISABLED)  # a forecast still helps
COLUMNS: Final = (
    "series_import_id",
    "state",
    "priority",
    "attempts",
    "object_count",
    "bytes",
    "series_instance_uid",
    "not_before",
    "message",
    "forecast",
)
OUTCOME_COLUMNS: Final = ("object_key", "outcome", "image_set_id", "reason")
DriveQueueUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DICOMFLOW_QUEUES__DRIVE",
        help="The SQS queue that wakes the pipeline; without one it is the catalog's own queue.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_STATES: Final = ", ".join(SeriesState)
States = Annotated[
    list[SeriesState] | None, typer.Option("--state", metavar="STATE", help=f"Only series in this state: {_STATES}.")
]

RetryStates = Annotated[
    list[SeriesState] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help=f"Only series in this state: {', '.join(RETRYABLE)}; {' and '.join(MOVED)} ones of another data store.",
    ),
]
DatastoreId = Annotated[
    str | None,
    typer.Option(
        envvar="DICOMFLOW_IMPORTS__DATASTORE_ID",
        help="The data store that imports go to now; for completed and hidden series.",
        show_default=False,
    ),
]


@imports.command("list")
def list_(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    state: States = None,
    limit: Annotated[int, typer.Option(help="At most this many, the latest change first.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List series and their imports.

    The forecast says what the service would refuse or warn of.

    For example: dicomflow imports list --data DIR --state failed
    """
    with _reading(data, database_url) as connection:
        rows = [_values(connection, row) for row in catalog.list_series(connection, state, limit)]
    _print("imports", COLUMNS, rows, json=json)


@imports.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The number of an import, or a Series or Study Instance UID.")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    json: Json = False,
) -> None:
    """Show what became of each instance of a series, with the reasons."""
    with _reading(data, database_url) as connection:
        found = catalog.find_series(connection, name)
        if not found:
            raise PermanentError(f"there is no import {name}; see `dicomflow imports list`")
        rows = [_values(connection, row) for row in found]
        results = [
            [getattr(item, column) for column in OUTCOME_COLUMNS]
            for row in found
            for item in outcomes.outcomes_of_series(connection, row)
        ]
    if json:
        document = {"imports": _documents(COLUMNS, rows), "instances": _documents(OUTCOME_COLUMNS, results)}
        typer.echo(json_.dumps(document, indent=2, default=str))
        return
    _print("imports", COLUMNS, rows, json=False)
    _print("instances", OUTCOME_COLUMNS, results, json=False)


@imports.command("retry")
def retry(
    numbers: Annotated[list[int] | None, typer.Argument(help="Numbers of imports.", show_default=False)] = None,
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every import in the states asked for.")] = False,
    state: RetryStates = None,
    datastore_id: DatastoreId = None,
    drive_queue_url: DriveQueueUrl = None,
    json: Json = False,
) -> None:
    """Queue failed and partial series again.

    Or those in another --state; what is in already is not repeated. Completed and hidden series are queued where
    they are in another data store than the one that imports go to now, and their objects are still there.

    For example: dicomflow imports retry --all --data DIR
    """
    states = state or list(RETRIED)
    under_way = sorted(set(states).difference(RETRYABLE, MOVED))
    if under_way:
        raise typer.BadParameter(f"{' and '.join(under_way)} series are under way already", param_hint="--state")
    if set(states).intersection(MOVED) and not datastore_id:
        raise typer.BadParameter("give the data store that imports go to now", param_hint="--datastore-id")
    if bool(numbers) == everything:
        raise typer.BadParameter("give the numbers of imports, or --all", param_hint="NUMBERS")
    with writing(data, database_url) as engine:
        require_schema(engine)
        now = datetime.now(UTC)
        with engine.begin() as connection:
            queued = catalog.retry_series(connection, now, states, numbers or None)
            if datastore_id:
                queued += retry_elsewhere(connection, now, states, datastore_id, numbers or None)
        if queued:
            _wake(engine, drive_queue_url, now)
    typer.echo(json_.dumps({"queued": queued}) if json else f"{len(queued)} series queued again")
    if numbers and len(queued) < len(set(numbers)):
        left = ", ".join(map(str, sorted(set(numbers) - set(queued))))
        where = ", or in the data store already" if set(states).intersection(MOVED) else ""
        raise PermanentError(f"not {' or '.join(states)}{where}: {left}; see `dicomflow imports show`")


@imports.command("repair")
def repair(
    name: Annotated[
        str,
        typer.Argument(
            help="The hidden image set, or a Study Instance UID for all of its; `dicomflow catalog conflicts"
            " --kind hidden` lists them.",
            metavar="IMAGE_SET",
        ),
    ],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    store_url: StoreUrl = None,
    *,
    keep: Annotated[
        Keep, typer.Option(help="Whose values stay: those of the primary image sets, or those of this one.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    drive_queue_url: DriveQueueUrl = None,
    json: Json = False,
) -> None:
    """Make a hidden image set visible: give one side the other's values, then promote it to primary.

    HealthImaging shows primary image sets alone, and keeps one that conflicts with those of its study as not primary.
    It allows a change in four seconds, and locks what it changes; after an interruption, call it again. Elements are
    named and no value is; the audit trail has who did it. HealthImaging is that of the `dicomflow local` which runs on
    DIR; else, or with AWS_ENDPOINT_URL_MEDICAL_IMAGING, where AWS's own environment variables say.

    For example: dicomflow imports repair 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --keep primary --dry-run
    """
    opening = reading if dry_run else writing
    documents: list[dict[str, Any]] = []
    failures: list[PermanentError | TransientError] = []
    with opening(data, database_url) as engine:
        require_schema(engine)
        client: Any = Later(partial(healthimaging_of, data))  # what the catalog does not know is told first
        _, store = store_of(data, store_url)
        for image_set in _image_sets(engine, name):
            try:
                work = Repair(client, engine, store, image_set, keep, actor(), lambda: datetime.now(UTC), time.sleep)
                found = work.foresee() if dry_run else work.run()
            except (PermanentError, TransientError) as error:
                failures.append(type(error)(f"{image_set}: {error}") if _is_uid(name) else error)
                continue
            documents.append({"image_set": image_set, "keep": keep, "dry_run": dry_run, **asdict(found)})
            if not json:
                _say_repaired(found, dry_run=dry_run)
        if documents and not dry_run:
            _wake(engine, drive_queue_url, datetime.now(UTC))
    if json and (documents or _is_uid(name)):
        typer.echo(json_.dumps(documents if _is_uid(name) else documents[0]))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise PermanentError("; ".join(map(str, failures)))


def _is_uid(name: str) -> bool:
    return "." in name  # which an image set's id has not


def _image_sets(engine: Engine, name: str) -> list[str]:
    if not _is_uid(name):
        return [name]
    with begin_read(engine) as connection:
        found = hidden.hidden_of_study(connection, name)
    if not found:
        raise PermanentError(
            f"the catalog knows no hidden image set of study {name}: see `dicomflow catalog conflicts`"
        )
    return found


def _say_repaired(found: Repaired, *, dry_run: bool) -> None:
    for step in found.steps:
        scope = " and its study's others" if step.of_study else ""
        elements = f": {', '.join(step.elements)}" if step.elements else ""
        typer.echo(f"{'would ' if dry_run else ''}{step.action} image set {step.image_set_id}{scope}{elements}")
    if not dry_run:
        typer.echo(f"visible in image set {found.primary_image_set_id}; {found.series_completed} series completed")


@contextmanager
def _reading(data: Any, database_url: str | None) -> Iterator[Connection]:
    with reading(data, database_url) as engine:
        require_schema(engine)
        with begin_read(engine) as connection:
            yield connection


def _wake(engine: Engine, drive_queue_url: str | None, now: datetime) -> None:
    body = json_.dumps({"reason": "retry"})
    if drive_queue_url:
        build_queues({DRIVE_QUEUE: drive_queue_url}, load_relay()).enqueue(DRIVE_QUEUE, body)
        return
    with engine.begin() as connection:
        queue.send(connection, DRIVE_QUEUE, body, now)


def _values(connection: Connection, row: Row[Any]) -> list[Any]:
    values = [getattr(row, column) for column in COLUMNS[:-1]]
    if row.state not in FORESEEN:
        return [*values, None]
    forecast = forecast_series(connection, row)
    reasons = [f"fails: {reason}" for reason in forecast.failures] + [f"warns: {text}" for text in forecast.warnings]
    return [*values, "; ".join(reasons) or None]


def _documents(columns: tuple[str, ...], rows: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _print(title: str, columns: tuple[str, ...], rows: list[list[Any]], *, json: bool) -> None:
    if json:
        typer.echo(as_json(columns, rows))
        return
    console = Console() if sys.stdout.isatty() else Console(width=UNLIMITED_WIDTH)
    print_table(console, title, columns, rows, hide_empty=True)
