"""Statements of transfers: images that go back to a site. States and their ways are bucket/transfer.py's.

Who changes a state names the old one, so that messages may come twice. What edges tell is taken in by
`transfer_returns`. Transactions are the caller's. This module must not know the store.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, case, func, or_, select, update

from dicomflow.bucket.transfer import (
    MAX_INSTANCES,
    InstanceState,
    JobInstance,
    PendingTransfer,
    ReturnedInstance,
    TransferState,
)
from dicomflow.catalog.hidden import is_rejected
from dicomflow.catalog.tables import instance, series, stored_object, study, transfer, transfer_instance
from dicomflow.catalog.transfer_returns import OPEN, change_instances, end_queued
from dicomflow.catalog.upsert import dialect_insert
from dicomflow.errors import PermanentError

__all__ = [
    "RETRIED",
    "Selection",
    "Summary",
    "cancel_transfer",
    "copies_to_make",
    "count_transfers",
    "create_transfer",
    "fail_instances",
    "find_instances",
    "get_transfer",
    "instances_of_transfer",
    "job_instances",
    "list_transfers",
    "pending_of_edge",
    "retry_transfer",
    "set_copied",
]

RETRIED: Final = (TransferState.PARTIAL, TransferState.FAILED, TransferState.CANCELLED)
"""The states from which a transfer can be tried again."""
_MOST_SECONDS: Final = datetime.max.replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be sent: a study, some of its series, or some of their instances, by their UIDs; or one of any."""

    study: str | None = None
    series: str | None = None
    instances: tuple[str, ...] = ()
    any: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A transfer as it is shown: its row, and how many of its instances are in each state."""

    row: Row[Any]
    counts: dict[str, int]

    @property
    def total(self) -> int:
        """How many instances it has."""
        return sum(self.counts.values())

    @property
    def reported_at(self) -> datetime | None:
        """When the edge told last of this round, by its own clock: states and counts are of that moment."""
        seconds = self.row.returned_sequence / 1_000_000
        return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < _MOST_SECONDS else None

    def document(self) -> dict[str, Any]:
        """Return it for JSON and tables."""
        row = self.row
        return {
            "transfer": row.transfer_id,
            "state": row.state,
            "edge": row.edge,
            "destination": row.destination,
            "uid": row.uid,
            "instances": self.total,
            **{state.value: self.counts.get(state, 0) for state in InstanceState},
            "rounds": row.rounds,
            "requested_by": row.requested_by,
            "requested_at": row.requested_at.isoformat(),
            "updated_at": row.updated_at.isoformat(),
            "reported_at": None if self.reported_at is None else self.reported_at.isoformat(timespec="seconds"),
            "reason": row.reason,
        }


def find_instances(
    connection: Connection, selections: Sequence[Selection], *, as_stored: bool = False
) -> list[dict[str, Any]]:
    """Return the instances of some selections as rows of `transfer_instance` without a number, each once.

    Raises:
        PermanentError: one of the selections names nothing, or there are more than a transfer may have; or, unless they
            are wanted `as_stored`, some have values that a repair has decided against.
    """
    found: dict[str, dict[str, Any]] = {}
    for selection in selections:
        rows = connection.execute(_instances(selection).limit(MAX_INSTANCES + 1)).mappings().all()
        if not rows:
            raise PermanentError("the catalog has no such study, series or instance")
        named = len(set(selection.instances))
        if named > len({row["sop_instance_uid"] for row in rows}):
            raise PermanentError(f"the catalog has {len(rows):,} of the {named:,} instances that are named")
        found |= {row["sop_instance_uid"]: dict(row) for row in rows}
    if len(found) > MAX_INSTANCES:
        raise PermanentError(f"more than {MAX_INSTANCES:,} instances: send series by series")
    rejected = sum(each.pop("is_rejected") for each in found.values())
    if rejected and not as_stored:
        raise PermanentError(
            f"{rejected:,} of {len(found):,} instances have values that a repair has decided against (`dicomflow"
            " imports show`): send corrected images to the edge, or these as they are stored (--as-stored)"
        )
    return list(found.values())


def create_transfer(
    connection: Connection,
    now: datetime,
    transfer_id: str,
    *,
    edge: str,
    destination: str,
    uid: str | None,
    requested_by: str,
    instances: Sequence[dict[str, Any]],
    failure: str | None = None,
) -> bool:
    """Add a transfer with its instances; False when there is one of that name, which stays as it is.

    With a failure it is one that has failed before it began.
    """
    values = {
        "transfer_id": transfer_id,
        "edge": edge,
        "destination": destination,
        "uid": uid,
        "state": TransferState.FAILED if failure else TransferState.QUEUED,
        "reason": failure,
        "answered_rounds": 1 if failure else 0,
        "requested_by": requested_by,
        "requested_at": now,
        "updated_at": now,
        "settled_at": now if failure else None,
    }
    statement = dialect_insert(connection, transfer).values(values).on_conflict_do_nothing()
    if connection.execute(statement.returning(transfer.c.transfer_id)).one_or_none() is None:
        return False
    if instances:
        state = InstanceState.FAILED if failure else InstanceState.QUEUED
        rows = [
            {"transfer_id": transfer_id, "number": number, "state": state, **each}
            for number, each in enumerate(instances)
        ]
        connection.execute(transfer_instance.insert(), rows)
    return True


def get_transfer(connection: Connection, transfer_id: str) -> Summary | None:
    """Return a transfer."""
    return next(iter(_summaries(connection, select(transfer).where(transfer.c.transfer_id == transfer_id))), None)


def list_transfers(
    connection: Connection, states: Sequence[str] | None = None, limit: int = 50, uid: str | None = None
) -> list[Summary]:
    """Return transfers, the latest first: of some states, or of a UID."""
    statement = select(transfer).order_by(transfer.c.requested_at.desc(), transfer.c.transfer_id).limit(limit)
    if states:
        statement = statement.where(transfer.c.state.in_(states))
    if uid is not None:
        statement = statement.where(transfer.c.uid == uid)
    return _summaries(connection, statement)


def count_transfers(connection: Connection) -> dict[str, int]:
    """Return how many transfers are in each state."""
    rows = connection.execute(select(transfer.c.state, func.count()).group_by(transfer.c.state))
    counts: dict[str, int] = dict.fromkeys(TransferState, 0)
    return counts | dict(rows.all())


def instances_of_transfer(
    connection: Connection, transfer_id: str, limit: int | None = None, states: Sequence[str] | None = None
) -> list[Row[Any]]:
    """Return a transfer's instances, those that failed first, then those that are queued, each by number."""
    order = case(
        (transfer_instance.c.state == InstanceState.FAILED, 0),
        (transfer_instance.c.state == InstanceState.QUEUED, 1),
        else_=2,
    )
    statement = select(transfer_instance).where(transfer_instance.c.transfer_id == transfer_id)
    if states:
        statement = statement.where(transfer_instance.c.state.in_(states))
    return list(connection.execute(statement.order_by(order, transfer_instance.c.number).limit(limit)))


