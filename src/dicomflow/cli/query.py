"""`dicomflow query`."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from dicomflow.catalog.report import run_read_only
from dicomflow.cli.database import DatabaseUrl, DataFolder, reading
from dicomflow.cli.tables import as_json, print_table

__all__ = ["query"]

UNLIMITED_WIDTH = 100_000  # a pipe or a file has no width


def query(
    sql: Annotated[str, typer.Argument(help="One statement, for example: SELECT * FROM Study", metavar="SQL")],
    data: DataFolder = None,
    database_url: DatabaseUrl = None,
    *,
    seed: Annotated[
        bool, typer.Option("--seed", help="Table and column names are the AWS sample's: docs/from-the-sample.md.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array with one object a row.")] = False,
) -> None:
    """Run one read-only SQL statement on the catalog.

    The statement cannot change anything: the database is opened read-only. Patient, Study, Series and Instance hold the
    index, Ahlijob the imports and Ahliimageset the image sets; docs/architecture.md tells of the others.

    For example: dicomflow query --data DIR "SELECT * FROM Ahlijob WHERE status = 4"
    """
    with reading(data, database_url, is_seed=seed) as engine:
        columns, rows = run_read_only(engine, sql)
    if json:
        typer.echo(as_json(columns, rows))
        return
    console = Console() if sys.stdout.isatty() else Console(width=UNLIMITED_WIDTH)
    print_table(console, " ".join(sql.split()), columns, rows)
