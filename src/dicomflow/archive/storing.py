"""What takes images that are stored over the web: the interface of whoever owns a spool. Knows no spool."""

from typing import Protocol

__all__ = ["ImageStore", "StoredImage", "Storing"]


class StoredImage(Protocol):
    """What became of one object: UIDs as far as they could be read, and the status of PS3.4 B.2.3; 0 for stored.

    Durable: of one that is stored, the bytes are on disk.
    """

    @property
    def sop_class_uid(self) -> str:
        """Its SOP class, or ""."""

    @property
    def sop_instance_uid(self) -> str:
        """Its SOP instance, or ""."""

    @property
    def study_instance_uid(self) -> str:
        """Its study, or ""."""

    @property
    def series_instance_uid(self) -> str:
        """Its series, or ""."""

    @property
    def status(self) -> int:
        """The status that a C-STORE of it would have been answered."""


class Storing(Protocol):
    """One request that stores objects, one after the other. Thread: one at a time."""

    def begin(self) -> None:
        """Begin an object."""

    def take(self, data: bytes) -> None:
        """Take the next bytes of its Part 10 file."""

    def end(self) -> StoredImage:
        """Make the object durable, or say why not; never raises for what is wrong with it."""

    def close(self) -> None:
        """End the request; what is half received is thrown away."""


class ImageStore(Protocol):
    """Takes images. Threads: any."""

    def open(self, sender: str, peer: str, study_instance_uid: str | None) -> Storing:
        """Begin a request.

        Args:
            sender: who sends, for the manifest; it stands where a C-STORE has the calling AE title.
            peer: the address it comes from.
            study_instance_uid: that all objects must be of; None for any.
        """
