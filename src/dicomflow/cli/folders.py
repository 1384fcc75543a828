"""Where to look: a data folder, the user's own where nothing else says where, or a catalog's URL.

Imports neither the edge's packages nor the pipeline's.
"""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomflow.folders import own_data_folder

__all__ = ["DATABASE_URL_VARIABLE", "DataFolder", "DatabaseUrl", "NamedDataFolder"]

DATABASE_URL_VARIABLE: Final = "DICOMFLOW_DATABASE_URL"
# Options and variables that say where to look, so that the user's own folder is not meant.
_SAYING_OPTIONS: Final = ("database_url", "store_url", "stack", "config", "worker")
_SAYING_VARIABLES: Final = (DATABASE_URL_VARIABLE, "DICOMFLOW_STORE_URL")


def _own_unless_said(context: typer.Context, data: Path | None) -> Path | None:
    """Return the folder that was named, or the user's own; options that were given are parsed before this one."""
    if data is not None or any(context.params.get(name) for name in _SAYING_OPTIONS):
        return data
    reads_them = not {"database_url", "store_url"}.isdisjoint(each.name for each in context.command.params)
    return None if reads_them and any(map(os.environ.get, _SAYING_VARIABLES)) else own_data_folder()


DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The data folder of `dicomflow local`; ~/.local/share/dicomflow by default.",
        callback=_own_unless_said,
        show_default=False,
        readable=False,  # is looked at by the commands, which have more to say
    ),
]

# For what would make a catalog: a forgotten variable must not end in a new one at home.
NamedDataFolder = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder of `dicomflow local`.", show_default=False, readable=False),
]

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_URL_VARIABLE,
        help="The catalog's SQLAlchemy URL; it goes before the catalog under --data.",
        show_default=False,
    ),
]
