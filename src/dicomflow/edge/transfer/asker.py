"""Asks one destination for storage commitment of what it has taken, and gives each instance its end (PS3.4 J.3).

An instance has arrived when the destination reports that it commits to it, on the association of the request or on one
of its own, which the receiver's workers take. What it refuses, and what it says nothing of in time, has failed with
that reason: what is not committed to nobody may delete elsewhere. Must know neither copies nor the store.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final
from uuid import uuid4

from dicomflow.bucket.transfer import InstanceState
from dicomflow.dicom.references import Reference
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT
from dicomflow.dimse.command import CommandField
from dicomflow.dimse.events import CommandReceived
from dicomflow.dimse.status import Status
from dicomflow.edge.commitment.asked import Question, Questions, action_command, encode_action
from dicomflow.edge.commitment.requests import Report
from dicomflow.edge.spool.transfers import Answer
from dicomflow.edge.transfer.board import Board, Transfer
from dicomflow.edge.transfer.lane import Route
from dicomflow.edge.transfer.verdict import TRIES, pause_of
from dicomflow.errors import DicomflowError, PermanentError, TransientError, text_of
from dicomflow.send.association import SendAssociation

__all__ = ["Asker"]

_INSTANCES_A_QUESTION: Final = 1000
# What is stored is asked for when nothing more of its transfer is on its way, or so long after.
_GATHER_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0
# A peer that reports on the association of the request does so soon; one that uses its own wants ours released.
_LISTEN_SECONDS: Final = 3.0
_SECONDS_AN_HOUR: Final = 3600.0
_FORGET_EVERY_SECONDS: Final = 3600.0
_KEEP_SECONDS: Final = 7 * 86_400.0

_logger = logging.getLogger(__name__)


class Asker:
    """All that is asked of one destination. Thread: one owner.

    Args:
        route: whom to ask.
        board: what waits for commitment.
        questions: what was asked, and what is reported.
        stopping: ends the work.
        clock: gives seconds since the epoch.
        count: told of each end: the destination's name, and what it came to.
        listen_seconds: how long a report may come on the association of its request.
        asked_as: whose questions are its own, of all that the spool has; the destination's name unless given.
    """

    def __init__(
        self,
        route: Route,
        board: Board,
        questions: Questions,
        *,
        stopping: threading.Event,
        clock: Callable[[], float] = time.time,
        count: Callable[[str, str], None] = lambda _destination, _result: None,
        listen_seconds: float = _LISTEN_SECONDS,
        asked_as: str | None = None,
    ) -> None:
        self._route = route
        self._board = board
        self._questions = questions
        self._stopping = stopping
        self._clock = clock
        self._count = count
        self._listen_seconds = listen_seconds
        self._asked_as = asked_as or route.name
        self._open: dict[str, Question] | None = None  # those that the peer has taken
        self._failures = self._refusals = 0
        self._next_at = self._forgot_at = float("-inf")

    def run(self) -> None:
        """Ask until the stop; the thread's boundary."""
        while not self._stopping.is_set():
            try:
                self.step()
            except OSError as error:
                _logger.warning("commitment_waits destination=%s reason=%s", self._route.name, text_of(error))
            except Exception:
                _logger.exception("commitment_failed destination=%s", self._route.name)
            self._stopping.wait(_LOOK_SECONDS)

    def step(self) -> None:
        """Take the reports that have come, give up what is late, ask what is to be asked. Raises `OSError`."""
        if self._open is None:
            self._open = self._take_up()
        asked = self._open
        for uid in self._questions.reported() & asked.keys():
            self._of_one(uid, lambda uid=uid: self._take_report(asked, uid))  # type: ignore[misc]  # mypy has no bound defaults
        for transfer in [each for each in self._board.all() if each.destination == self._route.name]:
            self._of_one(transfer.name, lambda transfer=transfer: self._give_up(transfer))  # type: ignore[misc]  # as above
            self._of_one(transfer.name, lambda transfer=transfer: self._ask_for(transfer, asked))  # type: ignore[misc]  # as above
        self._forget(asked)

    def _of_one(self, name: str, do: Callable[[], None]) -> None:
        """The boundary around one transfer, or one report, of many."""
        try:
            do()
        except OSError as error:
            _logger.warning("commitment_waits of=%s reason=%s", name, text_of(error))
        except Exception:
            _logger.exception("commitment_failed of=%s", name)

    def _take_up(self) -> dict[str, Question]:
        """Return what the peer has taken; what may not have reached it is asked anew, by another Transaction UID."""
        found = self._questions.open_ones(self._asked_as)
        for question in found:
            if not question.is_taken:
                self._questions.finish(question)
        return {each.transaction_uid: each for each in found if each.is_taken}

    def _take_report(self, asked: dict[str, Question], uid: str) -> None:
        question = asked[uid]
        report = self._questions.report_of(question)
        if report is None:
            return
        transfer = self._board.get(question.transfer)
        if transfer is None or transfer.job.round != question.round:
            _logger.warning("commitment_reported_late transaction=%s transfer=%s", uid, question.transfer)
        else:
            self._take_in(transfer, question, report)
        self._questions.finish(question)
        del asked[uid]

    def _take_in(self, transfer: Transfer, question: Question, report: Report) -> None:
        committed = {each.sop_instance_uid for each in report.committed}
        failed = {each.sop_instance_uid: reason for each, reason in report.failed}
        asked = {each.sop_instance_uid for each in question.references}
        answers = []
        for number in self._board.awaiting_of(transfer):
            uid = transfer.instances[number].sop_instance_uid
            if uid in failed:  # before `committed`: who says both has not said that it is safe
                reason = f"arrived, and the destination does not commit to it: {failed[uid]:04X}H"
                answers.append(self._answer(transfer, number, InstanceState.FAILED, reason))
            elif uid in committed:
                answers.append(self._answer(transfer, number, InstanceState.DONE, "committed"))
            elif uid in asked:
                reason = "arrived, and the destination's report on storage commitment does not name it"
                answers.append(self._answer(transfer, number, InstanceState.FAILED, reason))
        self._write(transfer, answers)
        _logger.info(
            "commitment_reported transaction=%s transfer=%s committed=%d failed=%d",
            report.transaction_uid,
            transfer.name,
            len(report.committed),
            len(report.failed),
        )

    def _give_up(self, transfer: Transfer) -> None:
        """End what the destination has said nothing of in time."""
        hours = self._route.destination.commitment_hours
        before = self._clock() - hours * _SECONDS_AN_HOUR
        late = [number for number, since in self._board.awaiting_of(transfer).items() if since <= before]
        reason = f"arrived, and no storage commitment within {hours:g} hours"
        self._fail(transfer, late, f"{reason}: {transfer.reason}" if transfer.reason else reason)

    def _ask_for(self, transfer: Transfer, asked: dict[str, Question]) -> None:
        """Ask for what was not asked for yet, in this round."""
        of_this = [
            each for each in asked.values() if (each.transfer, each.round) == (transfer.name, transfer.job.round)
        ]
        known = {each.sop_instance_uid for question in of_this for each in question.references}
        waiting = {
            number: since
            for number, since in self._board.awaiting_of(transfer).items()
            if transfer.instances[number].sop_instance_uid not in known
        }
        if not waiting or self._clock() < self._next_at:
            return
        is_old = self._clock() - min(waiting.values()) >= _GATHER_SECONDS
        if transfer.unsent and not is_old and len(waiting) < _INSTANCES_A_QUESTION:
            return
        numbers = sorted(waiting)[:_INSTANCES_A_QUESTION]
        try:
            self._ask(transfer, numbers, asked)
            self._failures = self._refusals = 0
            self._board.hold_up(transfer, "")
        except PermanentError as error:
            self._refusals += 1
            if self._refusals >= TRIES:
                self._refusals = 0
                self._fail(transfer, numbers, f"arrived, and storage commitment cannot be asked for: {error}")
                return
            self._put_off(transfer, str(error), self._refusals)
        except TransientError as error:
            self._failures += 1
            self._put_off(transfer, str(error), self._failures)

    def _ask(self, transfer: Transfer, numbers: list[int], asked: dict[str, Question]) -> None:
        """Ask once, and take the report if it comes on the same association.

        Raises:
            TransientError: it cannot be asked now.
            PermanentError: the destination does not take the request.
        """
        destination = self._route.destination
        instances = [transfer.instances[number] for number in numbers]
        question = Question(
            f"2.25.{uuid4().int}",  # PS3.5 B.2
            destination.ae_title,
            self._asked_as,
            transfer.name,
            transfer.job.round,
            tuple(Reference(each.sop_class_uid, each.sop_instance_uid) for each in instances),
            self._clock(),
        )
        try:
            self._ask_of_peer(question, asked)
        except (TransientError, PermanentError):
            self._questions.finish(question)  # if it has it after all, its report changes nothing
            raise
        _logger.info(
            "commitment_asked transaction=%s transfer=%s destination=%s instances=%d",
            question.transaction_uid,
            transfer.name,
            self._route.name,
            len(numbers),
        )

    def _ask_of_peer(self, question: Question, asked: dict[str, Question]) -> None:
        destination = self._route.destination
        with SendAssociation(
            destination.host,
            destination.port,
            [(STORAGE_COMMITMENT, EXPLICIT_VR_LITTLE_ENDIAN), (STORAGE_COMMITMENT, IMPLICIT_VR_LITTLE_ENDIAN)],
            calling_ae_title=self._route.calling_ae_title,
            called_ae_title=destination.ae_title,
            timeout_seconds=destination.timeout_seconds,
            tls=self._route.tls,
            serve=self._serve,
        ) as association:
            self._questions.keep(question)
            status = association.request(
                STORAGE_COMMITMENT, action_command(), lambda syntax: encode_action(question, syntax)
            )
            if status == Status.RESOURCE_LIMITATION:
                raise TransientError(f"the destination answered status {status:04X}H")
            if status != Status.SUCCESS:
                raise PermanentError(f"the destination answered status {status:04X}H")
            taken = replace(question, is_taken=True)
            self._questions.keep(taken)
            asked[question.transaction_uid] = taken
            self._listen(association, question)

    def _listen(self, association: SendAssociation, question: Question) -> None:
        try:
            association.listen(
                self._listen_seconds,
                lambda: self._stopping.is_set() or question.transaction_uid in self._questions.reported(),
            )
        except DicomflowError as error:  # it has taken the request, and may report on an association of its own
            _logger.info("commitment_association_ended transaction=%s reason=%s", question.transaction_uid, error)

    def _serve(self, event: CommandReceived, data: bytes) -> Status:
        """Take a report on the association of its request."""
        if (
            event.command.command_field != CommandField.N_EVENT_REPORT_RQ
            or event.context.abstract_syntax != STORAGE_COMMITMENT
        ):
            return Status.UNRECOGNIZED_OPERATION
        try:
            return self._questions.take_report(
                event.command, data, event.context.transfer_syntax, self._route.destination.ae_title
            )
        except OSError as error:
            _logger.warning("commitment_not_kept errno=%s", error.errno)
            return Status.PROCESSING_FAILURE

    def _put_off(self, transfer: Transfer, reason: str, failures: int) -> None:
        self._next_at = self._clock() + pause_of(failures)
        _logger.warning(
            "commitment_not_asked transfer=%s destination=%s reason=%s", transfer.name, self._route.name, reason
        )
        self._board.hold_up(transfer, f"storage commitment is not asked for: {reason}")

    def _fail(self, transfer: Transfer, numbers: Iterable[int], reason: str) -> None:
        self._write(transfer, [self._answer(transfer, each, InstanceState.FAILED, reason) for each in numbers])

    def _answer(self, transfer: Transfer, number: int, state: InstanceState, reason: str) -> Answer:
        return self._board.answer_of(transfer, number, state, reason, transfer.returned[number].status)

    def _write(self, transfer: Transfer, answers: list[Answer]) -> None:
        """Write ends down, then take them in. Raises `OSError`: then they are written at the next step."""
        if not answers:
            return
        transfer.folder.record(answers)
        for answer in answers:
            self._board.note(transfer, answer)
            self._count(self._route.name, answer.state)

    def _forget(self, asked: dict[str, Question]) -> None:
        """Want nothing more of what was asked long ago, and remove what is over."""
        now = self._clock()
        if now - self._forgot_at < _FORGET_EVERY_SECONDS:
            return
        self._forgot_at = now
        hours = self._route.destination.commitment_hours
        for question in list(asked.values()):
            if question.asked_at < now - hours * _SECONDS_AN_HOUR - _KEEP_SECONDS:
                self._questions.finish(question)
                del asked[question.transaction_uid]
        self._questions.forget_before(now - _KEEP_SECONDS)
