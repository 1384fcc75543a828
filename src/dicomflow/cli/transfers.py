"""`dicomflow transfers`: images that go back to a site."""

import json as json_
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from sqlalchemy import Engine

from dicomflow.bucket.transfer import InstanceState, TransferState
from dicomflow.catalog import queue
from dicomflow.catalog import transfers as catalog
from dicomflow.catalog.engine import begin_read, require_schema
from dicomflow.cli.database import DatabaseUrl, DataFolder, reading, writing
from dicomflow.cli.stores import StoreUrl, actor, store_of
from dicomflow.cli.tables import print_table
from dicomflow.errors import PermanentError
from dicomflow.pipeline.connect import build_queues
from dicomflow.pipeline.settings import load_relay
from dicomflow.pipeline.transfers import TRANSFER_QUEUE, ask_for_transfer, cancel, retry

__all__ = ["transfers"]

transfers = typer.Typer(
    help="Send images back to a site, and see what became of them.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

UNLIMITED_WIDTH: Final = 100_000  # a pipe or a file has no width
COLUMNS: Final = (
    "transfer",
    "state",
    "destination",
    "edge",
    "instances",
    "done",
    "failed",
    "queued",
    "uid",
    "requested_at",
    "reported_at",
    "reason",
)
INSTANCE_COLUMNS: Final = ("number", "sop_instance_uid", "state", "status", "attempts", "reason")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The transfer, as `dicomflow transfers list` shows it.")]
QueueUrl = Annotated[
    str | None,
    typer.Option(
        envvar="DICOMFLOW_QUEUES__TRANSFERS",
        help="The SQS queue of transfers; without one it is the catalog's own queue.",
        show_default=False,
    ),
]


@transfers.command("send")
def send(
    uid: Annotated[str, typer.Argument(help="A Study, Series or SOP Instance UID.")],
    to: Annotated[str, typer.Option(help="The destination's name in the edge's settings.")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    store_url: StoreUrl = None,
    *,
    edge: Annotated[
        str | None, typer.Option(help="The edge that sends; by default the one that knows the destination.")
    ] = None,
    as_stored: Annotated[
        bool, typer.Option("--as-stored", help="Send images also where `imports repair` decided against their values.")
    ] = False,
    transfers_queue_url: QueueUrl = None,
    json: Json = False,
) -> None:
    """Send a study, series or instance to a destination at the site.

    The edge fetches it and goes on until the destination has it, for days if need be. Images are sent as they are
    stored; where `imports repair` has decided against their values they are refused.

    For example: dicomflow transfers send 1.2.3.4 --to PACS --data DIR
    """
    _bucket, store = store_of(data, store_url)
    with writing(data, database_url) as engine:
        require_schema(engine)
        name = ask_for_transfer(
            engine,
            store,
            _enqueue(engine, transfers_queue_url),
            datetime.now(UTC),
            uid=uid,
            destination=to,
            edge=edge,
            requested_by=actor(),
            as_stored=as_stored,
        )
        with begin_read(engine) as connection:
            found = catalog.get_transfer(connection, name)
    assert found is not None, "it has just been made"
    if json:
        typer.echo(json_.dumps(found.document(), indent=2))
        return
    typer.echo(f"{name}: {found.total} instances to {to} by {found.row.edge}; see `dicomflow transfers show {name}`")


@transfers.command("list")
def list_(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    state: Annotated[list[TransferState] | None, typer.Option("--state", help="Only transfers in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many, the latest first.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List transfers, and how many of their instances are in each state."""
    with reading(data, database_url) as engine:
        require_schema(engine)
        with begin_read(engine) as connection:
            found = [each.document() for each in catalog.list_transfers(connection, state, limit)]
    if json:
        typer.echo(json_.dumps(found, indent=2))
        return
    _print("transfers", COLUMNS, found)


@transfers.command("show")
def show(
    name: Name,
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    state: Annotated[list[InstanceState] | None, typer.Option("--state", help="Only instances in this state.")] = None,
    json: Json = False,
) -> None:
    """Show what became of each instance of a transfer, with the destination's status and the reason.

    Those that failed come first, then those that are queued. An edge tells of a transfer every few seconds, of a large
    one less often: the states are those of `reported_at`.
    """
    with reading(data, database_url) as engine:
        require_schema(engine)
        with begin_read(engine) as connection:
            found = catalog.get_transfer(connection, name)
            rows = catalog.instances_of_transfer(connection, name, states=state)
    if found is None:
        raise PermanentError(f"there is no transfer {name}; see `dicomflow transfers list`")
    instances = [_instance(row) for row in rows]
    if json:
        typer.echo(json_.dumps(found.document() | {"of_instances": instances}, indent=2))
        return
    _print("transfer", COLUMNS, [found.document()])
    _print("instances", INSTANCE_COLUMNS, instances)


@transfers.command("retry")
def retry_(
    names: Annotated[list[str], typer.Argument(help="Transfers.")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    transfers_queue_url: QueueUrl = None,
) -> None:
    """Send again what did not arrive of transfers that are partial, failed or cancelled."""
    _each(names, data, database_url, transfers_queue_url, retry, "queued again")


@transfers.command("cancel")
def cancel_(
    names: Annotated[list[str], typer.Argument(help="Transfers.")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    transfers_queue_url: QueueUrl = None,
) -> None:
    """Cancel transfers that have not ended; what has arrived stays there."""
    _each(names, data, database_url, transfers_queue_url, cancel, "cancelled")


def _each(
    names: list[str], data: Any, database_url: str | None, queue_url: str | None, do: Callable[..., None], done: str
) -> None:
    """Do something with each transfer: one that cannot keeps no other from it."""
    failures = []
    with writing(data, database_url) as engine:
        require_schema(engine)
        for name in names:
            try:
                do(engine, _enqueue(engine, queue_url), datetime.now(UTC), name, actor())
            except PermanentError as error:
                failures.append(str(error))
            else:
                typer.echo(f"{name}: {done}")
    if failures:
        raise PermanentError("; ".join(failures))


def _enqueue(engine: Engine, queue_url: str | None) -> Callable[[str, str], None]:
    if queue_url:
        return build_queues({TRANSFER_QUEUE: queue_url}, load_relay()).enqueue

    def enqueue(name: str, body: str) -> None:
        with engine.begin() as connection:
            queue.send(connection, name, body, datetime.now(UTC))

    return enqueue


def _instance(row: Any) -> dict[str, Any]:
    document = {column: getattr(row, column) for column in INSTANCE_COLUMNS}
    return document | {"status": None if row.status is None else f"{row.status:04X}"}


def _print(title: str, columns: tuple[str, ...], documents: list[dict[str, Any]]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=UNLIMITED_WIDTH)
    rows = [[each[column] for column in columns] for each in documents]
    print_table(console, title, columns, rows, hide_empty=True)
