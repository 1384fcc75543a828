"""Which object store a command works on, and who calls it."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from obstore.store import ObjectStore

from dicomflow.cli.database import give_to_owner
from dicomflow.errors import PermanentError
from dicomflow.folders import folder_of_url
from dicomflow.pipeline.connect import build_store

__all__ = ["StoreUrl", "actor", "now", "store_of"]

StoreUrl = Annotated[
    str | None,
    typer.Option(envvar="DICOMFLOW_STORE_URL", help="Where the objects lie; DIR/objects if --data is given."),
]


def store_of(data: Path | None, store_url: str | None, *, may_create: bool = False) -> tuple[str, ObjectStore]:
    """Return bucket and store of a URL, or of the folder that `dicomflow local` was given.

    Where `may_create` is set, a data folder to which nothing was sent yet gets its folder of objects.

    Raises:
        typer.BadParameter: there is neither, or the URL is none.
    """
    if store_url is None and data is None:
        raise typer.BadParameter("give the data folder or the store's URL", param_hint="--store-url")
    url = store_url if store_url is not None else (data or Path()).absolute().joinpath("objects").as_uri()
    if urlsplit(url).scheme not in {"s3", "file"}:
        raise typer.BadParameter(f"{url!r} is no URL: use s3://BUCKET or file:///FOLDER", param_hint="--store-url")
    folder = folder_of_url(url)
    if may_create and store_url is None and folder is not None and not folder.exists():
        folder.mkdir(0o700)
        give_to_owner(folder)
    if folder is not None and not folder.is_dir():
        raise PermanentError(f"there is no folder {folder}")  # made here it would be this user's, not its owner's
    return build_store(url)


def actor() -> str:
    """Return who calls, for the audit trail."""
    return f"cli:{getpass.getuser()}"


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
