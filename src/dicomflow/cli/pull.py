"""`dicomflow pull`: what a source has, what of it is missing here, and fetch that."""

import csv
import json as json_
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from filelock import Timeout
from rich.console import Console

from dicomflow.cli.tables import print_table
from dicomflow.cli.telling import teller
from dicomflow.edge.pull.fetch import Peer, peer_of
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import Job, Jobs, JobState
from dicomflow.edge.pull.process import note_days
from dicomflow.edge.pull.questions import Question, parse_question
from dicomflow.edge.pull.report import COLUMNS, documents, row_of, summary
from dicomflow.edge.pull.work import Pull, Surroundings
from dicomflow.edge.settings import EdgeSettings, load_settings
from dicomflow.edge.spool.locks import lock_of
from dicomflow.errors import PermanentError

__all__ = ["pull"]

_SHOWN: Final = 200
_SHOWN_IMAGES: Final = 20
_WAIT_SECONDS: Final = 0.5


def pull(
    name: Annotated[str, typer.Argument(help="The source, as `[sources.NAME]` of the settings calls it.")],
    config: Annotated[Path, typer.Option(help="The edge's settings file.")],
    *,
    study_date: Annotated[str, typer.Option(help="A date, or some: 20260131, 20260101-20260131, 20260101-.")] = "",
    modality: Annotated[str, typer.Option(help="Studies with a series of this modality.")] = "",
    patient_id: Annotated[str, typer.Option(help="Studies of a patient.")] = "",
    accession: Annotated[str, typer.Option(help="The study with this accession number.")] = "",
    priors: Annotated[int, typer.Option(help="Only so many of the patient's studies, the newest.", min=0)] = 0,
    uids: Annotated[Path | None, typer.Option(help="A file with a Study Instance UID in each line.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Ask by Patient ID too, where the source cuts answers: for undated studies.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and fetch nothing.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Stop all fetching from the source, until --resume.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Take the pause back, and finish what is begun.")] = False,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="Print what the edge's last nightly comparison found, and ask nothing.")
    ] = False,
    patience_seconds: Annotated[
        float, typer.Option(help="For how long a source that does not answer is tried again.", min=0)
    ] = 60.0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the studies as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare with a source, and fetch what is missing here.

    A source is asked what it has, study by study and image by image; what is in this edge's spool, or in the store
    that is configured now, is subtracted; the rest comes to the edge's own receiver, which must run. Then all is asked
    and compared again, and the report says what that found. Without a filter everything is asked for.

    What was interrupted goes on where it was when the same command is given again. Exits 1 while anything is missing,
    or may be, since the source did not tell.

    For example: dicomflow pull PACS1 --config edge.toml --study-date 20260101-20260131 --dry-run

    Or, before a patient comes: dicomflow pull PACS1 --config edge.toml --patient-id 4711 --priors 5
    """
    settings = load_settings(config)
    peer = peer_of(name, settings)
    question = parse_question(
        study_date=study_date,
        modality=modality,
        patient_id=patient_id,
        accession=accession,
        priors=priors,
        uids=_lines(uids) if uids is not None else None,
        is_full=full,
    )
    if pause and resume:
        raise PermanentError("name one of --pause and --resume")
    if not settings.spool.dir.is_dir():
        raise PermanentError(f"there is no spool in {settings.spool.dir}: start the edge first")
    jobs = Jobs(settings.spool.dir)
    try:
        if pause or resume:
            jobs.pause(name, is_paused=pause)
        if pause:
            typer.echo(f"nothing is fetched from {name} until: dicomflow pull {name} --config {config} --resume")
            return
        if nightly:
            last = jobs.last_nightly(name)
            if last is None:
                raise PermanentError(f"the edge has not compared itself with {name} at night yet")
            _finish(jobs, [(last, "")], name, as_json=as_json, as_csv=as_csv)
            return
        begun = jobs.unfinished(name, JobState.RUNNING, JobState.STOPPED) if resume and question == Question() else []
        done = [
            _run(settings, peer, jobs, each, patience_seconds, is_quiet=as_json)
            for each in begun or [jobs.begin(name, question, is_dry=dry_run)]
        ]
        _finish(jobs, done, name, as_json=as_json, as_csv=as_csv)
    finally:
        jobs.close()


def _finish(jobs: Jobs, done: list[tuple[Job, str]], name: str, *, as_json: bool, as_csv: bool) -> None:
    """Print the reports, and exit 1 while anything is missing."""
    _print(jobs, done, name, as_json=as_json, as_csv=as_csv)
    if not all(summary(jobs, job)["is_whole"] for job, _ in done):
        raise typer.Exit(1)


def _run(
    settings: EdgeSettings, peer: Peer, jobs: Jobs, job: Job, patience_seconds: float, *, is_quiet: bool
) -> tuple[Job, str]:
    """Work on a job until it ends or is interrupted, and return it with what interrupted it."""
    stopping = threading.Event()
    around = Surroundings(stopping, settings.spool, teller(is_quiet=is_quiet), patience_seconds=patience_seconds)
    if not job.is_dry:
        _require_receiver(peer)
    work = Pull(peer, Holdings(settings), jobs, around)
    if job.is_dry:
        with _stopped_by_signals(stopping):
            return work.run(job), work.interrupted
    lock = lock_of(settings.spool.dir, f"pull-{peer.name}")
    with _stopped_by_signals(stopping):
        while not stopping.is_set():
            try:
                with lock.acquire(timeout=_WAIT_SECONDS):
                    job = work.run(jobs.job(job.id))
                    note_days(settings.spool.dir, jobs, job, job.created_at.astimezone())
                    break
            except Timeout:
                around.tell(f"something fetches from {peer.name} already, the edge itself or another command: waiting")
    if stopping.is_set():
        jobs.change(job.id, JobState.RUNNING, JobState.STOPPED)  # or the edge would go on with it
    return jobs.job(job.id), work.interrupted or ("it was stopped" if stopping.is_set() else "")


def _require_receiver(peer: Peer) -> None:
    """Find out before anything is fetched that nobody would take it; port 0 is known to the edge alone."""
    if peer.receiver[1] == 0:
        if not peer.source.move_destination:
            raise PermanentError("C-GET needs the edge's port: set dimse.port")
        return
    try:
        socket.create_connection(peer.receiver, timeout=5).close()
    except OSError as error:
        host, port = peer.receiver
        raise PermanentError(
            f"the edge does not listen on {host} port {port} ({error.strerror or error}): start it,"
            " since what is fetched comes to its receiver"
        ) from error


class _stopped_by_signals:  # noqa: N801  # used as a function is
    """Lets Ctrl-C and SIGTERM end the work after the image at hand."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, lambda _number, _frame: self._stopping.set())

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if (text := line.strip()) and not text.startswith("#"):
                yield text


