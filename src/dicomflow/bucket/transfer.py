"""What pipeline and edge tell each other of images that go back to a site; three JSON documents in UTF-8.

`outbound/{edge}/pending.json` names the transfers that wait for an edge: it asks for this one object, and for no more
while it has not changed. `outbound/{edge}/{transfer}/job.json` says what is to be sent to which destination, by the
name that the edge knows it by: an address is in none of them. `returns/{edge}/{transfer}.json` says what became of it,
and its last one holds. A transfer that is tried again is the same one, in its next round.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, TypeAdapter, ValidationError

from dicomflow.errors import PermanentError

__all__ = [
    "FORMAT",
    "MAX_INSTANCES",
    "MAX_REASON",
    "InstanceState",
    "Job",
    "JobInstance",
    "Pending",
    "PendingTransfer",
    "ReturnedInstance",
    "Returns",
    "TransferState",
    "decode",
    "encode",
    "is_transfer_id",
]

FORMAT: Final = 1
MAX_INSTANCES: Final = 100_000
"""Of one transfer: its documents then have some 25 MB."""
MAX_REASON: Final = 300


class TransferState(StrEnum):
    """Where a transfer stands.

    queued -> under_way when the edge has said something of it; both -> done, partial or failed when it has said its
    last, or cancelled by an operator. From the last three it can be tried again: -> queued, in the next round.
    """

    QUEUED = "queued"
    UNDER_WAY = "under_way"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_settled(self) -> bool:
        """Whether nothing more comes of this round."""
        return self not in {TransferState.QUEUED, TransferState.UNDER_WAY}


class InstanceState(StrEnum):
    """Where an instance of a transfer stands: queued, which includes being tried again, or one of three ends."""

    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_MOST_INTEGER: Final = (1 << 31) - 1  # of the catalog's columns
_MOST_BIG_INTEGER: Final = (1 << 63) - 1
_TRANSFER_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # a folder's name too, at the edge
_PLAIN_ID: Final = re.compile(_TRANSFER_ID)
_TransferId = Annotated[str, StringConstraints(pattern=_TRANSFER_ID)]
_Uid = Annotated[str, StringConstraints(pattern=r"^[0-9.]{1,64}$")]
# What no database holds, and no page or log shows, is replaced.
_Reason = Annotated[
    str,
    StringConstraints(max_length=MAX_REASON),
    AfterValidator(lambda text: "".join(each if each.isprintable() else "\ufffd" for each in text)),
]
_Number = Annotated[int, Field(ge=0, lt=MAX_INSTANCES)]
_Round = Annotated[int, Field(ge=1, le=_MOST_INTEGER)]


@dataclass(frozen=True, slots=True)
class PendingTransfer:
    """A transfer that waits for an edge, or that it is to leave."""

    transfer: _TransferId
    round: _Round
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """All transfers that an edge has not said its last of."""

    edge: str
    transfers: tuple[PendingTransfer, ...]
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class JobInstance:
    """A copy to send: its file has these bytes and this SHA-256 in lower-case hex, or none where nobody knows it."""

    number: _Number
    sop_class_uid: _Uid
    sop_instance_uid: _Uid
    transfer_syntax_uid: Annotated[str, StringConstraints(pattern=r"^[0-9.]{0,64}$")]
    bytes: Annotated[int, Field(ge=1, le=_MOST_BIG_INTEGER)]
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


@dataclass(frozen=True, slots=True)
class Job:
    """What one round of a transfer sends."""

    edge: str
    transfer: _TransferId
    round: _Round
    destination: str
    instances: Annotated[tuple[JobInstance, ...], Field(max_length=MAX_INSTANCES)]
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class ReturnedInstance:
    """What became of an instance so far: `status` is of the destination's last answer, None where there was none."""

    number: _Number
    state: InstanceState
    status: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    reason: _Reason = ""
    attempts: Annotated[int, Field(ge=0, le=_MOST_INTEGER)] = 0


@dataclass(frozen=True, slots=True)
class Returns:
    """What became of a round so far; instances of which nothing is known yet are left out.

    `sequence` grows with every one that an edge makes: microseconds since the epoch, or one more than the last.
    `reason` is of what holds up, or has ended, the whole.
    """

    edge: str
    transfer: _TransferId
    round: _Round
    sequence: Annotated[int, Field(ge=0, le=_MOST_BIG_INTEGER)]
    at: AwareDatetime
    is_final: bool
    instances: Annotated[tuple[ReturnedInstance, ...], Field(max_length=MAX_INSTANCES)]
    reason: _Reason = ""
    format: int = FORMAT


Document = Pending | Job | Returns
_D = TypeVar("_D", Pending, Job, Returns)
_KINDS: Final = {kind.__name__: kind for kind in (Pending, Job, Returns)}


def encode(document: Document) -> bytes:
    """Encode a document."""
    return _adapter(type(document).__name__).dump_json(document)


def decode(kind: type[_D], encoded: bytes) -> _D:
    """Decode a document; unknown members are ignored.

    Raises:
        PermanentError: the bytes are no such document of this format; the text shows no value of theirs.
    """
    try:
        found: _D = _adapter(kind.__name__).validate_json(encoded, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PermanentError(f"no {kind.__name__} of format {FORMAT}: {where}: {first['msg']}") from None
    except RecursionError:
        raise PermanentError(f"no {kind.__name__} of format {FORMAT}") from None
    if found.format != FORMAT:
        raise PermanentError(f"a {kind.__name__} of format {found.format}, not {FORMAT}")
    return found


def is_transfer_id(text: str) -> bool:
    """Tell what can be the name of a transfer."""
    return _PLAIN_ID.fullmatch(text) is not None


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS[name])
