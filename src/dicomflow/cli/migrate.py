"""`dicomflow migrate`."""

import json as json_
from typing import Annotated

import typer

from dicomflow.catalog.engine import migrate as migrate_catalog
from dicomflow.catalog.engine import schema_revision
from dicomflow.cli.database import DatabaseUrl, writing
from dicomflow.cli.folders import NamedDataFolder

__all__ = ["migrate"]


def migrate(
    data: NamedDataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring the catalog's schema to this version's.

    Creates the catalog when there is none. Running it again changes nothing.

    For example: dicomflow migrate --database-url postgresql://HOST/NAME
    """
    with writing(data, database_url, may_create=True) as engine:
        migrate_catalog(engine)
        revision = schema_revision(engine)
    typer.echo(json_.dumps({"revision": revision}) if json else f"the catalog is at revision {revision}")
