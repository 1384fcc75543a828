"""A storage commitment report on the association on which its request came (PS3.4 J.3.3).

Only while the requestor stays there and is silent, and only once. Who may report is decided by the kept request's
`next_at`: before it the worker that took the request, after it `reporter`, on a new association. So a worker that dies
delays a report and loses none, and what was sent without an answer in time is a counted attempt and is reported again.
"""

import logging
import sqlite3
import time
from dataclasses import replace
from typing import Final

from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import encode_command
from dicomflow.dimse.negotiation import AcceptedContext
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.requests import (
    CommitmentRequest,
    Commitments,
    Report,
    encode_report,
    make_report,
    report_command,
)
from dicomflow.edge.ledger import LEDGER_FILE, Ledger
from dicomflow.edge.progress import read_gathered_until
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.errors import PermanentError, TransientError

__all__ = ["LOOK_SECONDS", "PromptReport", "hold_seconds"]

# A requestor that wants its report elsewhere releases within this time; a report would meet its release.
LOOK_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 10.0
# Between the last moment a worker may touch a request and the first at which the reporter may.
_MARGIN_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 10.0
# For a lock on the ledger; the association waits as long.
_BUSY_SECONDS: Final = 0.2

_logger = logging.getLogger(__name__)


def hold_seconds(seconds: float) -> float:
    """Return how long a request is the worker's, of which `seconds` are for sending its report; 0 for not at all."""
    return seconds + _ANSWER_SECONDS + _MARGIN_SECONDS if seconds else 0.0


class PromptReport:
    """One report, from the response to its request on. Thread: the association's.

    Args:
        request: as it is kept.
        commitments: where it is kept.
        settings: the level, and how long a request waits.
        acceptor: takes the report, in the presentation context of the request.
        context: that presentation context.
        message_id: the report's, unique among those of the association.
        began_at: when the request was about to be kept, on the monotonic clock.
        seconds: how long after that the report may be sent.
        answer_seconds: how long after those an answer counts; no more than `hold_seconds` leaves for it.
    """

    def __init__(
        self,
        request: CommitmentRequest,
        commitments: Commitments,
        settings: CommitmentSettings,
        acceptor: Acceptor,
        context: AcceptedContext,
        *,
        message_id: int,
        began_at: float,
        seconds: float,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self.message_id = message_id
        self.is_over = False
        self._request = request
        self._commitments = commitments
        self._settings = settings
        self._acceptor = acceptor
        self._context = context
        self._send_until = began_at + seconds
        self._owned_until = began_at + seconds + answer_seconds
        self._sent: Report | None = None

    def go_on(self) -> None:
        """Send the report when all its instances are settled; give up when the time is over."""
        now = time.monotonic()
        if self._sent is not None:
            if now >= self._owned_until:
                self.leave("no answer in time")
            return
        if now >= self._send_until:
            self.leave_unsent()
            return
        try:
            self._send()
        except Exception:
            _logger.exception("commitment_failed transaction=%s", self._request.transaction_uid)
            self.leave("internal error")

    def take_status(self, status: int | None) -> None:
        """Take the peer's answer: with success the request is done with, with any other status it is reported again."""
        if self._sent is None:
            return
        if time.monotonic() >= self._owned_until:
            self.leave("no answer in time")
        elif status == Status.SUCCESS:
            self.is_over = True
            try:
                self._commitments.remove(self._request)
            except OSError as error:
                self.leave(f"the peer has it, and the request cannot be removed: errno {error.errno}")
                return
            _logger.info(
                "commitment_reported transaction=%s ae_title=%s committed=%d failed=%d attempt=%d",
                self._request.transaction_uid,
                self._request.calling_ae_title,
                len(self._sent.committed),
                len(self._sent.failed),
                self._request.attempts,
            )
        else:
            self.leave(f"the peer answered with status {status or 0:04X}H", pause_seconds=_RETRY_SECONDS)

    def leave_unsent(self) -> None:
        """Leave the report to a new association unless it is sent already: the peer does not wait for it here."""
        if self._sent is None:
            self.leave("")

    def leave(self, reason: str, *, pause_seconds: float = 0.0) -> None:
        """Give the request to the reporter. What cannot be written now is the reporter's at `next_at` all the same."""
        self.is_over = True
        if self._sent is not None:
            _logger.warning(
                "commitment_not_reported transaction=%s ae_title=%s attempt=%d reason=%s",
                self._request.transaction_uid,
                self._request.calling_ae_title,
                self._request.attempts,
                reason,
            )
        if time.monotonic() < self._owned_until:
            try:
                self._commitments.update(replace(self._request, next_at=time.time() + pause_seconds))
            except OSError as error:
                _logger.warning(
                    "commitment_not_given_up transaction=%s errno=%s", self._request.transaction_uid, error.errno
                )

    def _send(self) -> None:
        report = self._make()
        if report is None:
            return
        encoded = encode_report(report, self._context.transfer_syntax)
        if time.monotonic() >= self._owned_until:  # a report of 100,000 references takes its time
            self.leave_unsent()
            return
        # Counted before it is sent: whoever reports again knows that it does.
        self._request = replace(self._request, attempts=self._request.attempts + 1)
        self._commitments.update(self._request)
        command = encode_command(report_command(report, self.message_id))
        self._sent = report
        self._acceptor.send(self._context.context_id, command, encoded)

    def _make(self) -> Report | None:
        try:
            ledger = Ledger(self._commitments.root / LEDGER_FILE, read_only=True, busy_seconds=_BUSY_SECONDS)
        except PermanentError:  # nothing is delivered yet, so nothing is at any level
            return None
        try:
            gathered_until = read_gathered_until(self._commitments.root)
            witness = self._commitments.witness
            return make_report(self._request, ledger, self._settings, time.time(), witness, gathered_until)
        except (PermanentError, TransientError, sqlite3.OperationalError):
            return None  # as above
        finally:
            ledger.close()
