"""What a destination's answer to a C-STORE means for the instance: it has it, it is asked again, or never will."""

from enum import Enum
from typing import Final

from dicomflow.dimse.status import Status, is_warning
from dicomflow.errors import pause_after
from dicomflow.send.association import Outcome

__all__ = ["TRIES", "Verdict", "pause_of", "pause_seconds", "verdict_of", "verdict_of_status"]

TRIES: Final = 3
"""Of an instance whose failure says neither that it is its own nor that it will pass."""
_FIRST_PAUSE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 900.0
_FIRST_WAIT_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 60.0

# PS3.7 C.5.6: an instance of this UID exists there.
_DUPLICATE: Final = 0x0111
# PS3.4 B.2.3: A7xx Out of Resources; PS3.7 C.5: 0213 Resource Limitation.
_OUT_OF_RESOURCES: Final = 0xA7
_RESOURCE_LIMITATION: Final = 0x0213
# PS3.4 B.2.3: A9xx Data Set does not match SOP Class.
_NO_MATCH: Final = 0xA9
# PS3.7 C.5: Invalid SOP Instance, No such SOP Class, SOP Class not supported, Not authorized.
_FINAL: Final = frozenset({0x0117, 0x0118, 0x0122, 0x0124})


class Verdict(Enum):
    """What follows from an answer."""

    STORED = "stored"
    AGAIN = "again"  # for as long as the destination's settings say
    SOMETIMES = "sometimes"  # `TRIES` times
    NEVER = "never"


def verdict_of(outcome: Outcome) -> Verdict:
    """Judge the status of a response (PS3.4 B.2.3, PS3.7 Annex C)."""
    assert outcome.status is not None, "there was a response"
    return verdict_of_status(outcome.status)


def verdict_of_status(status: int) -> Verdict:
    """Judge a status, or the Failure Reason of an instance, which is one (PS3.18 10.5.3)."""
    if status in {Status.SUCCESS, _DUPLICATE} or is_warning(status):
        return Verdict.STORED
    if status >> 8 == _OUT_OF_RESOURCES or status == _RESOURCE_LIMITATION:
        return Verdict.AGAIN
    if status >> 8 == _NO_MATCH or status in _FINAL:
        return Verdict.NEVER
    return Verdict.SOMETIMES


def pause_seconds(attempts: int) -> float:
    """Return how long an instance waits after so many failed tries."""
    return pause_after(attempts, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)


def pause_of(failures: int) -> float:
    """Return how long what cannot be had or reached is left alone, in seconds, after so many failures."""
    return pause_after(failures, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
