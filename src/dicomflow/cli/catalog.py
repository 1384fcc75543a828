"""`dicomflow catalog`: what is found, what is wrong, and what is to go."""

import getpass
import json as json_
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import obstore
import typer
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url
from rich.console import Console
from sqlalchemy import Connection, Engine

from dicomflow.catalog.audit import list_audit_events, record_audit_event
from dicomflow.catalog.conflicts import KINDS, list_conflicts, list_problems
from dicomflow.catalog.engine import begin_read, create_engine_for, require_schema
from dicomflow.catalog.removal import check_removable, delete_study, object_keys_of_study
from dicomflow.catalog.search import STATUSES, StudyFilter, search_studies
from dicomflow.cli.database import DatabaseUrl, DataFolder, existing_catalog_url
from dicomflow.cli.tables import as_json, print_table
from dicomflow.errors import TransientError

__all__ = ["catalog"]

_WIDE: Final = 100_000  # a pipe or a file has no width
_DELETES_AT_ONCE: Final = 1000

catalog = typer.Typer(
    help="Search the catalog, list what is wrong in it, delete studies.",
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
    """List stored objects that could not be indexed, each with its reason."""
    with _reading(data, database_url) as connection:
        found = list_problems(connection, limit=limit)
    columns = ("object_key", "reason", "edge", "bytes", "stored_at")
    _print("problems", columns, [tuple(asdict(each).values()) for each in found], as_json_=json)


@catalog.command()
def conflicts(
    data: DataFolder = None, database_url: DatabaseUrl = None, *, limit: Limit = 1000, json: Json = False
) -> None:
    """List objects that contradict each other: versions, UIDs under two patients, changed demographics."""
    with _reading(data, database_url) as connection:
        found = list_conflicts(connection, limit=limit)
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
    status: Annotated[str | None, typer.Option(help=f"With an import that is {', '.join(STATUSES)}.")] = None,
    limit: Limit = 25,
    json: Json = False,
) -> None:
    """List studies, the latest first, by what is given: all of it must fit."""
    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"{status!r} is not one of {', '.join(STATUSES)}", param_hint="--status")
    wanted = StudyFilter(
        patient_name=name,
        patient_id=patient_id,
        accession_number=accession,
        modality=modality,
        first_date=_day(first),
        last_date=_day(last),
        status=status,
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


@catalog.command("delete-study")
def delete_study_(
    uid: Annotated[str, typer.Argument(help="The Study Instance UID.", metavar="UID")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would go.")] = False,
    objects: Annotated[bool, typer.Option("--objects", help="Delete the stored objects too.")] = False,
    store_url: Annotated[
        str | None,
        typer.Option(envvar="DICOMFLOW_STORE_URL", help="Where the objects lie; DIR/objects if --data is given."),
    ] = None,
) -> None:
    """Delete a study from the catalog, with its objects if asked; image sets stay in HealthImaging.

    Objects that stay in the store come back into the catalog when their events are sent again.
    """
    engine = create_engine_for(existing_catalog_url(data, database_url))
    try:
        require_schema(engine)
        with begin_read(engine) as connection:
            check_removable(connection, uid)
            keys = object_keys_of_study(connection, uid)
        if not yes:
            typer.echo(f"study {uid} has {len(keys)} stored objects; nothing is deleted without --yes")
            raise typer.Exit(2)
        if objects:
            _delete_objects(engine, _store(data, store_url), uid, keys)
        with engine.begin() as connection:
            deleted = len(keys) if objects else 0
            removed = delete_study(connection, uid, _now(), actor=_actor(), objects_deleted=deleted)
    finally:
        engine.dispose()
    rows = ", ".join(f"{count} {table}" for table, count in removed.items() if count)
    typer.echo(f"deleted study {uid}: {rows}; {deleted} objects")


def _delete_objects(engine: Engine, store: ObjectStore, uid: str, keys: Sequence[str]) -> None:
    """Delete objects before their rows: what a crash leaves is found and deleted by the next call."""
    with engine.begin() as connection:
        details = {"objects": len(keys)}
        record_audit_event(connection, _now(), actor=_actor(), action="delete_objects", uid=uid, details=details)
    for start in range(0, len(keys), _DELETES_AT_ONCE):
        try:
            obstore.delete(store, list(keys[start : start + _DELETES_AT_ONCE]))
        except FileNotFoundError:
            _delete_each(store, keys[start : start + _DELETES_AT_ONCE])
        except (BaseError, OSError) as error:
            raise TransientError(f"the store did not delete all objects: {type(error).__name__}; try again") from error


def _delete_each(store: ObjectStore, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            obstore.delete(store, key)
        except FileNotFoundError:
            continue


def _store(data: Path | None, store_url: str | None) -> ObjectStore:
    if store_url is None and data is None:
        raise typer.BadParameter("give the data folder or the store's URL", param_hint="--store-url")
    url = store_url if store_url is not None else (data or Path()).absolute().joinpath("objects").as_uri()
    if not urlsplit(url).scheme:
        raise typer.BadParameter(f"{url!r} is no URL: use s3://BUCKET or file:///FOLDER", param_hint="--store-url")
    return from_url(url)


@contextmanager
def _reading(data: Path | None, database_url: str | None) -> Iterator[Connection]:
    engine = create_engine_for(existing_catalog_url(data, database_url))
    try:
        require_schema(engine)
        with begin_read(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json_: bool) -> None:
    if as_json_:
        typer.echo(as_json(columns, rows))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    print_table(console, title, columns, rows)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _now() -> datetime:
    return datetime.now(UTC)
