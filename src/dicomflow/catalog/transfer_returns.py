"""What an edge tells of a transfer: it holds only where it is newer than what was told before.

So that events may come twice and in any order. What is of a round that nobody has asked for, or of a time to come, is
not believed: it would be newer than all that follows. Transactions are the caller's. This module must not know the
store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, update

from dicomflow.bucket.transfer import InstanceState, ReturnedInstance, Returns, TransferState
from dicomflow.catalog.tables import transfer, transfer_instance
from dicomflow.errors import PermanentError

__all__ = ["OPEN", "Settled", "change_instances", "end_queued", "hold_up_transfer", "settle_returns"]

OPEN: Final = (TransferState.QUEUED, TransferState.UNDER_WAY)
"""The states of a transfer that has not ended."""
_CLOCKS_DIFFER: Final = timedelta(days=1)  # no more, or S3 takes nothing of an edge


@dataclass(frozen=True, slots=True)
class Settled:
    """What a transfer is after the edge has told of it: `ended` if this round has just ended by it."""

    state: TransferState
    ended: bool
    arrived: int


def settle_returns(connection: Connection, now: datetime, edge: str, returns: Returns) -> Settled | None:
    """Take in what an edge has told of a transfer of its own; None when it is no news, or of no such transfer.

    Raises:
        PermanentError: it is of a round after the last one that was asked for, or of a time to come.
    """
    latest = int((now + _CLOCKS_DIFFER).timestamp() * 1_000_000)
    if returns.sequence > latest:
        raise PermanentError(f"its sequence {returns.sequence} is of a time to come: the latest now is {latest}")
    row = connection.execute(
        update(transfer)
        .where(
            transfer.c.transfer_id == returns.transfer,
            transfer.c.edge == edge,
            transfer.c.returned_sequence < returns.sequence,
        )
        .values(returned_sequence=returns.sequence, updated_at=now)
        .returning(transfer.c.state, transfer.c.rounds, transfer.c.answered_rounds)
    ).one_or_none()
    if row is None:
        return None
    if returns.round > row.rounds:
        raise PermanentError(f"it is of round {returns.round}, and the last one that was asked for is {row.rounds}")
    is_current = returns.round == row.rounds
    known = {
        each.number: each
        for each in connection.execute(
            select(
                transfer_instance.c.number,
                transfer_instance.c.state,
                transfer_instance.c.status,
                transfer_instance.c.reason,
                transfer_instance.c.attempts,
            ).where(transfer_instance.c.transfer_id == returns.transfer)
        )
    }
    changes = [
        each
        for each in returns.instances
        if each.number in known and _is_news(each, known[each.number], is_current=is_current)
    ]
    change_instances(connection, returns.transfer, changes)
    arrived = sum(each.state is InstanceState.DONE for each in changes)
    state = TransferState(row.state)
    if not is_current or row.answered_rounds >= row.rounds:
        return Settled(state, ended=False, arrived=arrived)
    if returns.is_final:
        return Settled(_end_round(connection, now, returns, state), ended=True, arrived=arrived)
    if state in OPEN:
        state = TransferState.UNDER_WAY
        connection.execute(
            update(transfer)
            .where(transfer.c.transfer_id == returns.transfer, transfer.c.state.in_(OPEN))
            .values(state=state, reason=returns.reason or None)
        )
    return Settled(state, ended=False, arrived=arrived)


def hold_up_transfer(connection: Connection, edge: str, transfer_id: str, reason: str) -> bool:
    """Say what holds up a transfer until its edge tells of it again; False when there is none that has not ended."""
    statement = (
        update(transfer)
        .where(transfer.c.transfer_id == transfer_id, transfer.c.edge == edge, transfer.c.state.in_(OPEN))
        .values(reason=reason)
    )
    return connection.execute(statement).rowcount == 1


def change_instances(connection: Connection, transfer_id: str, changes: Sequence[ReturnedInstance]) -> None:
    """Write what became of instances, but of those that have arrived."""
    if not changes:
        return
    statement = (
        update(transfer_instance)
        .where(
            transfer_instance.c.transfer_id == transfer_id,
            transfer_instance.c.number == bindparam("of_number"),
            transfer_instance.c.state != InstanceState.DONE,
        )
        .values(
            state=bindparam("to_state"),
            status=bindparam("to_status"),
            reason=bindparam("to_reason"),
            attempts=bindparam("to_attempts"),
        )
    )
    connection.execute(
        statement,
        [
            {
                "of_number": each.number,
                "to_state": each.state.value,
                "to_status": each.status,
                "to_reason": each.reason or None,
                "to_attempts": each.attempts,
            }
            for each in changes
        ],
    )


def end_queued(connection: Connection, transfer_id: str, state: InstanceState, reason: str | None) -> None:
    """Give an end to instances of which the edge says nothing any more."""
    connection.execute(
        update(transfer_instance)
        .where(transfer_instance.c.transfer_id == transfer_id, transfer_instance.c.state == InstanceState.QUEUED)
        .values(state=state, reason=func.coalesce(transfer_instance.c.reason, reason))
    )


def _is_news(told: ReturnedInstance, known: Any, *, is_current: bool) -> bool:
    """Tell what is to be written: what has arrived has arrived in any round, all else is of this one."""
    if known.state == InstanceState.DONE:
        return False
    if told.state is InstanceState.DONE:
        return True
    if not is_current or (known.state == InstanceState.CANCELLED and told.state is InstanceState.QUEUED):
        return False
    return (known.state, known.status, known.reason or "", known.attempts) != (
        told.state,
        told.status,
        told.reason,
        told.attempts,
    )


def _end_round(connection: Connection, now: datetime, returns: Returns, before: TransferState) -> TransferState:
    """End a round: queued or under_way -> done, partial or failed; what is cancelled stays so unless all arrived."""
    is_cancelled = before is TransferState.CANCELLED
    rest = InstanceState.CANCELLED if is_cancelled else InstanceState.FAILED
    end_queued(connection, returns.transfer, rest, returns.reason or None)
    counts: dict[str, int] = dict(
        connection.execute(
            select(transfer_instance.c.state, func.count())
            .where(transfer_instance.c.transfer_id == returns.transfer)
            .group_by(transfer_instance.c.state)
        ).all()
    )
    arrived = counts.get(InstanceState.DONE, 0)
    if arrived and arrived == sum(counts.values()):
        state = TransferState.DONE
    elif is_cancelled:
        state = TransferState.CANCELLED
    else:
        state = TransferState.PARTIAL if arrived else TransferState.FAILED
    # What held up a transfer that was cancelled holds up nothing any more.
    reason = None if state is TransferState.CANCELLED else returns.reason or None
    connection.execute(
        update(transfer)
        .where(transfer.c.transfer_id == returns.transfer)
        .values(state=state, answered_rounds=transfer.c.rounds, settled_at=now, reason=reason)
    )
    return state
