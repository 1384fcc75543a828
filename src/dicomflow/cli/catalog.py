"""`dicomflow catalog`: what is found and what is wrong; `rebuild` and `deletion` are beside it."""

import json as json_
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from sqlalchemy import Connection

from dicomflow.catalog.audit import list_audit_events
from dicomflow.catalog.conflicts import KINDS, list_conflicts, list_problems
from dicomflow.catalog.engine import begin_read, require_schema
from dicomflow.catalog.search import StudyFilter, search_studies
from dicomflow.catalog.states import SHOWN, SeriesState
from dicomflow.cli.database import DatabaseUrl, DataFolder, reading
from dicomflow.cli.deletion import delete_study_
from dicomflow.cli.rebuild import rebuild
from dicomflow.cli.tables import as_json, print_table

__all__ = ["catalog"]

_STATUSES: Final = ", ".join(SHOWN)
_WIDE: Final = 100_000  # a pipe or a file has no width

catalog = typer.Typer(
    help="Search, check and rebuild the catalog; delete studies.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print a JSON array with one object a row.")]
Limit = Annotated[int, typer.Option(help="Print at most so many.", min=1)]


@catalog.command()
def problems(
    data: DataFolder = None, database_url: DatabaseUrl = None, *, limit: Limit = 1000, json: Json = False
) -> None:
    """List stored objects that could not be indexed, or that are not encoded as they say, each with its problem."""
    with _reading(data, database_url) as connection:
        found = list_problems(connection, limit=limit)
    columns = ("object_key", "reason", "edge", "bytes", "stored_at")
    _print("problems", columns, [tuple(asdict(each).values()) for each in found], as_json_=json)


@catalog.command()
def conflicts(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"Only conflicts of this kind: {', '.join(KINDS)}.", metavar="KIND", show_default=False),
    ] = None,
    limit: Limit = 1000,
    json: Json = False,
) -> None:
    """List objects that contradict each other: versions, UIDs under two patients, changed demographics."""
    if unknown := set(kind or ()) - KINDS.keys():
        raise typer.BadParameter(f"{min(unknown)!r} is not one of {', '.join(KINDS)}", param_hint="--kind")
    with _reading(data, database_url) as connection:
        found = list_conflicts(connection, limit=limit, kinds=kind or KINDS)
    if json:
        typer.echo(json_.dumps([asdict(each) for each in found], indent=2))
        return
    rows = [(each.uid, KINDS[each.kind], ", ".join(each.details)) for each in found]
    _print("conflicts", ("uid", "conflict", "between"), rows, as_json_=False)


@catalog.command()
def studies(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    name: Annotated[str | None, typer.Option(help="Words of the patient's name, by their beginning.")] = None,
    patient_id: Annotated[str | None, typer.Option(help="The Patient ID.")] = None,
    accession: Annotated[str | None, typer.Option(help="The accession number.")] = None,
    modality: Annotated[str | None, typer.Option(help="A modality, such as CT.")] = None,
    first: Annotated[datetime | None, typer.Option(help="Studies of this day and after.", formats=["%Y-%m-%d"])] = None,
    last: Annotated[datetime | None, typer.Option(help="Studies of this day and before.", formats=["%Y-%m-%d"])] = None,
    status: Annotated[str | None, typer.Option(help=f"With an import that is {_STATUSES}.")] = None,
    limit: Limit = 25,
    json: Json = False,
) -> None:
    """List studies, the latest first, by what is given: all of it must fit."""
    if status is not None and status not in set(SHOWN):
        raise typer.BadParameter(f"{status!r} is not one of {_STATUSES}", param_hint="--status")
    wanted = StudyFilter(
        patient_name=name,
        patient_id=patient_id,
        accession_number=accession,
        modality=modality,
        first_date=_day(first),
        last_date=_day(last),
        status=SeriesState(status) if status else None,
    )
    with _reading(data, database_url) as connection:
        found = search_studies(connection, wanted, limit=limit).studies
    shown = [asdict(each) for each in found]
    for row in shown:
        del row["study_key"], row["patient_key"]
    columns = list(shown[0]) if shown else ["study_instance_uid"]
    _print("studies", columns, [tuple(row.values()) for row in shown], as_json_=json)


@catalog.command()
def audit(
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    uid: Annotated[str | None, typer.Option(help="Only what was done to this UID.")] = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """List what was done by whom to which UID, the latest first."""
    with _reading(data, database_url) as connection:
        found = list_audit_events(connection, uid=uid, limit=limit)
    _print("audit", ("at", "actor", "action", "uid", "details"), [tuple(row) for row in found], as_json_=json)


catalog.command()(rebuild)
catalog.command("delete-study")(delete_study_)


@contextmanager
def _reading(data: Path | None, database_url: str | None) -> Iterator[Connection]:
    with reading(data, database_url) as engine:
        require_schema(engine)
        with begin_read(engine) as connection:
            yield connection


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json_: bool) -> None:
    if as_json_:
        typer.echo(as_json(columns, rows))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    print_table(console, title, columns, rows)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()
