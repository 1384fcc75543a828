"""`dicomflow worker`: the pipeline's handlers outside Lambda."""

import signal
import threading
from typing import Annotated

import typer

from dicomflow.pipeline.connect import build_dependencies, build_queues
from dicomflow.pipeline.handlers import QUEUES, handlers_of
from dicomflow.pipeline.settings import load_settings
from dicomflow.pipeline.worker import run

__all__ = ["worker"]


def worker(
    queues: Annotated[
        list[str], typer.Option("--queue", help=f"A queue to work on, {', '.join(QUEUES)}; may be repeated.")
    ],
) -> None:
    """Run the pipeline's handlers from SQS, outside Lambda.

    Settings are environment variables: DICOMFLOW_DATABASE_URL, DICOMFLOW_STORE_URL, DICOMFLOW_QUEUES__INDEX and the
    like. Runs until SIGTERM or Ctrl-C; the batches at hand are finished.
    """
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown:
        raise typer.BadParameter(f"there is no queue {unknown[0]!r}", param_hint="--queue")
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    settings = load_settings()
    missing = sorted(set(queues) - settings.queues.urls().keys())
    if missing:
        raise typer.BadParameter(f"DICOMFLOW_QUEUES__{missing[0].upper()} is not set", param_hint="--queue")
    source = build_queues(settings.queues.urls())
    dependencies = build_dependencies(settings)
    try:
        typer.echo(f"ready: {', '.join(queues)}")
        run(queues, handlers_of(dependencies), source, stopping)
    finally:
        dependencies.engine.dispose()
