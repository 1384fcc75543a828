"""The process that the edge's own pulls run in: what was interrupted is finished, and the last days compared at night.

There is one only where the settings have sources. Each source has a thread, and while that works the source's lock, so
that `dicomflow pull` and the edge never fetch the same at once.
"""

import logging
import os
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from filelock import Timeout

from dicomflow.bucket.compared import ComparedSource
from dicomflow.edge.processes import ProcessStart, begin_process, watch_until_stop
from dicomflow.edge.pull.days import days_after
from dicomflow.edge.pull.fetch import peer_of
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import Job, Jobs, JobState
from dicomflow.edge.pull.questions import Question
from dicomflow.edge.pull.report import totals
from dicomflow.edge.pull.work import Pull, Surroundings
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.compared import note_compared, read_compared
from dicomflow.edge.spool.locks import lock_of
from dicomflow.edge.spool.passing import discard_passing

__all__ = ["nightly_due", "note_days", "run_pulls", "step"]

_POLL_SECONDS: Final = 5.0
# Between two tries of what was interrupted: a source that is off for the night is asked once in so long.
_FIRST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 3.5
_PATIENCE_SECONDS: Final = 300.0

_logger = logging.getLogger(__name__)


def run_pulls(start: ProcessStart) -> None:
    """Run pulls until the stop. Process: the main function of its process."""
    stopping = begin_process(start)
    discard_passing(start.settings.spool.dir)
    threads = [
        threading.Thread(target=_follow, args=(start.settings, name, stopping), name=f"pull-{name}", daemon=True)
        for name in start.settings.sources
    ]
    for thread in threads:
        thread.start()
    watch_until_stop(start, stopping)
    for thread in threads:
        thread.join(_STOP_SECONDS / len(threads))
    logging.shutdown()
    # A retrieval that is under way breaks, as with a kill.
    os._exit(0)


def nightly_due(nightly: str, last: Job | None, now: datetime) -> bool:
    """Tell whether the nightly job of a source is due: it was not begun since its time was last."""
    hour, minute = map(int, nightly.split(":"))
    due = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if due > now:
        due -= timedelta(days=1)
    return last is None or last.created_at < due


def step(pull: Pull, jobs: Jobs, root: Path, now: datetime) -> bool:
    """Do what is due of a source, while its lock is held; tell whether something was interrupted."""
    peer = pull.peer
    due = jobs.unfinished(peer.name, JobState.RUNNING)
    nightly = peer.source.nightly
    if nightly is not None and nightly_due(nightly, jobs.last_nightly(peer.name), now):
        first = now.date() - timedelta(days=peer.source.nightly_days - 1)
        question = Question(study_date=f"{first:%Y%m%d}-{now.date():%Y%m%d}")
        due.append(jobs.begin(peer.name, question, is_dry=False, is_nightly=True))
    interrupted = False
    for job in {each.id: each for each in due}.values():
        ended = pull.run(job)
        interrupted |= bool(pull.interrupted)
        if ended.is_nightly:
            _note(pull, jobs, ended, root, now)
        else:
            note_days(root, jobs, ended, _begun_at(job, now))
    return interrupted


def note_days(root: Path, jobs: Jobs, job: Job, at: datetime) -> None:
    """Put what a job found of each day into the note of its source, if there is one; `at` is when it was begun."""
    for told in read_compared(root, (job.source,)):
        note_compared(root, replace(told, days=days_after(jobs, job, told.days, at)))


def _note(pull: Pull, jobs: Jobs, job: Job, root: Path, now: datetime) -> None:
    """Tell the heartbeat what a nightly comparison found; one that was interrupted is not whole either."""
    sums, _, all_whole = totals(jobs, job)
    unread = "" if all_whole else "not all that the source has could be compared"
    reason = pull.interrupted or job.cut or ("" if sums.missing else unread)
    before = next((each.days for each in read_compared(root, (job.source,))), ())
    days = days_after(jobs, job, before, _begun_at(job, now))
    note_compared(root, ComparedSource(job.source, now, sums.source, sums.missing, all_whole, reason, days))


def _begun_at(job: Job, now: datetime) -> datetime:
    """Return the local time at which a job was begun: what one that was interrupted has listed is of before."""
    return min(job.created_at.astimezone(now.tzinfo), now)


def _follow(settings: EdgeSettings, name: str, stopping: threading.Event) -> None:
    """Step until the stop; the thread's boundary."""
    pause = _FIRST_PAUSE_SECONDS
    lock = lock_of(settings.spool.dir, f"pull-{name}")
    while not stopping.wait(_POLL_SECONDS):
        try:
            with lock.acquire(timeout=0):
                is_interrupted = _step(settings, name, stopping)
        except Timeout:  # somebody's command has it
            continue
        except Exception:
            _logger.exception("pull_failed source=%s", name)
            is_interrupted = True
        if is_interrupted:
            stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        else:
            pause = _FIRST_PAUSE_SECONDS


def _step(settings: EdgeSettings, name: str, stopping: threading.Event) -> bool:
    jobs = Jobs(settings.spool.dir)
    try:
        if jobs.is_paused(name):
            return False
        around = Surroundings(stopping, settings.spool, patience_seconds=_PATIENCE_SECONDS)
        pull = Pull(peer_of(name, settings), Holdings(settings), jobs, around)
        return step(pull, jobs, settings.spool.dir, around.clock())
    finally:
        jobs.close()
