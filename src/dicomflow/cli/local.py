"""`dicomflow local`: everything on this machine."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomflow.cli.console import Ohif, OhifPort
from dicomflow.console.local import local_console
from dicomflow.folders import own_data_folder
from dicomflow.local import Local, LocalSettings
from dicomflow.pipeline.settings import load_character_sets, load_issuers

__all__ = ["local"]

_PRIVATE: Final = 0o077  # images, catalog and spool are patients' data


def local(
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder for catalog, objects and spool; ~/.local/share/dicomflow by default.", show_default=False
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The DIMSE port, 11112 by default; 0 takes a free one.", min=0, max=65535)
    ] = None,
    http_port: Annotated[int, typer.Option(help="The HTTP port; 0 takes a free one.", min=0, max=65535)] = 8042,
    quiet_seconds: Annotated[
        float | None,
        typer.Option(help="A study is delivered when nothing has come for this long, 10 by default.", min=0),
    ] = None,
    *,
    bind: Annotated[
        str | None,
        typer.Option(help="The address to receive on: 127.0.0.1 for this machine alone; every address by default."),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="Post events to this URL: docs/events.md.", metavar="URL", show_default=False),
    ] = None,
    ohif: Ohif = None,
    ohif_port: OhifPort = 8046,
) -> None:
    """Run everything on this machine, with a simulated import.

    Receives over DIMSE, stores in DIR/objects, indexes in DIR/catalog.db (or in DICOMFLOW_DATABASE_URL) and imports
    into a simulated HealthImaging. The console is at / of the HTTP port, for this machine only. Who may send, to whom
    reports of storage commitment go, limits and rules are set in DIR/edge.toml where it is present, as for an edge.
    DIR is for the user's own eyes. DICOMFLOW_ISSUERS and DICOMFLOW_CHARACTER_SETS are read as the pipeline reads
    them. Runs until SIGTERM or Ctrl-C; what is not done goes on at the next start.

    For example: dicomflow local

    Or: dicomflow local --data /var/lib/dicomflow --quiet-seconds 5
    """
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    os.umask(_PRIVATE)
    database_url = os.environ.get("DICOMFLOW_DATABASE_URL")
    folder = own_data_folder() if data is None else data
    settings = LocalSettings(
        *(folder, http_port, port, bind, quiet_seconds, database_url, load_issuers(), load_character_sets(), webhook),
        ohif=ohif,
        ohif_port=ohif_port,
    )
    system = Local(settings, local_console)
    try:
        system.start()
        addresses = system.addresses
        viewer = f", OHIF {addresses['ohif']}" if "ohif" in addresses else ""
        where = f"data in {folder}, DIMSE port {addresses['dimse_port']}{viewer}, console {addresses['console']}"
        typer.echo(f"ready: {where} {json.dumps(addresses)}")
        stopping.wait()
    finally:
        system.stop()
