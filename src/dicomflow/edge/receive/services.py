"""The services of one association: its messages are taken, performed and answered here (PS3.7 9 and 10).

Storage, Verification and Storage Commitment. Sockets, time limits and threads are `association`'s.
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Final

from dicomflow.dicom.uids import STORAGE_COMMITMENT, VERIFICATION
from dicomflow.dimse.acceptor import Acceptor
from dicomflow.dimse.command import Command, CommandField, encode_response
from dicomflow.dimse.events import AssociationAborted, CommandReceived, DataSetReceived
from dicomflow.dimse.negotiation import STORAGE_ALONE, Offer, proposes_storage
from dicomflow.dimse.pdu import AbortSource, AssociateReject, AssociateRequest
from dicomflow.dimse.status import AbortReason, Rejection, Status
from dicomflow.edge.commitment.action import Action, ActionMemory
from dicomflow.edge.commitment.asked import Questions
from dicomflow.edge.commitment.prompt import LOOK_SECONDS, PromptReport, hold_seconds
from dicomflow.edge.commitment.requests import Commitments, accept_action
from dicomflow.edge.metrics import Metrics
from dicomflow.edge.receive.storage import REFUSALS, StoreReception
from dicomflow.edge.receive.watermark import Watermark
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.edge.spool.lane import Lane
from dicomflow.edge.spool.room import Room

__all__ = ["Receiver", "Services"]

_WITH_COMMITMENT: Final = Offer(services=frozenset({STORAGE_COMMITMENT}))
_NO_COMMITMENT: Final = CommitmentSettings()
_MOST_MOVE_ORIGINATORS: Final = 8  # of one association
_N_EVENT_REPORT_RSP: Final = CommandField.N_EVENT_REPORT_RQ | 0x8000  # PS3.7 E.1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """What the services of all associations of a process share."""

    lane: Lane
    watermark: Watermark
    draining: threading.Event
    metrics: Metrics | None = None
    # None where no peer may ask for commitment.
    commitments: Commitments | None = None
    commitment: CommitmentSettings = _NO_COMMITMENT
    # What is asked of others, and by whom it may be answered, by AE title; None where nothing is.
    questions: Questions | None = None
    asked_ae_titles: frozenset[str] = frozenset()
    actions: ActionMemory = field(default_factory=ActionMemory)
    room: Room | None = None

    def serve(self, acceptor: Acceptor, association_id: str, peer: str) -> "Services":
        """Make the services of an association."""
        return Services(self, acceptor, association_id, peer)


class Services:
    """Performs the messages of one association. Thread: the association's.

    Args:
        receiver: what it shares with the others.
        acceptor: the association's protocol core, which takes the answers.
        association_id: the association's.
        peer: the requestor's address, without port.
    """

    def __init__(self, receiver: Receiver, acceptor: Acceptor, association_id: str, peer: str) -> None:
        self._calling = self._called = ""
        self._stored = self._stored_bytes = self._refused = 0
        self.has_work = False  # asked for something, and not only whether we are there
        # "AE title/message ID" of each C-MOVE that the instances came of, in their order (PS3.7 9.1.1.1).
        self._move_originators: dict[str, None] = {}
        self._receiver = receiver
        self._acceptor = acceptor
        self._association_id = association_id
        self._peer = peer
        self._reception: StoreReception | None = None
        self._unperformed: CommandReceived | None = None
        self._action: Action | None = None  # the data set of an N-ACTION as it comes
        self._report: PromptReport | None = None
        self._reports = 0  # how many were begun here; their numbers are the message IDs
        self._is_marked = False
        self._last_bytes = 0

    @property
    def offer(self) -> Offer:
        """Storage, commitment where any peer may ask for it, and reports on what the requestor is asked for."""
        offer = STORAGE_ALONE if self._receiver.commitments is None else _WITH_COMMITMENT
        return replace(offer, commitment_reports=True) if self._takes_reports else offer

    @property
    def _takes_reports(self) -> bool:
        return self._receiver.questions is not None and self._calling in self._receiver.asked_ae_titles

    @property
    def look_seconds(self) -> float | None:
        """How long the peer may be silent before `look` is called: while a report of ours is to be sent."""
        return None if self._report is None else LOOK_SECONDS

    def take_certificate(self, certificate: bytes) -> None:
        """Pass over: whoever is let in may store."""

    def refuse(self, request: AssociateRequest) -> tuple[AssociateReject, str] | None:
        """Take note of who asks; refuse who would store where there is no room."""
        self._calling, self._called = request.calling_ae_title, request.called_ae_title
        if proposes_storage(request) and self._receiver.watermark.refuses:
            return Rejection.LOCAL_LIMIT, "free space is below refuse_below_bytes"
        return None

    def look(self) -> bool:
        """Go on with a report of ours: the peer is silent."""
        if self._report is not None and self._acceptor.is_between_messages:
            self._report.go_on()
            self._forget_report()
        return False

    def outcome(self) -> dict[str, object]:
        """Return what was stored and refused, and for whose C-MOVE."""
        return {
            "stored": self._stored,
            "bytes": self._stored_bytes,
            "refused": self._refused,
            "move_originator": ",".join(self._move_originators) or "-",
        }

    def take_command(self, event: CommandReceived) -> AssociationAborted | None:
        """Take a command set; perform and answer it when no data set follows. Returns our abort, if it led to one."""
        command = event.command
        if command.is_response:
            return self._take_response(event)
        if command.command_field == CommandField.C_CANCEL_RQ:
            return None
        if self._report is not None:
            self._report.leave_unsent()
            self._forget_report()
        is_verification = event.context.abstract_syntax == VERIFICATION
        self.has_work = self.has_work or command.command_field != CommandField.C_ECHO_RQ
        if command.command_field == CommandField.C_STORE_RQ and not is_verification:
            self._begin_store(event)
        else:
            self._unperformed = event
            is_wanted = self._may_ask_for_commitment(event) or self._is_report(event)
            if is_wanted and command.has_data_set:
                self._action = Action(self._receiver.actions)
        if not command.has_data_set:
            self._answer()
        return None

    def take_data_set(self, event: DataSetReceived) -> None:
        """Take the next bytes of a data set; perform and answer its command after the last."""
        if self._reception is not None:
            try:
                self._reception.take(event.fragments, is_last=event.is_last)
                self._slow_down(sum(map(len, event.fragments)))
            except Exception as error:
                _logger.exception("store_failed association=%s", self._association_id)
                self._reception.fail(error)
        elif self._action is not None:
            self._action.take(event.fragments)
        if event.is_last:
            self._answer()

    def end(self, how: str) -> None:
        """Drop what is half received, and note the end: released, aborted or lost."""
        action, self._action = self._action, None
        if action is not None:
            action.drop()
        reception, self._reception = self._reception, None
        if reception is not None:
            with contextlib.suppress(OSError):
                reception.discard()
        if self._is_marked:
            self._is_marked = False
            with contextlib.suppress(OSError):
                self._receiver.lane.associations.note_end(self._association_id, how)
        report, self._report = self._report, None
        if report is not None:
            report.leave(f"the association is {how}")

    def _may_ask_for_commitment(self, event: CommandReceived) -> bool:
        """Tell whether a request is an N-ACTION that may be performed: of any other the data set is thrown away."""
        return (
            event.command.command_field == CommandField.N_ACTION_RQ
            and event.context.abstract_syntax == STORAGE_COMMITMENT
            and self._receiver.commitments is not None
            and self._calling in self._receiver.commitment.peers
        )

    def _is_report(self, event: CommandReceived) -> bool:
        """Tell whether a request is a report on what was asked of the requestor."""
        return (
            event.command.command_field == CommandField.N_EVENT_REPORT_RQ
            and event.context.abstract_syntax == STORAGE_COMMITMENT
            and self._takes_reports
        )

    def _begin_store(self, event: CommandReceived) -> None:
        self._reception = StoreReception(event.context, event.command)
        try:
            if not self._is_marked:
                self._receiver.lane.associations.note_open(self._association_id)
                self._is_marked = True
            self._note_originator(event.command)
            self._reception.begin(
                self._receiver.lane,
                self._receiver.watermark,
                association_id=self._association_id,
                number=self._stored + self._refused,
                calling_ae_title=self._calling,
                called_ae_title=self._called,
                is_draining=self._receiver.draining.is_set(),
                near_bytes=self._last_bytes or self._receiver.lane.last_bytes,
            )
        except OSError as error:
            self._reception.fail(error)
        except Exception as error:
            _logger.exception("store_failed association=%s", self._association_id)
            self._reception.fail(error)

    def _note_originator(self, command: Command) -> None:
        if command.move_originator_ae_title and len(self._move_originators) < _MOST_MOVE_ORIGINATORS:
            originator = f"{command.move_originator_ae_title}/{command.move_originator_message_id or 0}"
            if originator not in self._move_originators:
                self._move_originators[originator] = None
                self._receiver.lane.associations.note_originator(self._association_id, originator)

    def _slow_down(self, received_bytes: int) -> None:
        """Read more slowly as the volume fills up, so that the sender feels it and nobody times out."""
        pause = self._receiver.watermark.pause_seconds(received_bytes)
        if pause:
            self._receiver.draining.wait(pause)

    def _answer(self) -> None:
        """Answer the request whose last byte has come, once."""
        if self._reception is None:
            event, self._unperformed = self._unperformed, None
            if event is None:  # the data set of a response, of which nothing is wanted
                return
            status = self._perform(event)
            self._acceptor.send(event.context.context_id, encode_response(event.command, status))
            return
        reception, metrics = self._reception, self._receiver.metrics
        ended_at = time.perf_counter()
        try:
            is_stored = reception.finish(self._peer)
        except Exception as error:
            _logger.exception("store_failed association=%s", self._association_id)
            reception.fail(error)
            is_stored = False
        self._reception = None
        if is_stored:
            self._stored += 1
            self._stored_bytes += reception.size_bytes
            self._last_bytes = self._receiver.lane.last_bytes = reception.size_bytes
            response = encode_response(reception.command, Status.SUCCESS)
            if metrics is not None:
                seconds = time.perf_counter() - ended_at
                metrics.stored(reception.context.abstract_syntax, self._calling, reception.size_bytes, seconds)
        else:
            self._refused += 1
            refusal = reception.refusal or REFUSALS["internal"]
            if refusal is REFUSALS["no_space"] and self._receiver.room is not None:
                self._receiver.room.note_none()
            if metrics is not None:
                metrics.refused(refusal.status)
            _logger.info(
                "store_refused association=%s status=%04X comment=%s",
                self._association_id,
                refusal.status,
                refusal.comment,
            )
            response = encode_response(reception.command, refusal.status, refusal.comment, refusal.offending_elements)
        self._acceptor.send(reception.context.context_id, response)

    def _perform(self, event: CommandReceived) -> Status:
        """Perform a request that is no C-STORE."""
        action, self._action = self._action, None
        if self._is_report(event):
            return self._take_report(event, action)
        is_commitment = event.context.abstract_syntax == STORAGE_COMMITMENT and self._receiver.commitments is not None
        if event.command.command_field == CommandField.C_ECHO_RQ and not is_commitment:
            return Status.SUCCESS
        if event.command.command_field != CommandField.N_ACTION_RQ or not is_commitment:
            return Status.UNRECOGNIZED_OPERATION
        peer = self._receiver.commitment.peers.get(self._calling)
        if peer is None:
            # There is no address to report to, and a request without a report would be a promise not kept.
            return Status.NOT_AUTHORIZED
        try:
            # One report at a time: of two requests the second is reported on a new association.
            return self._perform_action(event, action, 0.0 if self._report else peer.same_association_seconds)
        except Exception:
            _logger.exception("commitment_failed association=%s", self._association_id)
            return Status.PROCESSING_FAILURE
        finally:
            if action is not None:
                action.drop()

    def _take_report(self, event: CommandReceived, action: Action | None) -> Status:
        """Keep what is reported of a commitment that we asked for."""
        questions = self._receiver.questions
        assert questions is not None
        try:
            if action is not None and action.is_refused:
                return Status.RESOURCE_LIMITATION
            data = action.data if action is not None else b""
            return questions.take_report(event.command, data, event.context.transfer_syntax, self._calling)
        except OSError as error:
            _logger.warning("commitment_not_kept association=%s errno=%s", self._association_id, error.errno)
            return Status.PROCESSING_FAILURE
        except Exception:
            _logger.exception("commitment_failed association=%s", self._association_id)
            return Status.PROCESSING_FAILURE
        finally:
            if action is not None:
                action.drop()

    def _perform_action(self, event: CommandReceived, action: Action | None, seconds: float) -> Status:
        """Keep a request for commitment; its report may go out here within `seconds` after the response."""
        commitments = self._receiver.commitments
        assert commitments is not None
        began_at = time.monotonic()
        if action is not None and action.is_refused:
            return Status.RESOURCE_LIMITATION
        status, request = accept_action(
            commitments,
            event.command,
            action.data if action is not None else b"",
            event.context.transfer_syntax,
            calling_ae_title=self._calling,
            called_ae_title=self._called,
            hold_seconds=hold_seconds(seconds),
        )
        if request is not None and seconds:
            self._reports += 1
            self._report = PromptReport(
                request,
                commitments,
                self._receiver.commitment,
                self._acceptor,
                event.context,
                message_id=self._reports,
                began_at=began_at,
                seconds=seconds,
            )
        return status

    def _take_response(self, event: CommandReceived) -> AssociationAborted | None:
        """Take the answer to a report; any other response is to no request of ours."""
        command = event.command
        number = command.message_id_responded_to or 0
        if command.command_field != _N_EVENT_REPORT_RSP or not 0 < number <= self._reports:
            return self._acceptor.abort(AbortSource.USER, AbortReason.NOT_SPECIFIED, "a response to no request of ours")
        if self._report is not None and self._report.message_id == number:
            self._report.take_status(command.status)
            self._forget_report()
        else:
            _logger.warning("commitment_answered_late association=%s", self._association_id)
        return None

    def _forget_report(self) -> None:
        if self._report is not None and self._report.is_over:
            self._report = None
