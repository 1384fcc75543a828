"""What an archive holds, and its bytes: the interface of retrieval. Knows neither SQL, nor stores, nor a protocol."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

__all__ = ["Retrieval", "Selection", "StoredInstance"]


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

    `sha256` is the file's, in lower-case hex; None where nobody has told. `transfer_syntax_uid` is "" where the
    object has to be asked.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    sha256: str | None
    location: str


class Retrieval(Protocol):
    """Finds instances and gives their bytes. Threads: any.

    Each method raises `TransientError` where catalog or store does not answer.
    """

    def find(self, selection: Selection) -> list[StoredInstance]:
        """Return what a selection means, each once, by study, series number and instance number; [] where nothing does.

        Raises:
            BadQueryError: nothing is given to select by, or more UIDs than are taken.
        """

    def stored_syntaxes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return by SOP class the transfer syntaxes of what came lately, the most frequent first."""

    def open(self, instance: StoredInstance) -> BinaryIO:
        """Return the object as a file that is read by ranges; reading raises as `read` does."""

    def read(self, instance: StoredInstance, start: int, length: int) -> bytes:
        """Return so many bytes of an object.

        Raises:
            NotHeldError: it is gone from the store, or is shorter.
        """

    def chunks(self, instance: StoredInstance) -> Iterator[bytes]:
        """Yield the object's bytes in pieces of some MiB, of `size_bytes` in all; raises as `read`."""
