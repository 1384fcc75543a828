"""`dicomflow send`: a store SCU with progress."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.dimse.items import UserIdentity
from dicomflow.dimse.status import describe_status
from dicomflow.errors import DicomflowError, PeerError, PermanentError
from dicomflow.network.settings import ClientTls
from dicomflow.network.tls import client_context
from dicomflow.send.association import Outcome
from dicomflow.send.files import Candidate, Skipped, find_candidates, read_stored_file
from dicomflow.send.journal import Journal
from dicomflow.send.sending import Receiver, Sending
from dicomflow.send.tally import Listed, Report, Tally

__all__ = ["send"]

_SHOWN: Final = 20
_FILES_AN_ASSOCIATION: Final = 10  # fewer are not worth another association
_BATCHES_AN_ASSOCIATION: Final = 4
_MAX_BATCH_FILES: Final = 50
# So many are found before the first is sent, for a bar that knows its end; of more there is none.
_FOUND_FIRST: Final = 2000
# PS3.7 D.3.3.7.1
_USERNAME, _USERNAME_AND_PASSCODE = 1, 2

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """What a send works with while it runs; `left` has what was found first and is not told of yet."""

    tally: Tally
    journal: Journal | None
    report: Report | None
    log_every: int
    advance: Callable[[int], Any] = lambda _size: None
    left: dict[Candidate, None] = field(default_factory=dict)
    started_at: float = field(default_factory=time.monotonic)

    def todo(self, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
        """Yield what the journal has not."""
        for candidate in candidates:
            if self.journal is not None and self.journal.has(candidate):
                self.tally.already += 1
                self._tell(candidate, "", "accepted before", "")
            else:
                yield candidate

    def take(self, candidate: Candidate, became: Outcome | Skipped) -> None:
        """Count what became of a file, and note it when the receiver has it."""
        self.advance(candidate.bytes)
        self.left.pop(candidate, None)
        result = self.tally.take(candidate, became)
        uid = became.file.meta.sop_instance_uid if isinstance(became, Outcome) else ""
        if result == "stored" and self.journal is not None:
            self.journal.add(candidate, uid)
        self._tell(candidate, uid, result, became.reason)

    def _tell(self, candidate: Candidate, uid: str, result: str, reason: str) -> None:
        if self.report is not None:
            self.report.add(candidate, uid, result, reason)
        if self.log_every and self.tally.seen % self.log_every == 0:
            seconds = max(time.monotonic() - self.started_at, 1e-3)
            _logger.info(
                "sending files=%d stored=%d already=%d failed=%d skipped=%d files_per_second=%.0f",
                *(self.tally.seen, self.tally.stored, self.tally.already, self.tally.failures.count),
                *(self.tally.skipped, self.tally.seen / seconds),
            )


def send(
    host: Annotated[str, typer.Argument(help="The receiver's host name or address.")],
    port: Annotated[int, typer.Argument(help="The receiver's DIMSE port.", min=1, max=65535)],
    paths: Annotated[list[Path] | None, typer.Argument(help="Files, folders, zip archives, or a DICOMDIR.")] = None,
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
    report: Annotated[Path | None, typer.Option(help="Write a line of CSV for each file, as it is known.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find and read the files, and send nothing.")] = False,
    log_every: Annotated[int, typer.Option(help="Log how far it is after each so many files.", min=0)] = 0,
    echo: Annotated[bool, typer.Option("--echo", help="Only ask whether the receiver answers (C-ECHO).")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; the system's authorities are trusted.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="TLS, trusting this authority too.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="TLS, with this certificate of ours.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of --tls-certificate.")] = None,
    user: Annotated[str, typer.Option(help="The user as whom to ask for associations.")] = "",
    passcode_file: Annotated[Path | None, typer.Option(help="A file whose first line is the user's passcode.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send DICOM files to a receiver over DIMSE.

    Folders are searched for Part 10 files and for data sets without a preamble, archives are not unpacked to disk but
    for large members, and of a DICOMDIR the files that it lists are sent. Links to files are followed; links to
    folders, devices and the like are passed over and named. Objects go in the transfer syntax they are stored in.
    Exits 1 if anything was not stored by the receiver, or could not be read. When the receiver is gone it ends, and
    with Ctrl-C too, and says how far it was; with a journal the same command goes on.

    For example: dicomflow send pacs.example 11112 ~/study --called-ae-title ARCHIVE

    Or: dicomflow send 127.0.0.1 11112 old-archive.zip --journal old-archive.journal --report old-archive.csv
    """
    receiver = Receiver(
        *(host, port, calling_ae_title, called_ae_title, timeout_seconds),
        tls=_tls(tls_ca, tls_certificate, tls_key) if tls or tls_ca or tls_certificate or tls_key else None,
        user_identity=_identity(user, passcode_file),
    )
    if echo:
        _echo(receiver, as_json=as_json)
        return
    if not paths:
        raise typer.BadParameter("name files or folders to send", param_hint="PATHS")
    with ExitStack() as stack:
        noted = Journal(journal, f"{host} {port} {called_ae_title}") if journal is not None else None
        written = Report(report) if report is not None else None
        for each in (noted, written):
            if each is not None:
                stack.callback(each.close)
        run = _Run(Tally(), noted, written, log_every)
        ended = _send(run, receiver, paths, associations, retries, dry_run=dry_run, show=not as_json, stack=stack)
    tally = run.tally
    if not tally.asked and not ended:
        raise PermanentError("no DICOM Part 10 file among the paths; nothing to send")
    _print(tally, ended, dry_run=dry_run, as_json=as_json)
    if tally.failures.count or ended:
        raise typer.Exit(1)


