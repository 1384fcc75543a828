"""`dicomflow spool`: what cannot be delivered, and its way back."""

import json as json_
from typing import Annotated

import typer
from rich.console import Console

from dicomflow.cli.spools import Config, Data, open_spool
from dicomflow.cli.tables import as_json, print_table

__all__ = ["spool"]

spool = typer.Typer(
    help="List what cannot be delivered, and try it again.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@spool.command("list")
def list_quarantined(config: Config = None, data: Data = None, *, json: Json = False) -> None:
    """List the quarantined instances, each with its reason.

    For example: dicomflow spool list --config /etc/dicomflow/edge.toml
    """
    rows = [
        (reason, file.peer, file.association_id, file.path.name)
        for file, reason in sorted(open_spool(config, data).scan_quarantined(), key=lambda each: each[0].path.name)
    ]
    # The name is the longest: on a narrow terminal it is what is cut.
    columns = ("reason", "peer", "association", "file")
    if json:
        typer.echo(as_json(columns, rows))
    else:
        print_table(Console(), "quarantined", columns, rows)


@spool.command()
def retry(config: Config = None, data: Data = None, *, json: Json = False) -> None:
    """Put every quarantined instance back, to be delivered like a new one."""
    found = open_spool(config, data)
    released = [file for file, _ in found.scan_quarantined()]
    for file in released:
        found.release(file)
    typer.echo(json_.dumps({"released": len(released)}) if json else f"{len(released)} instances put back")
