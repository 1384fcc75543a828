"""Which catalog a command works on: that of the environment, or the one under a local data folder."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from dicomflow.errors import PermanentError

__all__ = [
    "CATALOG_FILE",
    "DATABASE_URL_VARIABLE",
    "DataFolder",
    "DatabaseUrl",
    "catalog_url",
    "existing_catalog_url",
]

CATALOG_FILE: Final = "catalog.db"
DATABASE_URL_VARIABLE: Final = "DICOMFLOW_DATABASE_URL"

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="The folder that `dicomflow local --data` was given.", show_default=False),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_URL_VARIABLE,
        help="The catalog's SQLAlchemy URL; it goes before the catalog under --data.",
        show_default=False,
    ),
]


def catalog_url(data: Path | None, database_url: str | None) -> str:
    """Return the catalog's URL.

    Raises:
        typer.BadParameter: neither a folder nor a URL was given.
    """
    if database_url:
        return database_url
    if data is None:
        raise typer.BadParameter(f"give the data folder, or set {DATABASE_URL_VARIABLE}", param_hint="--data")
    return f"sqlite:///{quote(str(data.absolute() / CATALOG_FILE))}"


def existing_catalog_url(data: Path | None, database_url: str | None) -> str:
    """Return the catalog's URL for a command that only reads.

    Raises:
        typer.BadParameter: neither a folder nor a URL was given.
        PermanentError: there is no catalog under the folder.
    """
    url = catalog_url(data, database_url)
    if not database_url and data is not None and not (data / CATALOG_FILE).is_file():
        raise PermanentError(f"no {CATALOG_FILE} in {data}; start `dicomflow local --data {data}` first")
    return url
