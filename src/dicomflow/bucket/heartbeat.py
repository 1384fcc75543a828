"""What an edge tells of itself: the one format that edge, pipeline and console agree on for it.

A JSON object in UTF-8, put under `status/{edge}.json` every minute and when something has changed; the last one holds.
An edge needs nothing but writing that one key.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = ["SILENT_AFTER", "STATUS_VERSION", "Heartbeat", "SeenPeer"]

STATUS_VERSION: Final = 1
SILENT_AFTER: Final = timedelta(minutes=3)
"""An edge without a heartbeat for so long is silent: three were missed."""


@dataclass(frozen=True, slots=True)
class SeenPeer:
    """A requestor that stored something: its AE title and address, how much since the edge's start, and when last."""

    ae_title: str
    address: str
    instances: int
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How an edge is at a moment: instances in each folder of its spool, and whom it has heard of.

    `oldest_seconds` is the age of the oldest instance that is not stored, 0 without one. `peers` has those that were
    seen last, the latest first. `is_full` tells that it refuses images for want of space, `set_aside` how many files,
    folders and deliveries it cannot work on, `undelivered_reports` how many of storage commitment it gave up; an edge
    of an earlier version tells none of them.
    """

    edge: str
    version: str
    at: datetime
    ae_title: str
    received: int
    delivering: int
    quarantined: int
    free_bytes: int
    oldest_seconds: float
    peers: tuple[SeenPeer, ...] = ()
    is_full: bool = False
    set_aside: int = 0
    undelivered_reports: int = 0

    def to_json(self) -> bytes:
        """Encode as UTF-8 JSON with stable key order; `version` is the edge's, `format` this module's."""
        document = asdict(self) | {"format": STATUS_VERSION, "at": self.at.isoformat()}
        document["peers"] = [asdict(peer) | {"seen_at": peer.seen_at.isoformat()} for peer in self.peers]
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, encoded: bytes) -> "Heartbeat":
        """Decode a heartbeat; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no heartbeat of this format, or a member is missing or of another type.
        """
        try:
            document: dict[str, Any] = json.loads(encoded)
            if document["format"] != STATUS_VERSION:
                raise ValueError(f"format is {document['format']!r}")  # noqa: TRY301  # wrapped like all others
            return cls(
                edge=_text(document["edge"]),
                version=_text(document["version"]),
                at=_time(document["at"]),
                ae_title=_text(document["ae_title"]),
                received=int(document["received"]),
                delivering=int(document["delivering"]),
                quarantined=int(document["quarantined"]),
                free_bytes=int(document["free_bytes"]),
                oldest_seconds=float(document["oldest_seconds"]),
                peers=tuple(
                    SeenPeer(
                        _text(peer["ae_title"]),
                        _text(peer["address"]),
                        int(peer["instances"]),
                        _time(peer["seen_at"]),
                    )
                    for peer in document["peers"]
                ),
                is_full=bool(document.get("is_full", False)),
                set_aside=int(document.get("set_aside", 0)),
                undelivered_reports=int(document.get("undelivered_reports", 0)),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PermanentError(f"not a heartbeat of format {STATUS_VERSION}: {error!r}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of text")
    return value


def _time(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone")
    return moment
