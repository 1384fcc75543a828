"""What an edge tells of itself: the one format that edge, pipeline and console agree on for it.

A JSON object in UTF-8, put under `status/{edge}.json` every minute and when something has changed; the last one holds.
An edge needs nothing but writing that one key.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dicomflow.bucket.compared import ComparedSource
from dicomflow.bucket.documents import Format, Moment, Text

__all__ = ["SILENT_AFTER", "STATUS_VERSION", "Heartbeat", "KnownDestination", "SeenPeer", "WaitingDestination"]

STATUS_VERSION: Final = 1
SILENT_AFTER: Final = timedelta(minutes=3)
"""An edge without a heartbeat for so long is silent: three were missed."""


@dataclass(frozen=True, slots=True)
class SeenPeer:
    """A requestor that stored something: its AE title and address, how much since the edge's start, and when last."""

    ae_title: Text
    address: Text
    instances: int
    seen_at: Moment


@dataclass(frozen=True, slots=True)
class KnownDestination:
    """Where an edge can send images: the name in its settings, and the AE title; not the address."""

    name: Text
    ae_title: Text


@dataclass(frozen=True, slots=True)
class WaitingDestination:
    """A destination that has not taken all that routes send it: how many instances wait, and the age of the oldest."""

    name: Text
    instances: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How an edge is at a moment: instances in each folder of its spool, and whom it has heard of.

    `oldest_seconds` is the age of the oldest instance that is not stored, 0 without one. `peers` has those that were
    seen last, the latest first. `is_full` tells that it refuses images for want of space, `set_aside` how many files,
    folders and deliveries it cannot work on, `undelivered_reports` how many of storage commitment it gave up,
    `destinations` where it can send images, `nightly` the sources that it compares itself with every night, `sources`
    what that found, `waiting` the destinations for which something waits by routes; `run` is of the process that tells,
    and `is_shared` whether another one tells under the same name;
    an edge of an earlier version tells none of them.
    """

    edge: Text
    version: Text
    at: Moment
    ae_title: Text
    received: int
    delivering: int
    quarantined: int
    free_bytes: int
    oldest_seconds: float
    peers: tuple[SeenPeer, ...] = ()
    is_full: bool = False
    set_aside: int = 0
    undelivered_reports: int = 0
    destinations: tuple[KnownDestination, ...] = ()
    sources: tuple[ComparedSource, ...] = ()
    nightly: tuple[Text, ...] = ()
    waiting: tuple[WaitingDestination, ...] = ()
    run: Text = ""
    is_shared: bool = False

    def compared(self) -> dict[str, ComparedSource | None]:
        """Return by name what is known of each source that is compared every night; None where nothing is yet."""
        return dict.fromkeys(self.nightly) | {each.name: each for each in self.sources}

    def to_json(self) -> bytes:
        """Encode as UTF-8 JSON with stable key order; `version` is the edge's, `format` this module's."""
        return _FORMAT.encode(self)

    @classmethod
    def from_json(cls, encoded: bytes) -> "Heartbeat":
        """Decode a heartbeat; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no heartbeat of this format, or a member is missing or of another type.
        """
        return _FORMAT.decode(encoded)


_FORMAT: Final = Format(Heartbeat, "a heartbeat of format", STATUS_VERSION, member="format")