def _print(jobs: Jobs, done: list[tuple[Job, str]], name: str, *, as_json: bool, as_csv: bool) -> None:
    for job, interrupted in done:
        if as_json:
            _print_json(jobs, job, name, interrupted)
        elif as_csv:
            writer = csv.writer(sys.stdout)
            writer.writerow(COLUMNS)
            writer.writerows(row_of(each) for each in jobs.studies(job.id))
        else:
            _print_table(jobs, job)
        for text in filter(
            None, (job.cut and f"possibly cut: {job.cut}", interrupted and f"interrupted: {interrupted}")
        ):
            if not as_json:
                typer.echo(text, err=as_csv)


def _print_json(jobs: Jobs, job: Job, name: str, interrupted: str) -> None:
    """Print a study at a time, since there may be a million."""
    counts = summary(jobs, job)
    head: dict[str, Any] = {"name": name, "job": job.id, "interrupted": interrupted, **counts}
    typer.echo(json_.dumps(head, indent=2)[:-2] + ',\n  "studies": [', nl=False)
    separator = "\n"
    for document in documents(jobs, job):
        typer.echo(separator + json_.dumps(document), nl=False)
        separator = ",\n"
    typer.echo("]\n}")


def _print_table(jobs: Jobs, job: Job) -> None:
    counts = summary(jobs, job)
    studies = list(islice(jobs.studies(job.id), _SHOWN + 1))
    total = sum(counts["states"].values())
    print_table(Console(), "studies", COLUMNS, [row_of(each) for each in studies[:_SHOWN]], hide_empty=True)
    if len(studies) > _SHOWN:
        typer.echo(f"and {total - _SHOWN} more; --csv and --json list all")
    for study in studies[:_SHOWN]:
        for image in [] if job.is_dry else jobs.missing(job.id, study.uid)[:_SHOWN_IMAGES]:
            typer.echo(f"missing: {image.uid} of {study.uid}" + (f": {image.reason}" if image.reason else ""))
    for note in job.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{counts['source']} images at the source, {counts['here']} here, {counts['stored']} stored,"
        f" {counts['imported']} imported, {counts['missing']} missing ({counts['refused']} refused),"
        f" {counts['unknown']} here that the source does not know"
    )
    words = ", ".join(f"{number} {state}" for state, number in sorted(counts["states"].items())) or "none"
    typer.echo(f"studies: {words}")
