"""Report on storage commitment: an association of our own, on which we are the SCP (PS3.4 J.2.1, J.3.3).

A report is tried again with growing pauses for days; then its request is kept and shown as undelivered.
"""

import logging
import time
from dataclasses import replace
from typing import Final

from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
)
from dicomflow.dimse.items import Role
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment import CommitmentRequest, Commitments, Report, encode_report, make_report, report_command
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.sender import SendAssociation
from dicomflow.edge.settings import CommitmentPeer, CommitmentSettings, EdgeSettings
from dicomflow.edge.spool import Spool
from dicomflow.errors import DicomflowError, PermanentError

__all__ = ["Reporter", "report_commitments"]

_FIRST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_TIMEOUT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)


class Reporter:
    """Sends the reports that are due. Thread: one owner."""

    def __init__(self, commitments: Commitments, ledger: Ledger, settings: CommitmentSettings) -> None:
        self._commitments = commitments
        self._ledger = ledger
        self._settings = settings

    def run_due(self) -> int:
        """Send every report that can be made now and is due; return how many were taken."""
        now = time.time()
        taken = 0
        for request in self._commitments.open_requests():
            if request.undelivered or request.next_at > now:
                continue
            report = make_report(request, self._ledger, self._settings, now)
            if report is not None:
                taken += self._report(request, report, now)
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
        pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(request.attempts, 16), _LONGEST_PAUSE_SECONDS)
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


def report_commitments(settings: EdgeSettings, spool: Spool) -> None:
    """Report for ever, with a look each second. Thread: a daemon of the deliverer's process."""
    ledger = Ledger(settings.spool.dir / LEDGER_FILE)
    reporter = Reporter(Commitments(spool), ledger, settings.commitment)
    while True:
        try:
            reporter.run_due()
        except Exception:
            _logger.exception("reporter_failed")
        time.sleep(_LOOK_SECONDS)


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