def copies_to_make(connection: Connection, transfer_id: str) -> list[Row[Any]]:
    """Return number, key and bytes of what a round is to send."""
    statement = select(transfer_instance.c.number, transfer_instance.c.object_key, transfer_instance.c.bytes)
    return list(connection.execute(_queued(statement, transfer_id)))


def job_instances(connection: Connection, transfer_id: str) -> tuple[JobInstance, ...]:
    """Return what a round's job says of the instances that it is to send."""
    columns = transfer_instance.c
    statement = select(
        columns.number,
        columns.sop_class_uid,
        columns.sop_instance_uid,
        columns.transfer_syntax_uid,
        columns.bytes,
        columns.sha256,
    )
    return tuple(JobInstance(*row) for row in connection.execute(_queued(statement, transfer_id)))


def fail_instances(connection: Connection, transfer_id: str, numbers: Iterable[int], reason: str) -> None:
    """Say of instances that they cannot be sent."""
    changes = [ReturnedInstance(number, InstanceState.FAILED, None, reason) for number in numbers]
    change_instances(connection, transfer_id, changes)


def set_copied(connection: Connection, now: datetime, transfer_id: str, rounds: int) -> bool:
    """Note that a round's copies and job are there; False when it is not to be sent any more."""
    statement = (
        update(transfer)
        .where(
            transfer.c.transfer_id == transfer_id,
            transfer.c.rounds == rounds,
            transfer.c.state == TransferState.QUEUED,
        )
        .values(copied_at=now, updated_at=now)
    )
    return connection.execute(statement).rowcount == 1


