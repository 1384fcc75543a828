"""`dicomflow send`: a store SCU with progress."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomflow.errors import PermanentError
from dicomflow.send.association import Outcome
from dicomflow.send.files import Candidate, Skipped, find_candidates
from dicomflow.send.journal import Journal
from dicomflow.send.sending import Receiver, Sending

__all__ = ["send"]

_SHOWN: Final = 20
_FILES_AN_ASSOCIATION: Final = 10  # fewer are not worth another association
_BATCHES_AN_ASSOCIATION: Final = 4
_MAX_BATCH_FILES: Final = 50


@dataclass(slots=True)
class _Result:
    """What became of all files."""

    stored: int = 0
    already: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return self.stored + self.already + len(self.failures)


def send(
    host: Annotated[str, typer.Argument(help="The receiver's host name or address.")],
    port: Annotated[int, typer.Argument(help="The receiver's DIMSE port.", min=1, max=65535)],
    paths: Annotated[list[Path], typer.Argument(help="Files, folders, zip archives, or a DICOMDIR.")],
    *,
    associations: Annotated[int, typer.Option(help="How many associations to use at most.", min=1, max=64)] = 4,
    calling_ae_title: Annotated[str, typer.Option(help="Our AE title.")] = "DICOMFLOW",
    called_ae_title: Annotated[str, typer.Option(help="The receiver's AE title.")] = "ANY-SCP",
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait for the receiver.", min=0.1)] = 60.0,
    retries: Annotated[
        int, typer.Option(help="How often a file is tried again when its association breaks.", min=0)
    ] = 3,
    journal: Annotated[
        Path | None,
        typer.Option(help="A file that notes what was accepted; with it a send that was interrupted goes on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send DICOM files to a receiver over DIMSE.

    Folders are searched for Part 10 files, archives are not unpacked to disk but for large members, and of a DICOMDIR
    the files that it lists are sent. Links to files are followed; links to folders, devices and the like are passed
    over and named. Objects go in the transfer syntax they are stored in. Exits 1 if anything was not stored by the
    receiver, or could not be read.

    For example: dicomflow send pacs.example 11112 ~/study --called-ae-title ARCHIVE

    Or: dicomflow send 127.0.0.1 11112 old-archive.zip --journal old-archive.journal
    """
    candidates = list(find_candidates(paths))
    noted = Journal(journal, f"{host} {port} {called_ae_title}") if journal is not None else None
    result = _Result()
    show = not as_json and sys.stderr.isatty()
    with ExitStack() as stack:
        if noted is not None:
            stack.callback(noted.close)
        todo = [each for each in candidates if noted is None or not noted.has(each)]
        result.already = len(candidates) - len(todo)
        advance = _show_progress(stack, sum(each.bytes for each in todo)) if show else lambda _size: None
        most, batch_files = _share(len(todo), associations)
        Sending(
            Receiver(host, port, calling_ae_title, called_ae_title, timeout_seconds),
            lambda candidate, became: _take(result, noted, advance, candidate, became),
            associations=most,
            retries=retries,
            batch_files=batch_files,
        ).run(todo)
    if not result.asked:
        raise PermanentError("no DICOM Part 10 file among the paths; nothing to send")
    _print(result, as_json=as_json)
    if result.failures:
        raise typer.Exit(1)


def _share(files: int, associations: int) -> tuple[int, int]:
    """Return how many associations so many files are worth, and how many files each takes at a time."""
    most = min(associations, -(-files // _FILES_AN_ASSOCIATION)) or 1
    return most, max(1, min(_MAX_BATCH_FILES, files // (most * _BATCHES_AN_ASSOCIATION)))


def _take(
    result: _Result,
    journal: Journal | None,
    advance: Callable[[int], Any],
    candidate: Candidate,
    became: Outcome | Skipped,
) -> None:
    """Count what became of a file, and note it when the receiver has it."""
    advance(candidate.bytes)
    if isinstance(became, Skipped):
        if became.is_failure:
            result.failures.append((candidate.name, became.reason))
        else:
            result.skipped += 1
            if candidate.skipped is not None:
                result.passed_over.append((candidate.name, became.reason))
    elif became.is_stored:
        result.stored += 1
        if journal is not None:
            journal.add(candidate, became.file.meta.sop_instance_uid)
    else:
        result.failures.append((candidate.name, became.reason))


def _show_progress(stack: ExitStack, total_bytes: int) -> Callable[[int], None]:
    """Show a bar with speed and time left, for a terminal."""
    from rich.console import Console  # noqa: PLC0415  # a pipe needs none of it, and starts sooner
    from rich.progress import (  # noqa: PLC0415  # as above
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = stack.enter_context(
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    task = progress.add_task("sending", total=total_bytes)
    return lambda size_bytes: progress.advance(task, size_bytes)


def _print(result: _Result, *, as_json: bool) -> None:
    failures = sorted(result.failures)
    if as_json:
        document: dict[str, Any] = {
            "asked": result.asked,
            "stored": result.stored,
            "already": result.already,
            "skipped": result.skipped,
            "failed": [{"path": path, "reason": reason} for path, reason in failures],
        }
        if result.passed_over:
            document["passed_over"] = [{"path": path, "reason": reason} for path, reason in sorted(result.passed_over)]
        typer.echo(json.dumps(document, indent=2))
        return
    parts = [f"{result.stored} of {result.asked} stored"]
    if result.already:
        parts.append(f"{result.already} were accepted before")
    if result.skipped:
        parts.append(f"{result.skipped} files that are no instances skipped")
    typer.echo(", ".join(parts))
    for word, listed in (("failed", failures), ("passed over", sorted(result.passed_over))):
        for path, reason in listed[:_SHOWN]:
            typer.echo(f"{word}: {path}: {reason}")
        if len(listed) > _SHOWN:
            typer.echo(f"and {len(listed) - _SHOWN} more; --json lists all")
