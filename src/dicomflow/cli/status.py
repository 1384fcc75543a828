"""`dicomflow status`."""

import json as json_
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dicomflow.catalog.report import count_everything
from dicomflow.cli.database import DatabaseUrl, DataFolder, reading
from dicomflow.edge.progress import read_progress
from dicomflow.edge.spool.view import look
from dicomflow.errors import PermanentError

__all__ = ["status"]


def status(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how much is received, indexed and imported.

    Without --data the spool is not counted: only the machine that receives can see it.

    For example: dicomflow status --data DIR --json
    """
    with reading(data, database_url) as engine:
        counts = count_everything(engine)
    if data is not None:
        view = look(data / "spool", ages=False)
        for path, reason in view.unreadable.items():
            if path.parent == data / "spool":  # no figure at all would be true
                raise PermanentError(f"cannot read {path}: {reason}; run it as the user that receives")
            typer.echo(f"not counted: {path}: {reason}", err=True)
        counts["spool"] = view.counts()
        progress = read_progress(data / "spool")
        if progress is not None:
            counts["delivery"] = progress
    if json:
        typer.echo(json_.dumps(counts))
    else:
        Console().print(_table(counts))


def _table(counts: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, value in counts.items():
        if isinstance(value, dict):
            text = "  ".join(f"{part.replace('_', ' ')} {_text(item)}" for part, item in value.items())
        else:
            text = f"{value:,}"
        table.add_row(name.replace("_", " "), text)
    return table


def _text(value: float | str | None) -> str:
    return f"{value:,}" if isinstance(value, int | float) else value or "-"
