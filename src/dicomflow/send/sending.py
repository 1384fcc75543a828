"""Sends many files over several associations at once: who sends what, and what happens when an association breaks.

The caller's thread finds and reads files and puts them into batches; a thread an association sends them. A file that
was under way when an association broke is sent again by itself, so that one that a receiver dies of takes no other with
it.
"""

import contextlib
import logging
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dicomflow.dimse.items import UserIdentity
from dicomflow.dimse.pdu import MAX_CONTEXTS
from dicomflow.errors import DicomflowError, PeerError, PermanentError, pause_after
from dicomflow.send.association import Outcome, SendAssociation
from dicomflow.send.files import Candidate, Skipped, StoredFile, read_stored_file

__all__ = ["Receiver", "Sending"]

_BATCH_FILES: Final = 50
_BATCHES_AHEAD: Final = 4
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Whom to send to, and as whom."""

    host: str
    port: int
    calling_ae_title: str
    called_ae_title: str
    timeout_seconds: float
    tls: ssl.SSLContext | None = None
    user_identity: UserIdentity | None = None

    def associate(self, pairs: Sequence[tuple[str, str]]) -> SendAssociation:
        """Return an association for some SOP classes and transfer syntaxes, which its `with` opens."""
        return SendAssociation(
            self.host,
            self.port,
            pairs,
            calling_ae_title=self.calling_ae_title,
            called_ae_title=self.called_ae_title,
            timeout_seconds=self.timeout_seconds,
            tls=self.tls,
            user_identity=self.user_identity,
        )


Report = Callable[[Candidate, Outcome | Skipped], None]


@dataclass(slots=True)
class _Batch:
    files: list[tuple[Candidate, StoredFile]]
    attempts: int = 0

    def pairs(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(_pair(file) for _, file in self.files))


class Sending:
    """One run of sending. `_changed` guards the batches and the counts of workers; `report` is called by one at a time.

    `gone` says why there is no receiver any more: then what is left is neither read nor reported.

    Args:
        receiver: whom to send to.
        associations: how many at once; fewer when the receiver takes no more.
        retries: how often a file is tried again when its association breaks.
        batch_files: how many files an association takes at a time.
        report: told what became of each candidate.
    """

    def __init__(
        self,
        receiver: Receiver,
        report: Report,
        *,
        associations: int,
        retries: int,
        batch_files: int = _BATCH_FILES,
    ) -> None:
        self._receiver = receiver
        self._report = report
        self._associations = associations
        self._retries = retries
        self._batch_files = batch_files
        self._changed = threading.Condition()
        self._waiting: deque[_Batch] = deque()
        self._busy = 0
        self._workers = 0
        self._has_established = False
        self._is_finding = True
        self._stopping = threading.Event()
        self.gone = ""

    def run(self, candidates: Iterable[Candidate]) -> None:
        """Send all of them; returns when each was reported, or the receiver is gone. An exception ends the run."""
        threads = [threading.Thread(target=self._work, name=f"send-{n}") for n in range(self._associations)]
        self._workers = len(threads)
        for thread in threads:
            thread.start()
        try:
            for batch in self._batches(candidates):
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stopping.is_set() or len(self._waiting) < _BATCHES_AHEAD * self._associations
                    )
                    self._waiting.append(batch)
                    self._changed.notify()
                if self._stopping.is_set():
                    break
        except BaseException:
            self._stopping.set()
            raise
        finally:
            with self._changed:
                self._is_finding = False
                self._changed.notify_all()
            for thread in threads:
                thread.join()

    def _batches(self, candidates: Iterable[Candidate]) -> Iterator[_Batch]:
        """Yield batches that one association can carry (PS3.8 9.3.2.2); what cannot be read is reported."""
        files: list[tuple[Candidate, StoredFile]] = []
        pairs: set[tuple[str, str]] = set()
        for candidate in candidates:
            file = self._read(candidate)
            if file is None:
                continue
            pair = _pair(file)
            if len(files) >= self._batch_files or (pair not in pairs and len(pairs) >= MAX_CONTEXTS):
                yield _Batch(files)
                files, pairs = [], set()
            files.append((candidate, file))
            pairs.add(pair)
        if files:
            yield _Batch(files)

    def _read(self, candidate: Candidate) -> StoredFile | None:
        try:
            if candidate.skipped is None:
                return read_stored_file(candidate.path, candidate.member)
            skipped = candidate.skipped
        except PeerError as error:
            skipped = Skipped(str(error), is_failure=candidate.is_named)
        except PermanentError as error:
            skipped = Skipped(str(error), is_failure=True)
        except OSError as error:
            skipped = Skipped(error.strerror or str(error), is_failure=True)
        except Exception as error:  # the boundary around one file of many
            _logger.exception("file_not_read")
            skipped = Skipped(f"internal error ({type(error).__name__})", is_failure=True)
        with self._changed:
            self._report(candidate, skipped)
        return None

    def _work(self) -> None:
        """Send batches until there are none; the thread's boundary."""
        association: SendAssociation | None = None
        with contextlib.ExitStack() as opened:
            while (batch := self._take()) is not None:
                try:
                    if association is None or not association.covers(batch.pairs()):
                        opened.close()
                        association = None
                        association = opened.enter_context(self._receiver.associate(batch.pairs()))
                    self._send(association, batch)
                except (DicomflowError, OSError) as error:
                    broken, association = association, None
                    opened.pop_all()
                    if broken is not None:
                        broken.__exit__(type(error), error, None)
                    if not self._put_back(batch, error, is_open=broken is not None):
                        break
                except Exception:
                    _logger.exception("send_failed")
                    self._fail(batch, "internal error")
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._changed.notify_all()

    def _take(self) -> _Batch | None:
        """Return the next batch, waiting for those that others may put back; None when all is done."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._stopping.is_set() or not (self._is_finding or self._busy)
            )
            if self._stopping.is_set() or not self._waiting:
                return None
            self._busy += 1
            self._changed.notify_all()
            return self._waiting.popleft()

    def _send(self, association: SendAssociation, batch: _Batch) -> None:
        """Send a batch; what has its outcome leaves it."""
        with self._changed:
            self._has_established = True
        sending = list(batch.files)
        for outcome in association.store_all(file for _, file in sending):
            candidate, _ = batch.files.pop(0)
            with self._changed:
                self._report(candidate, outcome)
            if self._stopping.is_set():
                return

    def _put_back(self, batch: _Batch, error: Exception, *, is_open: bool) -> bool:
        """Decide what becomes of a batch whose association broke or was not had; False ends the worker."""
        with self._changed:
            if not is_open and self._workers > 1:
                # The receiver takes no more associations at once, or none: the others find out, without this one.
                self._workers -= 1
                self._waiting.appendleft(batch)
                return False
        # The file that was under way is what the association may have broken of.
        first = _Batch(batch.files[:1] if is_open else batch.files, batch.attempts + 1)
        rest = _Batch(batch.files[len(first.files) :])
        if isinstance(error, PermanentError) or not self._has_established or batch.attempts >= self._retries:
            self._fail(first, str(error))
            first.files = []
            if not is_open:  # nor will it be for the next batch
                with self._changed:
                    self.gone = str(error)
                    self._stopping.set()
                    self._changed.notify_all()
        else:
            self._stopping.wait(pause_after(batch.attempts + 1, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS))
        with self._changed:
            self._waiting.extendleft(each for each in (rest, first) if each.files)
        return True

    def _fail(self, batch: _Batch, reason: str) -> None:
        with self._changed:
            for candidate, file in batch.files:
                self._report(candidate, Outcome(file, None, reason))


def _pair(file: StoredFile) -> tuple[str, str]:
    return file.meta.sop_class_uid, file.meta.transfer_syntax_uid
