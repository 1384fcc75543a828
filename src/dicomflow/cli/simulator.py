"""`dicomflow simulator`: AWS HealthImaging for anybody's SDK client."""

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import boto3
import typer
from obstore.store import ObjectStore
from pydantic import TypeAdapter, ValidationError

from dicomflow.healthimaging.simulator import (
    SERVICE_CONCURRENT_JOBS,
    SERVICE_RATES,
    SimulatorSettings,
    create_app,
    serve,
)
from dicomflow.pipeline.connect import build_store
from dicomflow.spelling import meant

__all__ = ["simulator"]

STATE_FILE: Final = "healthimaging.db"
NOT_SET_BY_HAND: Final = frozenset({"state_path", "rates"})


def simulator(
    data: Annotated[Path, typer.Option(help="The folder for the simulator's state; it outlives the program.")],
    port: Annotated[int, typer.Option(help="The HTTP port; 0 takes a free one.", min=0, max=65535)] = 8043,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    buckets: Annotated[
        list[str] | None,
        typer.Option("--bucket", help="NAME=FOLDER puts a folder in a bucket's place; others are sought in S3."),
    ] = None,
    events_queue_url: Annotated[
        str | None, typer.Option(help="The SQS queue that gets the service's events, as a rule of EventBridge would.")
    ] = None,
    switches: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, a delay, limit or switch; see docs/simulator.md.")
    ] = None,
    *,
    service_limits: Annotated[
        bool, typer.Option("--service-limits", help="Throttle and limit jobs as the service does by default.")
    ] = False,
) -> None:
    """Simulate AWS HealthImaging for any SDK client.

    A client needs nothing but endpoint_url=http://HOST:PORT (and inject_host_prefix=False, with boto3). Runs until
    SIGTERM or Ctrl-C; data stores, jobs and image sets survive it.

    For example: dicomflow simulator --data DIR --bucket images=/srv/images
    """
    settings = _settings(data, switches or [], service_limits=service_limits)
    folders = dict(_pair(text, "--bucket") for text in buckets or [])
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    os.umask(0o077)  # metadata and names are patients' data
    data.mkdir(parents=True, exist_ok=True)
    server = serve(create_app(settings, _stores(folders), _deliver_to(events_queue_url)), host, port)
    try:
        typer.echo(f"ready: {server.url}")
        stopping.wait()
    finally:
        server.close()


def _settings(data: Path, switches: list[str], *, service_limits: bool) -> SimulatorSettings:
    known = {field.name for field in fields(SimulatorSettings)} - NOT_SET_BY_HAND
    values: dict[str, Any] = {"state_path": data / STATE_FILE}
    if service_limits:
        values |= {"rates": SERVICE_RATES, "concurrent_jobs": SERVICE_CONCURRENT_JOBS}
    for name, value in (_pair(text, "--set") for text in switches):
        if name not in known:
            raise typer.BadParameter(
                f"there is no switch {name!r}{meant(name, known)}; see docs/simulator.md", param_hint="--set"
            )
        values[name] = value
    try:
        return TypeAdapter(SimulatorSettings).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise typer.BadParameter(f"{where}: {problem['msg']}", param_hint="--set") from error


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _stores(folders: dict[str, str]) -> Callable[[str], ObjectStore | None]:
    known = {name: build_store(Path(folder).absolute().as_uri())[1] for name, folder in folders.items()}

    def find(bucket: str) -> ObjectStore | None:
        if bucket not in known and not folders:
            known[bucket] = build_store(f"s3://{bucket}")[1]
        return known.get(bucket)

    return find


def _deliver_to(queue_url: str | None) -> Callable[[dict[str, Any]], None]:
    if queue_url is None:
        return lambda _event: None
    client = boto3.client("sqs")

    def deliver(event: dict[str, Any]) -> None:
        client.send_message(QueueUrl=queue_url, MessageBody=json.dumps(event))

    return deliver
