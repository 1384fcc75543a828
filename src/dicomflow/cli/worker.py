"""`dicomflow worker`: the pipeline's handlers outside Lambda."""

import signal
import threading
from dataclasses import replace
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server

from dicomflow.pipeline.connect import build_dependencies, build_queues
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.handlers import QUEUES, handlers_of
from dicomflow.pipeline.metrics import PrometheusMetrics, register_edges
from dicomflow.pipeline.settings import load_settings
from dicomflow.pipeline.worker import run

__all__ = ["worker"]


def worker(
    queues: Annotated[
        list[str], typer.Option("--queue", help=f"A queue to work on, {', '.join(QUEUES)}; may be repeated.")
    ],
    *,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve Prometheus metrics on this port; 0 takes a free one.", min=0, max=65535),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="The address of that port.")] = "127.0.0.1",
) -> None:
    """Run the pipeline's handlers from SQS, outside Lambda.

    Settings are environment variables: DICOMFLOW_DATABASE_URL, DICOMFLOW_STORE_URL, DICOMFLOW_QUEUES__INDEX and the
    like. Runs until SIGTERM or Ctrl-C; the batches at hand are finished.

    For example: dicomflow worker --queue index --queue plan --metrics-port 9100
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
    address = ""
    if metrics_port is not None:
        metrics, port = _serve_metrics(dependencies, metrics_host, metrics_port)
        dependencies = replace(dependencies, metrics=metrics)
        address = f"; metrics: http://{metrics_host}:{port}/metrics"
    try:
        typer.echo(f"ready: {', '.join(queues)}{address}")
        run(queues, handlers_of(dependencies), source, stopping)
    finally:
        dependencies.engine.dispose()


def _serve_metrics(dependencies: Dependencies, host: str, port: int) -> tuple[PrometheusMetrics, int]:
    """Serve a registry on a thread of its own, which ends with the process."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    register_edges(registry, dependencies.store)
    server, _ = start_http_server(port, host, registry)
    return metrics, server.server_port
