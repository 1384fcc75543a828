"""`dicomflow edge`: the edge daemon."""

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomflow.edge.http import EdgeHttp
from dicomflow.edge.settings import load_settings
from dicomflow.edge.supervisor import Supervisor, worker_count
from dicomflow.logs import LogSettings

__all__ = ["edge"]

SIGNAL_SECONDS: Final = 1.0
_NOT_FOR_OTHERS: Final = 0o027  # what it makes, a store's folder too, is for its user and its user's group


def edge(
    config: Annotated[Path, typer.Option(help="The settings, a TOML file; see docs/operations.md.")],
) -> None:
    """Run the edge daemon: receive, spool, deliver.

    Runs until SIGTERM or Ctrl-C: then it refuses new associations, ends those that run, and leaves within five
    seconds. Whatever was acknowledged and is not stored yet stays in the spool for the next start. What it makes is for
    its user and its user's group: nobody else reads an image in the spool or in a store's folder.

    For example: dicomflow edge --config /etc/dicomflow/edge.toml
    """
    os.umask(os.umask(_NOT_FOR_OTHERS) | _NOT_FOR_OTHERS)
    settings = load_settings(config)
    stopping = threading.Event()
    # SIGBREAK is what Windows sends to a console program that is to end.
    for name in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGINT)):
        signal.signal(name, lambda _number, _frame: stopping.set())
    archive = None
    if settings.archive.dicomweb_url is not None:
        from dicomflow.edge_archive import edge_archive  # noqa: PLC0415  # most edges are asked for nothing

        archive = edge_archive(settings, worker_count(settings))
    supervisor = Supervisor(settings, LogSettings.of_this_process(), config=config, beside=archive)
    supervisor.start()
    http = None
    try:
        if settings.http_port is not None:
            http = EdgeHttp(supervisor, settings.http_bind, settings.http_port)
            logging.getLogger(__name__).info("http_started port=%d", http.port)
        # On Windows no signal interrupts a wait without an end.
        while not stopping.wait(SIGNAL_SECONDS):
            pass
    finally:
        supervisor.stop()
        if http is not None:
            http.close()
