"""A job from its question to its report: the survey, then several studies at once, until each is done.

Whatever ends it, a stop, a pause, a kill or a source that is gone, leaves the job as it stands in its file, from where
it goes on. One study never keeps the others from being fetched.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from dicomflow.edge.pull.fetch import MOST_UIDS, Peer
from dicomflow.edge.pull.here import Holdings
from dicomflow.edge.pull.jobs import Job, Jobs, StudyState
from dicomflow.edge.pull.look import Answers
from dicomflow.edge.pull.report import totals
from dicomflow.edge.pull.study import Limits, StudyPull, UnknownDestinationError
from dicomflow.edge.pull.survey import Survey
from dicomflow.edge.settings import SpoolSettings
from dicomflow.edge.spool.view import free_bytes
from dicomflow.errors import DicomflowError, PermanentError, TransientError, pause_after
from dicomflow.network.querying import QueryAssociation

__all__ = ["Pull", "Surroundings"]

_TRIES: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5
# Of a limited rate, what one list of images may take: so soon a pause, or the end of the hours, is heard.
_LIST_SECONDS: Final = 10
_TYPICAL_BYTES: Final = 512 << 10

_logger = logging.getLogger(__name__)


class _OverError(TransientError):
    """It is stopped or paused."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pull is given from outside.

    `tell` is told of what an operator may want to know while it runs; `clock` gives the local time; a source that does
    not answer is tried again for `patience_seconds`.
    """

    stopping: threading.Event
    spool: SpoolSettings
    tell: Callable[[str], None] = lambda _: None
    clock: Callable[[], datetime] = lambda: datetime.now().astimezone()
    patience_seconds: float = 60.0


class Pull:
    """Works on the jobs of one source. Thread: one owner, who has the lock of the source.

    `interrupted` says why a job is not at its end, empty when it is.
    """

    def __init__(self, peer: Peer, holdings: Holdings, jobs: Jobs, around: Surroundings) -> None:
        self.interrupted = ""
        self.peer = peer
        self._holdings = holdings
        self._jobs = jobs
        self._around = around
        self._lock = threading.Lock()  # guards what follows
        self._waiting: deque[str] = deque()
        self._busy = self._workers = 0
        self._failures = 0
        self._answered_at = time.monotonic()
        self._told = ""
        self._answers = Answers()

    def run(self, job: Job) -> Job:
        """Work on a job until it is done or interrupted; return it as it stands."""
        self.interrupted = ""
        self._answers = Answers()
        self._answered_at = time.monotonic()
        try:
            if not job.is_surveyed:
                self._survey(job)
            self._waiting = deque(self._jobs.open_studies(job.id))
            self._work_on(job)
        except PermanentError as error:
            self.interrupted = str(error)
        except TransientError as error:
            self.interrupted = self.interrupted or str(error)
        self._holdings.close()
        if not self.interrupted and not self._jobs.open_studies(job.id):
            self._jobs.end(job.id)
        ended = self._jobs.job(job.id)
        sums, states, all_whole = totals(self._jobs, ended)
        _logger.log(
            logging.INFO if all_whole else logging.WARNING,
            "pull_ended source=%s job=%d is_nightly=%s is_whole=%s studies=%d images=%d missing=%d reason=%s",
            *(self.peer.name, job.id, job.is_nightly, all_whole, states.total(), sums.source, sums.missing),
            self.interrupted or ended.cut,
        )
        return ended

    def _survey(self, job: Job) -> None:
        while True:
            try:
                with self.peer.for_queries() as association:
                    survey = Survey(
                        association,
                        job.question,
                        lambda study: self._jobs.list_study(job.id, study),
                        answers=self._answers,
                        today=self._around.clock().date(),
                    )
                    survey.run()
                break
            except (DicomflowError, OSError) as error:
                self._bear(error)
        if job.question.priors:
            self._jobs.keep_newest(job.id, job.question.priors)
        self._jobs.surveyed(job.id, survey.cut, survey.notes)
        self._failures = 0

    def _work_on(self, job: Job) -> None:
        self._workers = min(self.peer.source.associations, max(1, len(self._waiting)))
        threads = [
            threading.Thread(target=self._work, args=(job,), name=f"pull-{self.peer.name}-{number}")
            for number in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.interrupted:
            raise TransientError(self.interrupted)

    def _work(self, job: Job) -> None:
        """Work on studies until there are none; the thread's boundary."""
        with ExitStack() as opened:
            held: list[QueryAssociation] = []

            def association() -> QueryAssociation:
                if not held or not held[0].is_open:
                    held[:] = [opened.enter_context(self.peer.for_queries())]
                return held[0]

            limits = Limits(self._admit, self._is_over, self._pay, self._most_uids)
            pull = StudyPull(self.peer, self._holdings, limits, association, self._answers)
            while (uid := self._take()) is not None:
                try:
                    self._one(job, pull, uid)
                except Exception as error:  # noqa: BLE001  # judged there
                    held.clear()
                    opened.pop_all().__exit__(type(error), error, None)
                    if not self._put_back(job, uid, error):
                        return
                finally:
                    with self._lock:
                        self._busy -= 1

    def _one(self, job: Job, pull: StudyPull, uid: str) -> None:
        study = self._jobs.study(job.id, uid)
        if job.is_dry:
            study, missing = pull.compare(study, job.question.modality)
        else:
            study, missing = pull.fetch(study, job.question.modality, lambda begun: self._jobs.take_down(job.id, begun))
            if self._is_over():
                raise _OverError("it was stopped")
            self._holdings.keep(uid)
        self._jobs.take_down(job.id, study, missing)
        with self._lock:
            self._failures, self._answered_at = 0, time.monotonic()
        self._around.tell(f"{len(self._waiting)} studies to go")

    def _take(self) -> str | None:
        with self._lock:
            if self.interrupted or self._around.stopping.is_set() or not self._waiting:
                return None
            self._busy += 1
            return self._waiting.popleft()

    def _put_back(self, job: Job, uid: str, error: Exception) -> bool:
        """Decide what becomes of a study that could not be worked on; False ends the worker."""
        if isinstance(error, _OverError | UnknownDestinationError):
            with self._lock:
                self.interrupted = self.interrupted or str(error)
            return False
        if not isinstance(error, DicomflowError | OSError):
            _logger.error("study_failed study=%s", uid, exc_info=error)
        study = self._jobs.study(job.id, uid)
        study = replace(study, tries=study.tries + 1, reason=_text(error))
        may_pass = isinstance(error, TransientError | OSError) and study.tries < _TRIES
        if not may_pass and self._is_alone_at_fault():
            self._jobs.take_down(job.id, replace(study, state=StudyState.UNREAD))
            return True
        self._jobs.take_down(job.id, study)
        with self._lock:
            self._waiting.append(uid)
            if self._workers > 1 and "rejected 2/3/" in study.reason:  # as many associations as it takes, or more
                self._workers -= 1
                return False
        try:
            self._bear(error)
        except TransientError as over:
            with self._lock:
                self.interrupted = self.interrupted or str(over)
            return False
        return True

    def _is_alone_at_fault(self) -> bool:
        """Tell whether the source answers otherwise: then one study is told as unread, and the others go on."""
        try:
            with self.peer.for_queries():
                return True
        except (DicomflowError, OSError):
            return False

    def _bear(self, error: Exception) -> None:
        """Wait before another try; raises `TransientError` when the source has not answered for long enough."""
        if isinstance(error, PermanentError):
            raise error
        with self._lock:
            pause = pause_after(self._failures + 1, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            self._failures += 1
            is_over = time.monotonic() - self._answered_at + pause > self._around.patience_seconds
        if is_over or self._is_over():
            raise TransientError(_text(error))
        self._say(f"the source does not answer, and is tried again: {_text(error)}")
        self._around.stopping.wait(pause)

    def _is_over(self) -> bool:
        return self._around.stopping.is_set() or self._jobs.is_paused(self.peer.name)

    def _admit(self) -> None:
        """Return when something may be fetched; raises `_OverError` when nothing is to be any more."""
        while True:
            if self._around.stopping.is_set():
                raise _OverError("it was stopped")
            if self._jobs.is_paused(self.peer.name):
                raise _OverError(f"it is paused; dicomflow pull {self.peer.name} --resume goes on")
            hours, spool = self.peer.source.hours, self._around.spool
            if hours and not any(each.hold_at(self._around.clock()) for each in hours):
                self._say("it waits for the hours of the source")
            elif free_bytes(spool.dir) < max(spool.slow_below_bytes, spool.refuse_below_bytes):
                self._say("it waits for room in the spool")
            else:
                return
            with self._lock:
                self._answered_at = time.monotonic()
            self._around.stopping.wait(_LOOK_SECONDS)

    def _limit(self) -> int:
        """Return the limit in force, in bytes a second; 0 for none."""
        now = self._around.clock()
        for rule in self.peer.source.bandwidth:
            if rule.hold_at(now):
                return rule.max_bytes_per_second
        return self.peer.source.max_bytes_per_second

    def _most_uids(self) -> int:
        limit = self._limit() // self.peer.source.associations
        return max(1, min(MOST_UIDS, limit * _LIST_SECONDS // _TYPICAL_BYTES)) if limit else 1 << 30

    def _pay(self, arrived_bytes: int, seconds: float) -> None:
        """Wait for as long as the bytes that came would have taken at the limit, shared by all associations."""
        limit = self._limit() / self.peer.source.associations
        if limit and not self._is_over():
            self._around.stopping.wait(max(0.0, arrived_bytes / limit - seconds))

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            _logger.info("pull_waits source=%s reason=%s", self.peer.name, text)
            self._around.tell(text)


def _text(error: Exception) -> str:
    if isinstance(error, DicomflowError):
        return str(error)
    return f"internal error ({type(error).__name__})"
