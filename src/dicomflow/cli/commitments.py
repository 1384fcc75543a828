"""`dicomflow commitments`: storage commitment requests whose report is not taken yet, and their way back."""

import json as json_
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from dicomflow.cli.spools import Config, Data, find_spool
from dicomflow.cli.tables import as_json, print_table
from dicomflow.edge.commitment.requests import Commitments, read_requests
from dicomflow.errors import PermanentError

__all__ = ["commitments"]

commitments = typer.Typer(
    help="List storage commitment reports not taken; send again.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@commitments.command("list")
def list_requests(config: Config = None, data: Data = None, *, undelivered: bool = False, json: Json = False) -> None:
    """List the requests that wait for their report, and those whose report was given up, with the reason.

    For example: dicomflow commitments list --config /etc/dicomflow/edge.toml

    A report is given up after `commitment.report_days`. With --undelivered only those are listed.
    """
    rows = [
        (
            "undelivered" if each.undelivered else "open",
            each.calling_ae_title,
            len(each.references),
            datetime.fromtimestamp(each.requested_at, UTC).isoformat(timespec="seconds"),
            each.attempts,
            each.undelivered,
            each.transaction_uid,
        )
        for each in read_requests(find_spool(config, data))
        if each.undelivered or not undelivered
    ]
    columns = ("state", "ae_title", "instances", "requested_at", "attempts", "reason", "transaction")
    if json:
        typer.echo(as_json(columns, rows))
    else:
        print_table(Console(), "storage commitment requests", columns, rows)


@commitments.command()
def retry(
    transaction_uids: Annotated[list[str] | None, typer.Argument(help="Transaction UIDs.")] = None,
    config: Config = None,
    data: Data = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    json: Json = False,
) -> None:
    """Have reports that were given up sent again. Exits 1 when there is none."""
    if everything == bool(transaction_uids):
        raise PermanentError("name Transaction UIDs, or --all")
    kept = Commitments(find_spool(config, data))
    given_up = [each for each in kept.open_requests() if each.undelivered]
    wanted = [each for each in given_up if everything or each.transaction_uid in (transaction_uids or [])]
    for request in wanted:
        kept.retry(request)
    typer.echo(json_.dumps({"retried": len(wanted)}) if json else f"{len(wanted)} reports will be sent again")
    if not wanted:
        raise typer.Exit(1)
