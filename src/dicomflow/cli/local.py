"""`dicomflow local`: everything on this machine."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from dicomflow.console.local import local_console
from dicomflow.local import Local, LocalSettings
from dicomflow.pipeline.settings import load_issuers

__all__ = ["local"]


def local(
    data: Annotated[Path, typer.Option(help="The folder for catalog, objects and spool; it outlives the program.")],
    port: Annotated[int, typer.Option(help="The DIMSE port; 0 takes a free one.", min=0, max=65535)] = 11112,
    http_port: Annotated[int, typer.Option(help="The HTTP port; 0 takes a free one.", min=0, max=65535)] = 8042,
    quiet_seconds: Annotated[
        float, typer.Option(help="A study is delivered when nothing has come for this long.", min=0)
    ] = 10.0,
) -> None:
    """Run everything on this machine, with a simulated import.

    Receives over DIMSE, stores in DIR/objects, indexes in DIR/catalog.db (or in DICOMFLOW_DATABASE_URL) and imports
    into a simulated HealthImaging. The console is at / of the HTTP port, for this machine only. DICOMFLOW_ISSUERS is
    read as the pipeline reads it. Runs until SIGTERM or Ctrl-C; what is not done goes on at the next start.

    For example: dicomflow local --data ~/dicomflow --quiet-seconds 5
    """
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    database_url = os.environ.get("DICOMFLOW_DATABASE_URL")
    settings = LocalSettings(data, port, http_port, quiet_seconds, database_url, load_issuers())
    system = Local(settings, local_console)
    try:
        system.start()
        addresses = system.addresses
        typer.echo(
            f"ready: DIMSE port {addresses['dimse_port']}, console {addresses['console']} {json.dumps(addresses)}"
        )
        stopping.wait()
    finally:
        system.stop()
