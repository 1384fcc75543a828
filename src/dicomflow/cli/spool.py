"""`dicomflow spool`: what cannot be delivered, and its way back."""

import json as json_
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from dicomflow.cli.spools import Config, Data, find_spool, open_spool
from dicomflow.cli.tables import as_json, print_table
from dicomflow.edge.progress import read_progress
from dicomflow.edge.spool.names import ReceivedFile
from dicomflow.edge.spool.setaside import NotOursError, describe_failure
from dicomflow.edge.spool.view import look, quarantined_files
from dicomflow.errors import PermanentError

__all__ = ["spool"]

spool = typer.Typer(
    help="List what cannot be delivered, and try it again.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Found = TypeVar("_Found")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@spool.command("list")
def list_quarantined(config: Config = None, data: Data = None, *, json: Json = False) -> None:
    """List the quarantined instances, each with its reason.

    What the edge could not read and set aside is in the list too, and what this user may not read.

    For example: dicomflow spool list --config /etc/dicomflow/edge.toml
    """
    root = find_spool(config, data)
    rows = [
        (reason, *_origin(path), _text_of(path.name)) for path, reason in _read(lambda: list(quarantined_files(root)))
    ]
    rows += [(f"set aside: {reason}", "", "", path) for path, reason in _set_aside(root)]
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
    released = failed = 0
    for file, _ in _read(lambda: list(found.scan_quarantined())):
        try:
            found.release(file)
            released += 1
        except OSError as error:
            failed += 1
            typer.echo(f"{file.path.name} stays in quarantine: {error.strerror}", err=True)
    typer.echo(json_.dumps({"released": released}) if json else f"{released} instances put back")
    if failed:
        raise typer.Exit(1)


def _read(scan: Callable[[], list[_Found]]) -> list[_Found]:
    try:
        return scan()
    except OSError as error:
        raise PermanentError(f"cannot read the quarantine: {error.strerror}; run it as the edge's user") from error


def _origin(path: Path) -> tuple[str, str]:
    file = ReceivedFile.of(path)
    return (file.peer, file.association_id) if file is not None else ("", "")


def _set_aside(root: Path) -> Iterator[tuple[str, str]]:
    """Yield what the deliverer has set aside, and what cannot be read from here."""
    told = (read_progress(root) or {}).get("set_aside_reasons")
    reasons = {Path(path): str(reason) for path, reason in told.items()} if isinstance(told, dict) else {}
    view = look(root, ages=False)
    reasons |= dict.fromkeys(view.foreign, describe_failure(NotOursError())) | view.unreadable
    for path, reason in sorted(reasons.items()):
        yield _text_of(str(path.relative_to(root) if path.is_relative_to(root) else path)), reason


def _text_of(name: str) -> str:
    """Return a file's name as text that any terminal and any reader of JSON takes: odd bytes and controls escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
