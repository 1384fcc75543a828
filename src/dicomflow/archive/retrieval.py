"""What an archive holds, and its bytes: the interface of retrieval. Knows neither SQL, nor stores, nor a protocol."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

__all__ = ["AsStored", "Pair", "Reading", "Retrieval", "Selection", "StoredInstance"]

Pair: TypeAlias = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which instances: each that fits all that is given; what is empty leaves open.

    `version` is the SHA-256 of one object of an instance of which several were received, in lower-case hex; without it
    the one that came last is meant.
    """

    patient_id: str | None = None
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance as it is stored: a Part 10 file of `size_bytes`, where only its archive knows.

    `sha256` is the file's, in lower-case hex; None where nobody has told. `transfer_syntax_uid` is "" and `size_bytes`
    0 where the object has to be asked.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str | None
    location: str


class Reading(Protocol):
    """One operation's reading of what it found, object by object, until `close`. Thread: one owner."""

    def take(self, instance: StoredInstance, accepted: Collection[Pair]) -> AbstractContextManager[StoredInstance]:
        """Give an instance for as long as it is read, with its size and transfer syntax as far as it is stored here.

        Args:
            instance: one that was found.
            accepted: what it may be in; where it can be had so from elsewhere it is, and is not converted here.

        Raises:
            NotHeldError, TransientError: as `Retrieval.read`.
        """

    def close(self) -> None:
        """Let go of all that was begun."""


class AsStored:
    """The reading of what lies in a store: each object is read where it is. Threads: any."""

    def take(self, instance: StoredInstance, accepted: Collection[Pair]) -> AbstractContextManager[StoredInstance]:
        """Give it as it is stored."""
        del accepted
        return nullcontext(instance)

    def close(self) -> None:
        """Nothing was begun."""


class Retrieval(Protocol):
    """Finds instances and gives their bytes. Threads: any.

    Each method raises `TransientError` where catalog or store does not answer.
    """

    @property
    def at_once(self) -> int:
        """How many objects are better read at once than one after the other; 1 where that gains nothing."""

    def find(self, selection: Selection) -> list[StoredInstance]:
        """Return what a selection means, each once, by study, series number and instance number; [] where nothing does.

        Raises:
            BadQueryError: nothing is given to select by, or more UIDs than are taken.
        """

    def stored_syntaxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return by SOP class all transfer syntaxes of what is stored, the most frequent first; () if not known yet."""

    def syntaxes_of(self, instance: StoredInstance) -> tuple[str, ...]:
        """Return the transfer syntax of an instance, or several where only reading it whole tells which; as `read`."""

    def reading(self, waiting: Sequence[StoredInstance]) -> Reading:
        """Begin to read instances whole.

        Args:
            waiting: what comes next, in this order; the caller takes from its front, so that it may be fetched ahead.
        """

    def open(self, instance: StoredInstance) -> BinaryIO:
        """Return the object as a file that is read by ranges; reading raises as `read` does."""

    def read(self, instance: StoredInstance, start: int, length: int) -> bytes:
        """Return so many bytes of an object.

        Raises:
            NotHeldError: it is gone from the store, or is shorter.
        """

    def chunks(self, instance: StoredInstance) -> Iterator[bytes]:
        """Yield the object's bytes in pieces of some MiB, of `size_bytes` in all; raises as `read`."""
