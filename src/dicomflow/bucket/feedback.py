"""What the pipeline tells an edge of a delivery: the way back, for storage commitment of what is imported.

A JSON object in UTF-8, put under `feedback/{edge}/{delivery}.json` when every series of the delivery is settled, and
again when a retry has changed something: the last one holds. An edge needs nothing but reading its own prefix.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dicomflow.errors import PermanentError

__all__ = ["FEEDBACK_VERSION", "FailedObject", "Feedback"]

FEEDBACK_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class FailedObject:
    """An object that was not imported, by its key, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What became of a delivery's objects, by their keys; every object is in one of the two lists."""

    edge: str
    delivery: str
    settled_at: datetime
    imported: tuple[str, ...]
    failed: tuple[FailedObject, ...]

    def to_json(self) -> bytes:
        """Encode as UTF-8 JSON with stable key order."""
        document = {
            "version": FEEDBACK_VERSION,
            "edge": self.edge,
            "delivery": self.delivery,
            "settled_at": self.settled_at.isoformat(),
            "imported": list(self.imported),
            "failed": [{"key": item.key, "reason": item.reason} for item in self.failed],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, encoded: bytes) -> "Feedback":
        """Decode feedback; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no feedback of this version, or a member is missing or of
                another type, or no text that UTF-8 can hold.
        """
        try:
            document: dict[str, Any] = json.loads(encoded)
            if document["version"] != FEEDBACK_VERSION:
                raise ValueError(f"version is {document['version']!r}")  # noqa: TRY301  # wrapped like all others
            settled_at = datetime.fromisoformat(_text(document["settled_at"]))
            if settled_at.tzinfo is None:
                raise ValueError("settled_at has no time zone")  # noqa: TRY301  # wrapped like all others
            return cls(
                edge=_text(document["edge"]),
                delivery=_text(document["delivery"]),
                settled_at=settled_at,
                imported=tuple(_text(key) for key in document["imported"]),
                failed=tuple(FailedObject(_text(item["key"]), _text(item["reason"])) for item in document["failed"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PermanentError(f"not feedback of version {FEEDBACK_VERSION}: {error!r}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of text")
    value.encode()  # JSON can hold half of a pair of surrogates, which nothing else takes
    return value