def pending_of_edge(connection: Connection, edge: str) -> tuple[PendingTransfer, ...]:
    """Return what an edge has not said its last of, in the order of the requests."""
    statement = (
        select(transfer.c.transfer_id, transfer.c.rounds, transfer.c.state)
        .where(
            transfer.c.edge == edge,
            transfer.c.answered_rounds < transfer.c.rounds,
            transfer.c.copied_at.is_not(None),
        )
        .order_by(transfer.c.requested_at, transfer.c.transfer_id)
    )
    return tuple(
        PendingTransfer(name, rounds, state == TransferState.CANCELLED)
        for name, rounds, state in connection.execute(statement)
    )


def cancel_transfer(connection: Connection, now: datetime, transfer_id: str) -> str | None:
    """Cancel a transfer that has not ended, and return its edge; None when there is none such."""
    edge: str | None = connection.execute(
        update(transfer)
        .where(transfer.c.transfer_id == transfer_id, transfer.c.state.in_(OPEN))
        .values(state=TransferState.CANCELLED, updated_at=now, settled_at=now, reason=None)
        .returning(transfer.c.edge)
    ).scalar_one_or_none()
    if edge is not None:
        end_queued(connection, transfer_id, InstanceState.CANCELLED, None)
    return edge


def retry_transfer(connection: Connection, now: datetime, transfer_id: str) -> bool:
    """Begin the next round of a transfer, of what did not arrive; False when its state is none of `RETRIED`."""
    statement = (
        update(transfer)
        .where(transfer.c.transfer_id == transfer_id, transfer.c.state.in_(RETRIED))
        .values(
            state=TransferState.QUEUED,
            rounds=transfer.c.rounds + 1,
            returned_sequence=0,  # whatever was told of another round, of this one all is news
            reason=None,
            copied_at=None,
            settled_at=None,
            updated_at=now,
        )
    )
    if connection.execute(statement).rowcount != 1:
        return False
    connection.execute(
        update(transfer_instance)
        .where(transfer_instance.c.transfer_id == transfer_id, transfer_instance.c.state != InstanceState.DONE)
        .values(state=InstanceState.QUEUED, status=None, reason=None, attempts=0)
    )
    return True


def _instances(selection: Selection) -> Any:
    sha256 = func.coalesce(stored_object.c.sha256, stored_object.c.object_sha256, "")
    statement = (
        select(
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            func.coalesce(instance.c.transfer_syntax_uid, "").label("transfer_syntax_uid"),
            instance.c.object_key,
            instance.c.bytes,
            # What was acknowledged, so that an object that is damaged in the store is never sent.
            sha256.label("sha256"),
            is_rejected(instance.c.object_key).label("is_rejected"),
        )
        .join(series, series.c.series_key == instance.c.series_key)
        .join(study, study.c.study_key == series.c.study_key)
        .outerjoin(stored_object, stored_object.c.object_key == instance.c.object_key)
        .order_by(series.c.series_instance_uid, instance.c.instance_number, instance.c.sop_instance_uid)
    )
    if selection.any is not None:
        return statement.where(
            or_(
                study.c.study_instance_uid == selection.any,
                series.c.series_instance_uid == selection.any,
                instance.c.sop_instance_uid == selection.any,
            )
        )
    statement = statement.where(study.c.study_instance_uid == selection.study)
    if selection.series is not None:
        statement = statement.where(series.c.series_instance_uid == selection.series)
    if selection.instances:
        statement = statement.where(instance.c.sop_instance_uid.in_(selection.instances))
    return statement


def _queued(statement: Any, transfer_id: str) -> Any:
    return statement.where(
        transfer_instance.c.transfer_id == transfer_id, transfer_instance.c.state == InstanceState.QUEUED
    ).order_by(transfer_instance.c.number)


def _summaries(connection: Connection, statement: Any) -> list[Summary]:
    rows = connection.execute(statement).all()
    counts: dict[str, dict[str, int]] = {row.transfer_id: {} for row in rows}
    grouped = (
        select(transfer_instance.c.transfer_id, transfer_instance.c.state, func.count())
        .where(transfer_instance.c.transfer_id.in_(counts))
        .group_by(transfer_instance.c.transfer_id, transfer_instance.c.state)
    )
    for transfer_id, state, count in connection.execute(grouped):
        counts[transfer_id][state] = count
    return [Summary(row, counts[row.transfer_id]) for row in rows]
