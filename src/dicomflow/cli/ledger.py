"""`dicomflow ledger`: the chain of custody of each instance at this edge."""

import asyncio
import hashlib
import json as json_
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from obstore.store import ObjectStore
from rich.console import Console
from rich.progress import track

from dicomflow.cli.spools import Config, Data, find_spool
from dicomflow.cli.tables import as_json, print_table
from dicomflow.edge.deliver.uploader import describe
from dicomflow.edge.ledger import ELSEWHERE, LEDGER_FILE, Ledger, LedgerEntry
from dicomflow.edge.settings import DeliverySettings, load_settings
from dicomflow.edge.stores import build_store
from dicomflow.errors import DicomflowError, PermanentError, TransientError

__all__ = ["ledger"]

ledger = typer.Typer(
    help="Show an instance's chain of custody; check, forget it.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_OF_A_DESTINATION: Final = (
    *("destination", "route", "configuration", "is_required", "decided_at", "state", "ended_at", "reason"),
)
Json = Annotated[bool, typer.Option("--json", help="Print a JSON array with one object a row.")]


@ledger.command()
def show(
    sop_instance_uid: Annotated[str, typer.Argument(help="The SOP Instance UID.")],
    config: Config = None,
    data: Data = None,
    *,
    json: Json = False,
) -> None:
    """Show what this edge knows of an instance.

    From whom, when, its digest, where it is stored, and what came of it.

    For example: dicomflow ledger show UID --data DIR

    With --data what the catalog there says of each object is shown too. Exits 1 when the ledger has no such instance.
    """
    found = _open(config, data)
    entries = found.find(sop_instance_uid)
    routed = [asdict(each) for each in found.routed(sop_instance_uid)]
    found.close()
    if not entries:
        raise PermanentError(f"the ledger has no instance {sop_instance_uid}")
    catalog = _ask_catalog(data, entries)
    rows = [asdict(entry) | catalog.get(entry.object_key, {}) for entry in entries]
    for row in rows:
        to = [each for each in routed if all(each[name] == row[name] for name in ("sha256", "delivery_id"))]
        if to:
            row["destinations"] = [{name: each[name] for name in _OF_A_DESTINATION} for each in to]
    if json:
        typer.echo(json_.dumps(rows, indent=2))
        return
    console = Console(soft_wrap=True)
    contents = len({entry.sha256 for entry in entries})
    if contents > 1:
        console.print(f"{contents} different contents were received under this UID", highlight=False)
    if len(rows) > contents:
        console.print(f"it is part of {len(rows)} deliveries", highlight=False)
    for number, row in enumerate(rows):
        if number or len(rows) > 1:
            console.print()
        for name, value in _lines(row):
            console.print(f"{name.replace('_', ' '):22}{value if value is not None else '-'}", highlight=False)


@ledger.command()
def verify(config: Config = None, data: Data = None, *, json: Json = False) -> None:
    """Read every stored object and compare it with its digest.

    The digest is the one that was computed as the instance arrived. Exits 1 when an object is missing or differs.
    """
    store = build_store(_delivery(config, data))
    found = _open(config, data)
    entries = [entry for entry in found.entries() if entry.stored_at is not None and entry.store != ELSEWHERE]
    found.close()
    is_shown = sys.stderr.isatty() and not json
    console = Console(stderr=True)
    wrong = list(_compare(store, track(entries, "reading", console=console, transient=True, disable=not is_shown)))
    columns = ("object_key", "problem")
    if json:
        typer.echo(as_json(columns, wrong))
    else:
        if wrong:
            print_table(Console(), "objects that are not what was received", columns, wrong)
        typer.echo(f"{len(entries) - len(wrong)} of {len(entries)} objects are what was received")
    if wrong:
        raise typer.Exit(1)


@ledger.command()
def forget(
    uids: Annotated[list[str] | None, typer.Argument(help="SOP Instance, Series or Study Instance UIDs.")] = None,
    config: Config = None,
    data: Data = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Forget all that is stored.")] = False,
) -> None:
    """Forget what was stored, so that it is stored again when it is sent again.

    For example: dicomflow ledger forget STUDY_UID --data DIR

    What waits in the spool is not forgotten, and no object is deleted. The edge may run meanwhile. Exits 1 when the
    ledger has nothing of it.
    """
    if everything == bool(uids):
        raise PermanentError("name UIDs, or --all")
    path = find_spool(config, data) / LEDGER_FILE
    if not path.exists():
        raise PermanentError(f"there is no ledger in {path.parent}")
    opened = Ledger(path)
    try:
        count = opened.forget_all() if everything else opened.forget(uids or [])
    except sqlite3.DatabaseError as error:
        raise TransientError(f"the ledger cannot be written now: {error}") from error
    finally:
        opened.close()
    typer.echo(f"{count} entries forgotten")
    if not count:
        raise typer.Exit(1)


def _lines(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is printed of an entry, a line for each destination."""
    for name, value in row.items():
        if name != "destinations":
            yield name, value
            continue
        for each in value:
            why = f"by {each['route']}" if each["route"] else "by no route"
            told = [each["state"], why, "required" if each["is_required"] else "not required", each["ended_at"]]
            yield f"to {each['destination']}", ", ".join(filter(None, [*told, each["reason"]]))


def _open(config: Path | None, data: Path | None) -> Ledger:
    return Ledger(find_spool(config, data) / LEDGER_FILE, read_only=True)


def _ask_catalog(data: Path | None, entries: list[LedgerEntry]) -> dict[str, dict[str, Any]]:
    """Return what the catalog under a data folder knows of each object; nothing where there is none to be reached."""
    if data is None or not (data / "catalog.db").is_file():
        return {}
    try:
        from dicomflow.catalog.report import find_objects  # noqa: PLC0415
        from dicomflow.cli.database import reading  # noqa: PLC0415  # an edge alone has no catalog's packages
    except ModuleNotFoundError:
        return {}
    try:
        with reading(data, None) as engine:
            return find_objects(engine, [entry.object_key for entry in entries])
    except DicomflowError as error:
        typer.echo(f"the catalog is not shown: {error}", err=True)
        return {}


def _delivery(config: Path | None, data: Path | None) -> DeliverySettings:
    if config is not None:
        return load_settings(config).delivery
    return DeliverySettings(store_url=((data or Path()).absolute() / "objects").as_uri())


def _compare(store: ObjectStore, entries: Iterable[LedgerEntry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        try:
            digest = asyncio.run(_digest(store, entry.object_key))
        except FileNotFoundError:
            yield entry.object_key, "the object is not in the store"
            continue
        except Exception as error:
            raise TransientError(f"the store does not give its objects: {describe(error)}") from error
        if digest != entry.sha256:
            yield entry.object_key, f"SHA-256 is {digest}, but {entry.sha256} was received"


async def _digest(store: ObjectStore, key: str) -> str:
    """Digest an object as it comes, whatever its size."""
    digest = hashlib.sha256()
    result = await store.get_async(key)
    async for chunk in result.stream():
        digest.update(chunk)
    return digest.hexdigest()
