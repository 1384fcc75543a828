"""`dicomflow status`."""

import json as json_
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomflow.cli.folders import DatabaseUrl, DataFolder
from dicomflow.cli.moments import moment

__all__ = ["status"]


def status(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    config: Annotated[Path | None, typer.Option(help="Ask an edge: its settings file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how much is received, indexed and imported.

    Of `dicomflow local`, or of a catalog anywhere with --database-url, whose spool only the machine that receives can
    see. With --config an edge is asked: whether it is ready and why not, what its spool holds, how its delivery gets
    on. It exits 0 whatever it has to tell.

    For example: dicomflow status --data DIR --json

    Or on an edge: dicomflow status --config /etc/dicomflow/edge.toml
    """
    if config is not None:
        if data is not None or database_url:
            raise typer.BadParameter("an edge has no catalog: give --config alone", param_hint="--config")
        counts, unreadable = _of_edge(config)
    else:
        counts, unreadable = _of_catalog(data, database_url)
    for line in unreadable:
        typer.echo(f"not counted: {line}", err=True)
    if json:
        typer.echo(json_.dumps(counts))
    else:
        Console().print(_table(counts))


def _of_edge(config: Path) -> tuple[dict[str, Any], list[str]]:
    from dicomflow.cli.edge_status import edge_status  # noqa: PLC0415  # each kind needs its own extra only
    from dicomflow.edge.settings import load_settings  # noqa: PLC0415  # as above

    return edge_status(load_settings(config))


def _of_catalog(data: Path | None, database_url: str | None) -> tuple[dict[str, Any], list[str]]:
    from dicomflow.catalog.report import count_everything  # noqa: PLC0415  # as above
    from dicomflow.cli.database import reading  # noqa: PLC0415  # as above

    with reading(data, database_url) as engine:
        counts = count_everything(engine)
    if data is None:
        return counts, []
    from dicomflow.cli.edge_status import count_spool  # noqa: PLC0415  # as above

    spool, unreadable = count_spool(data / "spool")
    return counts | spool, unreadable


def _table(counts: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), Text(_row(value)))
    return table


def _row(value: Any) -> str:  # of what JSON has
    if isinstance(value, dict):
        return "  ".join(f"{part.replace('_', ' ')} {_text(part, item)}" for part, item in value.items())
    if isinstance(value, list):
        return "\n".join(value) or "-"
    return _text("", value)


def _text(name: str, value: Any) -> str:  # as above
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "gathered_until" and isinstance(value, int | float):
        return moment(datetime.fromtimestamp(value).astimezone())
    if name == "at" and isinstance(value, str):
        return moment(datetime.fromisoformat(value))
    return f"{value:,}" if isinstance(value, int | float) else value or "-"
