"""`dicomflow send`: a store SCU with progress."""

import json
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dicomflow.edge.sender import Outcome, SendAssociation, StoredFile, plan_associations, read_stored_file
from dicomflow.errors import DicomflowError, PeerError, PermanentError

__all__ = ["send"]

_SHOWN_FAILURES: Final = 20
_logger = logging.getLogger(__name__)
_GROUP: Final = 100


def send(
    host: Annotated[str, typer.Argument(help="The receiver's host name or address.")],
    port: Annotated[int, typer.Argument(help="The receiver's DIMSE port.", min=1, max=65535)],
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders that are searched for Part 10 files.")],
    *,
    associations: Annotated[int, typer.Option(help="How many associations to keep busy.", min=1, max=64)] = 1,
    calling_ae_title: Annotated[str, typer.Option(help="Our AE title.")] = "DICOMFLOW",
    called_ae_title: Annotated[str, typer.Option(help="The receiver's AE title.")] = "ANY-SCP",
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait for the receiver.", min=0.1)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send DICOM files to a receiver over DIMSE.

    Objects are sent in the transfer syntax they are stored in. Exits 1 if anything was not stored by the receiver.
    """
    files, unreadable, skipped = _collect(paths)
    if not files and not unreadable:
        raise PermanentError("no DICOM Part 10 file among the paths; nothing to send")
    sender = _Sender(host, port, calling_ae_title, called_ae_title, timeout_seconds)
    show = not as_json and sys.stderr.isatty()
    with _progress(disable=not show) as progress:
        task = progress.add_task("sending", total=sum(file.bytes for file in files))
        outcomes = sender.run(files, associations, lambda file: progress.advance(task, file.bytes))
    failures = [(str(path), reason) for path, reason in unreadable]
    failures += [(str(each.file.path), each.reason) for each in outcomes if not each.is_stored]
    stored = sum(each.is_stored for each in outcomes)
    if as_json:
        document = {
            "asked": len(files) + len(unreadable),
            "stored": stored,
            "skipped": skipped,
            "failed": [{"path": path, "reason": reason} for path, reason in failures],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        _print_summary(len(files) + len(unreadable), stored, skipped, failures)
    if failures:
        raise typer.Exit(1)


class _Sender:
    """Sends files over several associations at once; `_lock` guards the outcomes."""

    def __init__(self, host: str, port: int, calling: str, called: str, timeout_seconds: float) -> None:
        self._host = host
        self._port = port
        self._calling = calling
        self._called = called
        self._timeout_seconds = timeout_seconds
        self._outcomes: list[Outcome] = []
        self._lock = threading.Lock()

    def run(self, files: list[StoredFile], associations: int, advance: Callable[[StoredFile], None]) -> list[Outcome]:
        """Send all files and return an outcome for each."""
        groups: queue.SimpleQueue[list[StoredFile]] = queue.SimpleQueue()
        share = min(_GROUP, -(-len(files) // associations)) if associations > 1 else len(files)
        for start in range(0, len(files), share or 1):
            for group in plan_associations(files[start : start + share]):
                groups.put(group)
        threads = [threading.Thread(target=self._send_groups, args=(groups, advance)) for _ in range(associations)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = {id(outcome.file) for outcome in self._outcomes}
        return self._outcomes + [Outcome(file, None, "not sent") for file in files if id(file) not in ended]

    def _send_groups(
        self, groups: "queue.SimpleQueue[list[StoredFile]]", advance: Callable[[StoredFile], None]
    ) -> None:
        while True:
            try:
                group = groups.get_nowait()
            except queue.Empty:
                return
            try:
                for outcome in self._send_group(group):
                    with self._lock:
                        self._outcomes.append(outcome)
                    advance(outcome.file)
            except Exception:
                # A thread's boundary: the group's files without an outcome are reported as not sent.
                _logger.exception("send_failed")

    def _send_group(self, group: list[StoredFile]) -> Iterator[Outcome]:
        """Yield an outcome for each file; what an association that broke off left unsent has its reason."""
        pairs = list(dict.fromkeys((file.meta.sop_class_uid, file.meta.transfer_syntax_uid) for file in group))
        sent = 0
        try:
            with SendAssociation(
                self._host,
                self._port,
                pairs,
                calling_ae_title=self._calling,
                called_ae_title=self._called,
                timeout_seconds=self._timeout_seconds,
            ) as association:
                for file in group:
                    outcome = association.store(file)
                    sent += 1
                    yield outcome
        except (DicomflowError, OSError) as error:
            for file in group[sent:]:
                yield Outcome(file, None, str(error))


def _collect(paths: list[Path]) -> tuple[list[StoredFile], list[tuple[Path, str]], int]:
    """Return the files to send, what was named and cannot be sent, and how many others folders held."""
    files: list[StoredFile] = []
    unreadable: list[tuple[Path, str]] = []
    skipped = 0
    for path in paths:
        is_folder = path.is_dir()
        for candidate in sorted(each for each in path.rglob("*") if each.is_file()) if is_folder else [path]:
            try:
                files.append(read_stored_file(candidate))
            except PeerError as error:
                if is_folder:
                    skipped += 1
                else:
                    unreadable.append((candidate, str(error)))
            except OSError as error:
                unreadable.append((candidate, error.strerror or str(error)))
    return files, unreadable, skipped


def _progress(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=disable,
    )


def _print_summary(asked: int, stored: int, skipped: int, failures: list[tuple[str, str]]) -> None:
    console = Console(soft_wrap=True)
    console.print(
        f"{stored} of {asked} stored" + (f", {skipped} files that are no DICOM skipped" if skipped else ""),
        highlight=False,
    )
    for path, reason in failures[:_SHOWN_FAILURES]:
        console.print(f"failed: {path}: {reason}", highlight=False, markup=False)
    if len(failures) > _SHOWN_FAILURES:
        console.print(f"and {len(failures) - _SHOWN_FAILURES} more; --json lists all", highlight=False)
