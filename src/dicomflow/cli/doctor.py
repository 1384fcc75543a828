"""`dicomflow doctor`: what is wrong with a set-up, and what to do."""

import json as json_
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from dicomflow.cli.folders import DataFolder
from dicomflow.doctor.findings import SELF_TEST, Check, Finding, State, run_checks

__all__ = ["doctor"]

_COLORS: Final = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red", State.SKIPPED: "dim"}
_NAME_WIDTH: Final = 20


def doctor(
    config: Annotated[Path | None, typer.Option(help="Check an edge: its settings file.")] = None,
    data: DataFolder = None,
    port: Annotated[
        int | None, typer.Option(help="With --data, its DIMSE port, 11112 by default.", min=0, max=65535)
    ] = None,
    http_port: Annotated[int, typer.Option(help="With --data, its HTTP port.", min=0, max=65535)] = 8042,
    *,
    worker: Annotated[
        bool, typer.Option("--worker", help="Check the pipeline: the environment of `dicomflow worker`.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the self-test, which starts an edge.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array with one object a finding.")] = False,
) -> None:
    """Check a set-up and say what to do.

    Looks at folders, free space and the speed of a sync, ports, clock, certificate, store, KMS key, destinations,
    database, queues and HealthImaging, as far as the set-up has them, and sends an image to an edge that it starts with
    the same settings. Nothing of it stays. May be run before and while the edge, the worker or `dicomflow local` runs;
    without --config and --worker it is `dicomflow local` that is checked. Exits 1 when something is wrong.

    For example: dicomflow doctor --config /etc/dicomflow/edge.toml
    """
    if (config is not None) + (data is not None) + worker != 1:
        raise typer.BadParameter("give one of --config FILE, --data DIR and --worker", param_hint="--config")
    found = []
    console = Console(soft_wrap=True)
    with _quiet():
        checks = _checks(config, data, port, http_port)
        for finding in run_checks(each for each in checks if not (quick and each.name == SELF_TEST)):
            found.append(finding)
            if not json:
                _print(console, finding)
    failed = sum(finding.state is State.FAILED for finding in found)
    if json:
        typer.echo(json_.dumps([asdict(each) | {"state": each.state.value} for each in found], indent=2))
    else:
        warned = sum(finding.state is State.WARNING for finding in found)
        console.print(f"{len(found)} checks, {failed} failed, {warned} with a warning", highlight=False)
    if failed:
        raise typer.Exit(1)


def _checks(config: Path | None, data: Path | None, port: int | None, http_port: int) -> Iterator[Check]:
    """Return the checks of what was named; each kind needs the packages of its own extra only."""
    if config is not None:
        from dicomflow.doctor.edge import checks_of_edge  # noqa: PLC0415  # an edge has no catalog
        from dicomflow.edge.settings import load_settings as load_edge_settings  # noqa: PLC0415  # as above

        return checks_of_edge(load_edge_settings(config))
    if data is not None:
        from dicomflow.doctor.local import checks_of_local  # noqa: PLC0415  # as above
        from dicomflow.local import LocalSettings  # noqa: PLC0415  # as above

        url = os.environ.get("DICOMFLOW_DATABASE_URL")
        return checks_of_local(LocalSettings(data, http_port, port, database_url=url))
    from dicomflow.doctor.pipeline import checks_of_pipeline  # noqa: PLC0415  # as above
    from dicomflow.pipeline.settings import load_settings  # noqa: PLC0415  # as above

    return checks_of_pipeline(load_settings())


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the parts under test log: a finding says it, with what to do; `--log-level DEBUG` shows all."""
    logger = logging.getLogger("dicomflow")
    before = logger.level
    if logger.getEffectiveLevel() > logging.DEBUG:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _print(console: Console, finding: Finding) -> None:
    color = _COLORS[finding.state]
    state = f"[{color}]{finding.state.value:8}[/{color}]"
    console.print(f"{state} {finding.name:{_NAME_WIDTH}} {escape(finding.text)}", highlight=False)
    if finding.advice and finding.state is not State.OK:
        console.print(f"{'':9}{'':{_NAME_WIDTH}} do: {escape(finding.advice)}", highlight=False)
