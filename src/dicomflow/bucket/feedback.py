"""What the pipeline tells an edge of a delivery: the way back, for storage commitment of what is imported.

A JSON object in UTF-8, put under `feedback/{edge}/{delivery}.json` when every series of the delivery is settled, and
again when a retry has changed something: the last one holds. An edge needs nothing but reading its own prefix.
"""

from dataclasses import dataclass
from typing import Final

from dicomflow.bucket.documents import Format, Moment, Text

__all__ = ["FEEDBACK_VERSION", "NOT_VISIBLE", "FailedObject", "Feedback"]

FEEDBACK_VERSION: Final = 1
NOT_VISIBLE: Final = "not visible"
"""How the reason begins of an object that is imported, but in an image set that HealthImaging shows nobody."""


@dataclass(frozen=True, slots=True)
class FailedObject:
    """An object that was not imported, by its key, and why."""

    key: Text
    reason: Text


@dataclass(frozen=True, slots=True)
class Feedback:
    """What became of a delivery's objects, by their keys; every object is in one of the two lists."""

    edge: Text
    delivery: Text
    settled_at: Moment
    imported: tuple[Text, ...]
    failed: tuple[FailedObject, ...]

    def to_json(self) -> bytes:
        """Encode as UTF-8 JSON with stable key order."""
        return _FORMAT.encode(self)

    @classmethod
    def from_json(cls, encoded: bytes) -> "Feedback":
        """Decode feedback; unknown members are ignored.

        Raises:
            PermanentError: the bytes are no feedback of this version, or a member is missing or of another type.
        """
        return _FORMAT.decode(encoded)


_FORMAT: Final = Format(Feedback, "feedback of version", FEEDBACK_VERSION)
