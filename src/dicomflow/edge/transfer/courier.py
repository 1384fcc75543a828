"""Takes transfers from the store, ends those that are not to be sent, and tells what became of each.

A round is taken where what waits and its job agree on it, be it later or earlier than the one that is known: the store
says which it is, and no number is believed for being the greater one.
A step is repeated until it is done: what is taken is on disk, what has ended is on disk before it is told, and the end
is told until the store has it, and again while the store still says that the transfer waits.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from dicomflow.bucket.transfer import MAX_REASON, InstanceState, Job, PendingTransfer, Returns, TransferState
from dicomflow.edge.settings import Destination
from dicomflow.edge.spool.transfers import TransferFolders
from dicomflow.edge.transfer.board import Board, Transfer
from dicomflow.edge.transfer.store import TransferStore
from dicomflow.errors import DicomflowError, PermanentError, text_of

__all__ = ["Courier"]

_TELL_SECONDS: Final = 5.0
# Of a transfer with many instances its progress is a large object, and is told less often.
_INSTANCES_A_SECOND: Final = 1000.0
_TELL_AGAIN_SECONDS: Final = 600.0
_FORGET_EVERY_SECONDS: Final = 3600.0
_KEEP_DAYS: Final = 30.0  # longer than the store keeps what is sent, so that nothing is sent once more
_SECONDS_A_DAY: Final = 86_400.0

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """When something was told of a round; for ends that are not yet in the store, `returns` has them."""

    at: float = float("-inf")
    returns: Returns | None = None


@dataclass(slots=True)
class _Notes:
    told: dict[tuple[str, int], _Told] = field(default_factory=dict)
    waits: dict[tuple[str, int], str] = field(default_factory=dict)  # what is not begun, and why
    told_waits: dict[tuple[str, int], str] = field(default_factory=dict)
    forgot_at: float = float("-inf")


class Courier:
    """What is done for all transfers of an edge together. Thread: one owner.

    Args:
        edge: its name.
        destinations: those that it knows.
        folders: where transfers are kept.
        board: those that are under way.
        store: where they come from.
        clock: gives seconds since the epoch.
        count: told of each transfer that ends.
    """

    def __init__(
        self,
        edge: str,
        destinations: Mapping[str, Destination],
        folders: TransferFolders,
        board: Board,
        store: TransferStore,
        *,
        clock: Callable[[], float] = time.time,
        count: Callable[[TransferState], None] = lambda _state: None,
    ) -> None:
        self._edge = edge
        self._destinations = destinations
        self._folders = folders
        self._board = board
        self._store = store
        self._clock = clock
        self._count = count
        self._notes = _Notes()

    def take_up(self) -> None:
        """Go on with what was taken before."""
        for folder in self._folders.all():
            try:
                job = folder.job()
                ended = folder.returns()
                if ended is None or ended.round != job.round:
                    self._board.add(job, folder, self._destination_of(job.destination))
                    continue
                folder.clear()
                if folder.told_at() is None:
                    self._notes.told[job.transfer, job.round] = _Told(returns=ended)
            except (DicomflowError, OSError) as error:  # its job is fetched again, while the store has it
                _logger.warning("transfer_not_taken_up transfer=%s reason=%s", folder.path.name, text_of(error))
            except Exception:
                _logger.exception("transfer_failed transfer=%s", folder.path.name)

    def step(self) -> None:
        """Look once, end what is to end, and tell what is to be told; what fails is done at the next step."""
        try:
            pending = self._store.pending()
        except (DicomflowError, OSError) as error:
            _logger.warning("transfers_not_asked_for reason=%s", text_of(error))
            pending = ()
        for each in pending:
            self._of_one(each.transfer, lambda each=each: self._take(each))  # type: ignore[misc]  # mypy has no bound defaults
        for transfer in self._board.all():
            self._of_one(transfer.name, lambda transfer=transfer: self._end_rest(transfer))  # type: ignore[misc]  # as above
            self._of_one(transfer.name, lambda transfer=transfer: self._tell(transfer))  # type: ignore[misc]  # as above
        for (name, number), told in list(self._notes.told.items()):
            if told.returns is not None and self._clock() - told.at >= _TELL_SECONDS:
                self._of_one(name, lambda name=name, number=number: self._tell_end(name, number))  # type: ignore[misc]  # as above
        self._forget()

    def _of_one(self, name: str, do: Callable[[], None]) -> None:
        """The boundary around one transfer of many."""
        try:
            do()
        except (DicomflowError, OSError) as error:
            _logger.warning("transfer_waits transfer=%s reason=%s", name, text_of(error))
        except Exception:
            _logger.exception("transfer_failed transfer=%s", name)

    def _take(self, pending: PendingTransfer) -> None:
        """Begin what waits, leave what is cancelled, and tell again what has ended and still waits."""
        name, key = pending.transfer, (pending.transfer, pending.round)
        known = self._board.get(name)
        if known is not None:
            known.is_cancelled = known.is_cancelled or self._is_to_leave(known, pending)
            return
        told = self._notes.told.get(key)
        if told is not None and (told.returns is not None or self._clock() - told.at < _TELL_AGAIN_SECONDS):
            return
        ended = self._folders.of(name).returns()
        if ended is not None and ended.round == pending.round:
            # By a sequence of now: another's may have been taken for a later one.
            self._notes.told[key] = _Told(returns=replace(ended, sequence=max(ended.sequence + 1, self._sequence())))
            return
        if pending.is_cancelled:
            self._refuse(pending, "cancelled before it was begun")
            return
        self._begin(pending)

    def _is_to_leave(self, known: Transfer, pending: PendingTransfer) -> bool:
        """Tell whether a round that is under way is cancelled, or gives way to another."""
        if pending.is_cancelled or pending.round == known.job.round:
            return pending.is_cancelled and pending.round >= known.job.round
        return self._job_of(pending) is not None

    def _job_of(self, pending: PendingTransfer) -> Job | None:
        """Return the job of a round that waits; None while there is none, or one of another round.

        Raises:
            TransientError: the store did not answer.
            PermanentError: it is no job, or that of another edge or transfer.
        """
        try:
            job = self._store.job(pending.transfer)
        except FileNotFoundError:
            self._wait_for(pending, "its job is not there")
            return None
        if job.round != pending.round:
            self._wait_for(pending, f"its job is of round {job.round}, and round {pending.round} waits")
            return None
        return job

    def _begin(self, pending: PendingTransfer) -> None:
        try:
            job = self._job_of(pending)
        except PermanentError as error:
            self._refuse(pending, str(error))
            return
        if job is None:
            return
        folder = self._folders.take(job)
        transfer = self._board.add(job, folder, self._destination_of(job.destination))
        _logger.info(
            "transfer_begun transfer=%s round=%d destination=%s instances=%d",
            transfer.name,
            job.round,
            transfer.destination or "unknown",
            transfer.left,
        )

    def _destination_of(self, name: str) -> str:
        """Return the name of a destination that is called so, by its name or by its AE title alone; else nothing."""
        if name in self._destinations:
            return name
        titled = [known for known, each in self._destinations.items() if each.ae_title == name]
        return titled[0] if len(titled) == 1 else ""

    def _end_rest(self, transfer: Transfer) -> None:
        """Give an end to what will not be sent."""
        self._end_awaited(transfer)
        days = None
        if transfer.is_cancelled:
            state, reason = InstanceState.CANCELLED, "cancelled"
        elif not transfer.destination:
            state = InstanceState.FAILED
            reason = f"the edge {self._edge} knows no destination {transfer.job.destination!r}"
        else:
            days = self._destinations[transfer.destination].keep_days
            if self._clock() - transfer.began_at < days * _SECONDS_A_DAY:
                return
            state, reason = InstanceState.FAILED, f"not taken within {days:g} days"
        answers = []
        for number in self._board.untried(transfer):
            last = transfer.returned.get(number)
            why = (last.reason if last else "") or transfer.reason
            text = f"{reason}: {why}" if days and why else reason
            status = last.status if last else None
            answers.append(self._board.answer_of(transfer, number, state, text, status))
        if not answers:
            return
        self._board.end(transfer, answers)
        if not transfer.destination or days:
            self._board.hold_up(transfer, reason)

    def _end_awaited(self, transfer: Transfer) -> None:
        """What the destination has has arrived, where nobody waits for its commitment any more."""
        destination = self._destinations.get(transfer.destination)
        if not transfer.is_cancelled and destination is not None and destination.commitment:
            return
        reason = "cancelled before its storage commitment" if transfer.is_cancelled else ""
        answers = [
            self._board.answer_of(transfer, number, InstanceState.DONE, reason, transfer.returned[number].status)
            for number in self._board.awaiting_of(transfer)
        ]
        if answers:
            transfer.folder.record(answers)
        for answer in answers:
            self._board.note(transfer, answer)

    def _tell(self, transfer: Transfer) -> None:
        key = (transfer.name, transfer.job.round)
        told = self._notes.told.setdefault(key, _Told())
        pause = max(_TELL_SECONDS, len(transfer.returned) / _INSTANCES_A_SECOND)
        is_over = not transfer.left
        if not is_over and (not transfer.is_changed or self._clock() - told.at < pause):
            return
        returns = self._board.returns_of(transfer, self._edge)
        if not is_over:
            told.at = self._clock()
            try:
                self._store.put(returns)
            except Exception:
                transfer.is_changed = True
                raise
            return
        transfer.folder.finish(returns)
        self._board.remove(transfer)
        told.returns = returns
        state = state_of(returns)
        self._count(state)
        _logger.info("transfer_ended transfer=%s round=%d state=%s", transfer.name, transfer.job.round, state)
        self._tell_end(*key)

    def _tell_end(self, name: str, number: int) -> None:
        """Put the end of a round, and note that the store has it."""
        told = self._notes.told[name, number]
        assert told.returns is not None, "there is something to tell"
        told.at = self._clock()
        self._store.put(told.returns)
        told.returns = None
        folder = self._folders.of(name)
        if folder.path.exists():
            folder.note_told()

    def _refuse(self, pending: PendingTransfer, reason: str) -> None:
        """Tell the end of what was never begun."""
        _logger.warning("transfer_refused transfer=%s reason=%s", pending.transfer, reason)
        key = (pending.transfer, pending.round)
        self._notes.told[key] = _Told(returns=self._returns_of(pending, reason, is_final=True))
        self._tell_end(*key)

    def _wait_for(self, pending: PendingTransfer, reason: str) -> None:
        """Leave what cannot be begun for the next step; say so once, when it is not the moment between two puts."""
        key = (pending.transfer, pending.round)
        before, self._notes.waits[key] = self._notes.waits.get(key), reason
        if reason != before or self._notes.told_waits.get(key) == reason:
            return
        _logger.warning("transfer_waits transfer=%s reason=%s", pending.transfer, reason)
        if self._board.get(pending.transfer) is None:
            self._store.put(self._returns_of(pending, reason, is_final=False))
        self._notes.told_waits[key] = reason

    def _returns_of(self, pending: PendingTransfer, reason: str, *, is_final: bool) -> Returns:
        """Return what is told of a round that is not begun: nothing but what has arrived in those before."""
        ended = self._folders.of(pending.transfer).returns()
        before = ended.instances if ended is not None and ended.round < pending.round else ()
        return Returns(
            self._edge,
            pending.transfer,
            pending.round,
            sequence=self._sequence(),
            at=datetime.fromtimestamp(self._clock(), UTC),
            is_final=is_final,
            instances=tuple(each for each in before if each.state is InstanceState.DONE),
            reason=reason[:MAX_REASON],
        )

    def _sequence(self) -> int:
        return int(self._clock() * 1_000_000)

    def _forget(self) -> None:
        now = self._clock()
        if now - self._notes.forgot_at >= _FORGET_EVERY_SECONDS:
            self._notes.forgot_at = now
            before = now - _KEEP_DAYS * _SECONDS_A_DAY
            self._folders.forget_before(before)
            old = [key for key, told in self._notes.told.items() if told.returns is None and told.at < before]
            for key in old:
                del self._notes.told[key]
            self._notes.waits.clear()
            self._notes.told_waits.clear()


def state_of(returns: Returns) -> TransferState:
    """Return how a round ended."""
    states = {each.state for each in returns.instances}
    if InstanceState.CANCELLED in states:
        return TransferState.CANCELLED
    if states <= {InstanceState.DONE} and states:
        return TransferState.DONE
    return TransferState.PARTIAL if InstanceState.DONE in states else TransferState.FAILED