def _send(
    run: _Run,
    receiver: Receiver,
    paths: list[Path],
    associations: int,
    retries: int,
    *,
    dry_run: bool,
    show: bool,
    stack: ExitStack,
) -> str:
    """Send what is found; return why it ended before all was, or nothing."""
    found = run.todo(find_candidates(paths))
    first = list(islice(found, _FOUND_FIRST))
    is_all = len(first) < _FOUND_FIRST
    run.left = dict.fromkeys(first) if is_all else {}
    if show and sys.stderr.isatty():
        run.advance = _show_progress(stack, sum(each.bytes for each in first) if is_all else None)
    candidates = chain(first, found)
    try:
        if dry_run:
            for candidate in candidates:
                run.take(candidate, _read(candidate))
            return ""
        most, batch_files = _share(len(first), associations)
        sending = Sending(receiver, run.take, associations=most, retries=retries, batch_files=batch_files)
        sending.run(candidates)
    except KeyboardInterrupt:
        return "interrupted"
    if sending.gone:
        for candidate in [*run.left]:  # of a few files each is told
            run.take(candidate, Skipped(sending.gone, is_failure=True))
        return "" if is_all else f"the receiver is gone: {sending.gone}"
    return ""


def _read(candidate: Candidate) -> Outcome | Skipped:
    """Return what a file would be sent as: stored, for the counts, though nothing was."""
    if candidate.skipped is not None:
        return candidate.skipped
    try:
        return Outcome(read_stored_file(candidate.path, candidate.member), 0, "")
    except PeerError as error:
        return Skipped(str(error), is_failure=candidate.is_named)
    except (PermanentError, OSError) as error:
        return Skipped(getattr(error, "strerror", None) or str(error), is_failure=True)


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Any:  # an SSL context
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--tls-certificate and --tls-key belong together", param_hint="--tls-key")
    return client_context(ClientTls(ca=ca, certificate=certificate, key=key))


def _identity(user: str, passcode_file: Path | None) -> UserIdentity | None:
    if passcode_file is None:
        return UserIdentity(_USERNAME, response_requested=False, primary=user.encode(), secondary=b"") if user else None
    if not user:
        raise typer.BadParameter("a passcode is of a user: name --user", param_hint="--passcode-file")
    lines = passcode_file.read_text(encoding="utf-8").splitlines()
    passcode = lines[0].encode() if lines else b""
    return UserIdentity(_USERNAME_AND_PASSCODE, response_requested=False, primary=user.encode(), secondary=passcode)


def _echo(receiver: Receiver, *, as_json: bool) -> None:
    """C-ECHO, and what came of it; exit 1 unless it is success."""
    syntaxes = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    started = time.monotonic()
    try:
        with receiver.associate([(VERIFICATION, each) for each in syntaxes]) as association:
            status = association.echo()
    except DicomflowError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"answers": False, "reason": str(error)}))
        raise typer.Exit(1) from None
    milliseconds = round(1000 * (time.monotonic() - started), 1)
    if as_json:
        typer.echo(json.dumps({"answers": status == 0, "status": f"{status:04X}", "milliseconds": milliseconds}))
    else:
        typer.echo(f"{receiver.called_ae_title} answers {describe_status(status)} after {milliseconds:g} ms")
    if status:
        raise typer.Exit(1)


def _share(files: int, associations: int) -> tuple[int, int]:
    """Return how many associations so many files are worth, and how many files each takes at a time."""
    most = min(associations, -(-files // _FILES_AN_ASSOCIATION)) or 1
    return most, max(1, min(_MAX_BATCH_FILES, files // (most * _BATCHES_AN_ASSOCIATION)))


def _show_progress(stack: ExitStack, total_bytes: int | None) -> Callable[[int], None]:
    """Show a bar with speed and time left, for a terminal; without a total the bar only moves."""
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


def _print(tally: Tally, ended: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "asked": tally.asked,
            "stored": 0 if dry_run else tally.stored,
            "already": tally.already,
            "skipped": tally.skipped,
            "failed": _documents(tally.failures),
        }
        if tally.passed_over.count:
            document["passed_over"] = _documents(tally.passed_over)
        if tally.failures.count > len(tally.failures.first):
            document["failed_count"] = tally.failures.count
        if dry_run:
            document["would_be_sent"] = tally.stored
        if ended:
            document["ended"] = ended
        typer.echo(json.dumps(document, indent=2))
        return
    word = "would be sent" if dry_run else "stored"
    parts = [f"{tally.stored} of {tally.asked} {word}"]
    if tally.already:
        parts.append(f"{tally.already} were accepted before")
    if tally.skipped:
        parts.append(f"{tally.skipped} files that are no instances skipped")
    typer.echo(", ".join(parts))
    if ended:
        typer.echo(f"{ended}; what was not looked at is not counted, and the same command with a journal goes on")
    for name, listed in (("failed", tally.failures), ("passed over", tally.passed_over)):
        for path, reason in sorted(listed.first)[:_SHOWN]:
            typer.echo(f"{name}: {path}: {reason}")
        if listed.count > _SHOWN:
            typer.echo(f"and {listed.count - _SHOWN} more; --report has all, --json the first")


def _documents(listed: Listed) -> list[dict[str, str]]:
    return [{"path": path, "reason": reason} for path, reason in sorted(listed.first)]
