"""Report on storage commitment: an association of our own, on which we are the SCP (PS3.4 J.2.1, J.3.3).

A report is tried again with growing pauses for days; then its request is kept and shown as undelivered.
"""

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
)
from dicomflow.dimse.items import Role
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.requests import (
    CommitmentRequest,
    Commitments,
    Report,
    encode_report,
    make_report,
    report_command,
)
from dicomflow.edge.commitment.witness import StoreWitness
from dicomflow.edge.ledger import LEDGER_FILE, DamagedLedgerError, Ledger
from dicomflow.edge.progress import read_gathered_until
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings, EdgeSettings
from dicomflow.errors import DicomflowError, PermanentError, pause_after
from dicomflow.send.association import SendAssociation

__all__ = ["Reporter", "report_commitments"]

_FIRST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_TIMEOUT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 1.0
# Looking takes at most one twentieth of a core: a request of 100,000 references that waits is read at each look.
_IDLE_SHARE: Final = 20.0

_logger = logging.getLogger(__name__)


class Reporter:
    """Sends the reports that are due. Thread: one owner.

    Args:
        commitments: the requests.
        ledger: what is known.
        settings: the level, and the peers.
        gathered_until: tells until when all that was acknowledged is in the ledger, in seconds since the epoch.
    """

    def __init__(
        self,
        commitments: Commitments,
        ledger: Ledger,
        settings: CommitmentSettings,
        gathered_until: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._commitments = commitments
        self._ledger = ledger
        self._settings = settings
        self._gathered_until = gathered_until

    def run_due(self, requests: Iterable[CommitmentRequest] | None = None) -> int:
        """Send every report, or those of some requests, that can be made now and is due; return how many were taken.

        Raises:
            TransientError: the store does not answer.
            PermanentError: the ledger cannot be read.
        """
        taken = 0
        for kept in self._commitments.open_requests() if requests is None else requests:
            now = time.time()
            if not _is_due(kept, now):
                continue
            # Where the clock was set back: its limits would not pass until that day.
            request = replace(kept, requested_at=min(kept.requested_at, now), next_at=min(kept.next_at, now))
            try:
                if request.requested_at < kept.requested_at:
                    self._commitments.update(request)
                report = make_report(
                    request, self._ledger, self._settings, now, self._commitments.witness, self._gathered_until()
                )
                if report is not None:
                    taken += self._report(request, report, now)
            except (DicomflowError, sqlite3.OperationalError):
                raise  # of the store, or of the ledger: the same for all
            except Exception as error:
                _logger.exception("commitment_failed transaction=%s", request.transaction_uid)
                self._put_off(request, f"internal error ({type(error).__name__})", now)
        return taken

    def _report(self, request: CommitmentRequest, report: Report, now: float) -> bool:
        peer = self._settings.peers.get(request.calling_ae_title)
        try:
            if peer is None:
                raise PermanentError("the AE title has no address in commitment.peers")
            _send(peer, request, report)
        except (DicomflowError, OSError) as error:
            self._put_off(request, str(error), now)
            return False
        self._commitments.remove(request)
        _logger.info(
            "commitment_reported transaction=%s ae_title=%s committed=%d failed=%d attempt=%d",
            request.transaction_uid,
            request.calling_ae_title,
            len(report.committed),
            len(report.failed),
            request.attempts + 1,
        )
        return True

    def _put_off(self, request: CommitmentRequest, reason: str, now: float) -> None:
        is_over = now - request.requested_at >= self._settings.report_days * 86_400
        pause = pause_after(request.attempts + 1, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        _logger.warning(
            "commitment_not_reported transaction=%s ae_title=%s attempt=%d reason=%s",
            request.transaction_uid,
            request.calling_ae_title,
            request.attempts + 1,
            reason,
        )
        self._commitments.update(
            replace(request, attempts=request.attempts + 1, next_at=now + pause, undelivered=reason if is_over else "")
        )


def report_commitments(settings: EdgeSettings, distrust: Callable[[], None]) -> threading.Event:
    """Start to report, for each peer on a thread of its own: one that does not answer delays itself alone.

    The threads go on for ever, or until the event that is returned is set.

    Args:
        settings: the edge's.
        distrust: told when the ledger is damaged.
    """
    root = settings.spool.dir
    commitments = Commitments(root, StoreWitness(settings.delivery, root), fsync=settings.spool.fsync)
    commitments.take_over()
    stopping = threading.Event()
    for name in (*settings.commitment.peers, None):  # the last for those whose AE title has no address any more
        arguments = (commitments, settings.commitment, name, distrust, stopping)
        threading.Thread(target=_report_for, args=arguments, name="reporter", daemon=True).start()
    return stopping


def _report_for(
    commitments: Commitments,
    settings: CommitmentSettings,
    peer: str | None,
    distrust: Callable[[], None],
    stopping: threading.Event,
) -> None:
    """Report to one peer, or to those that are none, with a look each second. Thread: a daemon."""
    pause = 0.0
    while not stopping.is_set():
        try:
            if stopping.wait(pause):
                return
            began_at = time.thread_time()
            due = [each for each in commitments.open_requests(peer) if _is_due(each, time.time())]
            if peer is None:
                due = [each for each in due if each.calling_ae_title not in settings.peers]
            if due:
                with contextlib.closing(Ledger(commitments.root / LEDGER_FILE, read_only=True)) as ledger:
                    Reporter(commitments, ledger, settings, lambda: read_gathered_until(commitments.root)).run_due(due)
            pause = max(_LOOK_SECONDS, _IDLE_SHARE * (time.thread_time() - began_at))
        except (DicomflowError, sqlite3.OperationalError) as error:
            _logger.warning("commitments_wait reason=%s", error)
            if isinstance(error, DamagedLedgerError):
                distrust()
            pause = _FIRST_PAUSE_SECONDS
        except Exception:
            _logger.exception("reporter_failed")
            pause = _LOOK_SECONDS


def _is_due(request: CommitmentRequest, now: float) -> bool:
    # One that is to be tried later than any pause lasts was put off before the clock was set back.
    is_put_off = now < request.next_at <= now + 2 * _LONGEST_PAUSE_SECONDS
    return not request.undelivered and not is_put_off


def _send(peer: CommitmentPeer, request: CommitmentRequest, report: Report) -> None:
    """Send a report on a new association; raises `DicomflowError` unless it is taken."""
    with SendAssociation(
        peer.host,
        peer.port,
        [(STORAGE_COMMITMENT, EXPLICIT_VR_LITTLE_ENDIAN), (STORAGE_COMMITMENT, IMPLICIT_VR_LITTLE_ENDIAN)],
        calling_ae_title=request.called_ae_title,
        called_ae_title=request.calling_ae_title,
        timeout_seconds=_TIMEOUT_SECONDS,
        roles=(Role(STORAGE_COMMITMENT, scu=False, scp=True),),
    ) as association:
        if not association.is_scp_of(STORAGE_COMMITMENT) and not peer.without_role:
            raise PermanentError("the peer does not grant us the role of SCP")
        status = association.request(
            STORAGE_COMMITMENT, report_command(report), lambda syntax: encode_report(report, syntax)
        )
    if status != Status.SUCCESS:
        raise PermanentError(f"the peer answered the report with status {status:04X}H")
