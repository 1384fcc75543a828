"""Which instance is to be sent next, and what became of each: the memory of all transfers of one edge.

It is made anew from the folders at each start. What it is told has been written there before, so that it never knows
more than the disk. Must know neither associations nor the store.
"""

import heapq
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from dicomflow.bucket.transfer import MAX_REASON, InstanceState, Job, JobInstance, ReturnedInstance, Returns
from dicomflow.dimse.pdu import MAX_CONTEXTS
from dicomflow.edge.spool.transfers import Answer, TransferFolder
from dicomflow.edge.transfer.verdict import pause_of, pause_seconds

__all__ = ["Batch", "Board", "Transfer"]

BATCH_INSTANCES: Final = 32
BATCH_BYTES: Final = 64 << 20
_BEGUN: Final = -1  # in the place of an instance's number


_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Transfer:
    """One round of a transfer. `Board` guards it.

    `fresh` and `again` hold what is to be sent, `again` from when on; `alone` what an association broke of, which takes
    no other with it. `put_off` has how often a copy could not be had. What a thread has taken is in `taken`, with
    the batch that it took it by; what the
    destination has, but has not committed to yet, is in `awaiting`, with the time since when.
    """

    job: Job
    folder: TransferFolder
    destination: str
    began_at: float
    instances: dict[int, JobInstance]
    fresh: deque[int] = field(default_factory=deque)
    again: list[tuple[float, int]] = field(default_factory=list)
    alone: set[int] = field(default_factory=set)
    taken: "dict[int, Batch | None]" = field(default_factory=dict)
    awaiting: dict[int, float] = field(default_factory=dict)
    put_off: Counter[int] = field(default_factory=Counter)
    attempts: dict[int, int] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    returned: dict[int, ReturnedInstance] = field(default_factory=dict)
    reason: str = ""
    sequence: int = 0
    is_changed: bool = True
    is_cancelled: bool = False

    @property
    def name(self) -> str:
        """The transfer's."""
        return self.job.transfer

    @property
    def left(self) -> int:
        """How many instances have no end yet."""
        return self.unsent + len(self.awaiting)

    @property
    def unsent(self) -> int:
        """How many instances the destination does not have, and may yet be sent."""
        return len(self.fresh) + len(self.again) + len(self.taken)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one association sends next, of one transfer."""

    transfer: Transfer
    instances: tuple[JobInstance, ...]


class Board:
    """The transfers under way. Threads: any; `_changed` guards all of it.

    Args:
        clock: gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._transfers: dict[str, Transfer] = {}  # in the order in which they are served

    def add(self, job: Job, folder: TransferFolder, destination: str) -> Transfer:
        """Begin a round, or go on with it where the answers end. Raises `OSError`."""
        answers = folder.answers()
        began_at = min((each.at for each in answers if each.round == job.round), default=None)
        if began_at is None:  # so that the days are counted on after a restart
            began_at = self._clock()
            folder.record([Answer(job.round, _BEGUN, InstanceState.QUEUED, None, "", began_at)])
        transfer = Transfer(job, folder, destination, began_at, {each.number: each for each in job.instances})
        now = self._clock()
        numbers = {each.sop_instance_uid: each.number for each in job.instances}
        for answer in answers:
            number = numbers.get(answer.sop_instance_uid) if answer.sop_instance_uid else answer.number
            # What a destination has it need not be sent in another round.
            if number in transfer.instances and (answer.round == job.round or answer.state is InstanceState.DONE):
                _take_in(transfer, replace(answer, number=number))
        for number in transfer.instances:
            returned = transfer.returned.get(number)
            if returned is None:
                transfer.fresh.append(number)
            elif returned.state is InstanceState.QUEUED and number not in transfer.awaiting:
                heapq.heappush(transfer.again, (now, number))
                transfer.alone.add(number)
        with self._changed:
            self._transfers[job.transfer] = transfer
            self._changed.notify_all()
        return transfer

    def get(self, name: str) -> Transfer | None:
        """Return a transfer that is under way."""
        return self._transfers.get(name)

    def all(self) -> list[Transfer]:
        """Return the transfers that are under way."""
        with self._changed:
            return list(self._transfers.values())

    def remove(self, transfer: Transfer) -> None:
        """Forget a transfer that has ended."""
        with self._changed:
            self._transfers.pop(transfer.name, None)

    def take(self, destination: str) -> Batch | None:
        """Take what is to be sent to a destination now; transfers take turns. None when there is nothing."""
        with self._changed:
            for transfer in list(self._transfers.values()):
                if transfer.destination == destination and (numbers := _due(transfer, self._clock())):
                    batch = Batch(transfer, tuple(transfer.instances[each] for each in numbers))
                    transfer.taken.update(dict.fromkeys(numbers, batch))
                    self._transfers[transfer.name] = self._transfers.pop(transfer.name)
                    return batch
        return None

    def put_back(self, batch: Batch, reason: str = "", but: Collection[int] = ()) -> None:
        """Give back what of a batch has no answer, to be taken at once.

        Args:
            batch: as it was taken.
            reason: why there was no answer, where all of it was held up.
            but: what has an answer that is not written yet.
        """
        with self._changed:
            for each in reversed(batch.instances):
                # What was put off meanwhile may be another's by now.
                if batch.transfer.taken.get(each.number) is batch and each.number not in but:
                    del batch.transfer.taken[each.number]
                    if each.number in batch.transfer.alone:
                        heapq.heappush(batch.transfer.again, (self._clock(), each.number))
                    else:
                        batch.transfer.fresh.appendleft(each.number)
            if reason:
                self._tell(batch.transfer, reason)

    def put_off(self, transfer: Transfer, number: int, reason: str) -> None:
        """Give back an instance whose copy cannot be had now: it costs no try, and its neighbours go before it."""
        with self._changed:
            transfer.taken.pop(number, None)
            transfer.put_off[number] += 1
            heapq.heappush(transfer.again, (self._clock() + pause_of(transfer.put_off[number]), number))
            last = transfer.returned.get(number) or ReturnedInstance(number, InstanceState.QUEUED)
            told = replace(last, reason=reason[:MAX_REASON])
            if told != transfer.returned.get(number):
                transfer.returned[number] = told
                transfer.is_changed = True

    def hold_up(self, transfer: Transfer, reason: str) -> None:
        """Say what holds up a transfer, or with no reason that nothing does any more."""
        with self._changed:
            self._tell(transfer, reason)

    def answer_of(
        self,
        transfer: Transfer,
        number: int,
        state: InstanceState,
        reason: str,
        status: int | None = None,
        *,
        is_strike: bool = False,
        is_stored: bool = False,
    ) -> Answer:
        """Return what is to be written of a try, before `note`."""
        at = self._clock()
        uid = transfer.instances[number].sop_instance_uid
        return Answer(transfer.job.round, number, state, status, reason[:MAX_REASON], at, is_strike, is_stored, uid)

    def note(self, transfer: Transfer, answer: Answer, *, is_alone: bool = False) -> None:
        """Take in an answer that is written. One that is queued is tried again later, by itself with `is_alone`."""
        with self._changed:
            if answer.number not in transfer.taken and answer.number not in transfer.awaiting:
                return
            transfer.taken.pop(answer.number, None)
            transfer.put_off.pop(answer.number, None)
            _take_in(transfer, answer)
            if answer.state is InstanceState.QUEUED and not answer.is_stored:
                due_at = self._clock() + pause_seconds(transfer.attempts[answer.number])
                heapq.heappush(transfer.again, (due_at, answer.number))
                (transfer.alone.add if is_alone else transfer.alone.discard)(answer.number)
            transfer.is_changed = True
            self._changed.notify_all()

    def untried(self, transfer: Transfer) -> list[int]:
        """Take all that is not under way just now, because it will not be sent: the caller notes an end for each."""
        with self._changed:
            numbers = [*transfer.fresh, *(number for _, number in transfer.again)]
            transfer.fresh.clear()
            transfer.again.clear()
            transfer.taken.update(dict.fromkeys(numbers))
            return numbers

    def awaiting_of(self, transfer: Transfer) -> dict[int, float]:
        """Return what the destination has, and has not committed to yet, with the time since when."""
        with self._changed:
            return dict(transfer.awaiting)

    def end(self, transfer: Transfer, answers: Sequence[Answer]) -> None:
        """Write down and note the ends of what `untried` took; raises `OSError`, and then it may be sent as before."""
        try:
            transfer.folder.record(answers)
        except OSError:
            with self._changed:
                for answer in answers:
                    transfer.taken.pop(answer.number, None)
                    transfer.fresh.append(answer.number)
            raise
        for answer in answers:
            self.note(transfer, answer)

    def returns_of(self, transfer: Transfer, edge: str) -> Returns:
        """Return what became of a transfer so far."""
        with self._changed:
            # Above that of any process before, whose last one may be lost.
            transfer.sequence = max(transfer.sequence + 1, time.time_ns() // 1000)
            transfer.is_changed = False
            return Returns(
                edge=edge,
                transfer=transfer.name,
                round=transfer.job.round,
                sequence=transfer.sequence,
                at=datetime.fromtimestamp(self._clock(), UTC),
                is_final=not transfer.left,
                instances=tuple(transfer.returned[each] for each in sorted(transfer.returned)),
                reason=transfer.reason,
            )

    def wait(self, seconds: float) -> None:
        """Wait for something to send, or for some seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """End the wait of all threads."""
        with self._changed:
            self._changed.notify_all()

    @staticmethod
    def _tell(transfer: Transfer, reason: str) -> None:
        reason = reason[:MAX_REASON]
        if reason != transfer.reason:
            transfer.reason = reason
            transfer.is_changed = True


def _take_in(transfer: Transfer, answer: Answer) -> None:
    known = transfer.returned.get(answer.number)
    if known is not None and known.state is InstanceState.DONE:
        return
    transfer.strikes[answer.number] = transfer.strikes.get(answer.number, 0) + answer.is_strike
    is_of_commitment = transfer.awaiting.pop(answer.number, None) is not None
    attempts = transfer.attempts.get(answer.number, 0) + (not is_of_commitment)
    transfer.attempts[answer.number] = attempts
    if answer.is_stored:
        transfer.awaiting[answer.number] = answer.at
    transfer.returned[answer.number] = ReturnedInstance(
        answer.number, answer.state, answer.status, answer.reason, attempts
    )


def _due(transfer: Transfer, now: float) -> list[int]:
    """Take the numbers of a batch out of a transfer: what was never tried first, then what is due again."""
    numbers: list[int] = []
    while transfer.fresh and _fits(transfer, numbers, transfer.fresh[0]):
        numbers.append(transfer.fresh.popleft())
    if numbers:
        return numbers
    while transfer.again and transfer.again[0][0] <= now and _fits(transfer, numbers, transfer.again[0][1]):
        number = heapq.heappop(transfer.again)[1]
        numbers.append(number)
        if number in transfer.alone:
            break
    return numbers


def _fits(transfer: Transfer, numbers: Iterable[int], number: int) -> bool:
    chosen = [transfer.instances[each] for each in numbers]
    candidate = transfer.instances[number]
    if not chosen:
        return True
    pairs = {(each.sop_class_uid, each.transfer_syntax_uid) for each in (*chosen, candidate)}
    return (
        number not in transfer.alone
        and len(chosen) < BATCH_INSTANCES
        and sum(each.bytes for each in chosen) + candidate.bytes <= BATCH_BYTES
        and len(pairs) <= MAX_CONTEXTS
    )
