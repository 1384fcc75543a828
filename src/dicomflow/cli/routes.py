"""`dicomflow routes`: what an edge's routes say of files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dicomflow.cli.tables import as_json, print_table
from dicomflow.edge.destinations import DEFAULT_STORE
from dicomflow.edge.routes.attributes import read_candidate
from dicomflow.edge.routes.decision import Candidate, Choice, SeriesDecision, decide
from dicomflow.edge.settings import EdgeSettings, load_settings
from dicomflow.errors import PeerError, PermanentError
from dicomflow.send.files import find_candidates

__all__ = ["routes"]

routes = typer.Typer(
    help="Say which destinations files would go to, and why.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@routes.callback()
def _group() -> None:
    """Keep `test` a command of its own, beside those to come."""


@routes.command("test")
def decide_files(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    config: Annotated[Path, typer.Option(help="The edge's settings file.")],
    calling_ae_title: Annotated[
        str | None, typer.Option(help="As if sent by this AE title, and not by the one that a file names.")
    ] = None,
    called_ae_title: Annotated[str | None, typer.Option(help="As if sent to this AE title.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON array with one object a file.")] = False,
) -> None:
    """Say where files would go in one delivery, and why.

    For example: dicomflow routes test scan.dcm --config /etc/dicomflow/edge.toml --calling-ae-title CT1

    Nothing is sent, and nothing but the files and the settings is read. The AE titles of a file that no edge has
    received are what its writer put there: give those of the device and of the edge. Exits 1 when a file cannot be
    read.
    """
    settings = load_settings(config)
    found: list[tuple[str, Candidate]] = []
    failed: list[tuple[str, str]] = []
    for each in find_candidates(files):
        try:
            if each.skipped is not None or each.member is not None:
                raise PermanentError(each.skipped.reason if each.skipped else "it is in an archive: unpack it first")  # noqa: TRY301  # as one that cannot be read
            found.append((each.name, read_candidate(each.path, calling_ae_title, called_ae_title)))
        except (PeerError, PermanentError) as error:
            failed.append((each.name, str(error)))
        except OSError as error:
            failed.append((each.name, error.strerror or type(error).__name__))
    decisions = decide(settings.routes, settings.destinations, [candidate for _, candidate in found])
    by_series = {each.series_instance_uid: each for each in decisions}
    rows = [
        (each.destination, _is_required(settings, each.destination), why, name)
        for name, candidate in found
        for each, why in _told(candidate, by_series[candidate.series_instance_uid])
    ]
    # The name is the longest: on a narrow terminal it is what is cut.
    columns = ("destination", "required", "why", "file")
    if json:
        typer.echo(as_json(columns, rows))
    else:
        print_table(
            Console(), "where files would go", columns, [(row[0], "yes" if row[1] else "no", *row[2:]) for row in rows]
        )
    for name, reason in failed:
        typer.echo(f"{name}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


def _is_required(settings: EdgeSettings, destination: str) -> bool:
    return destination == DEFAULT_STORE or settings.destinations[destination].required


def _told(candidate: Candidate, decision: SeriesDecision) -> Iterator[tuple[Choice, str]]:
    """Yield where a file goes, with the reason."""
    chosen = decision.of(candidate.sop_instance_uid)
    echoes = {each.destination for each in decision.choices} - {each.destination for each in chosen}
    echo = f"not to {', '.join(sorted(echoes))}, which sent it" if echoes else ""
    for each in chosen:
        by = each.route or decision.doubt or ("" if echo else "no route fits")
        yield each, "; ".join(filter(None, (by, echo)))
