"""The states of imports: of a series, of the job that takes it, and of an instance in that job.

Which state follows which is written as "queued → in_progress" where it is enforced: at the statements of `imports`
and `jobs`, each of which names the states it starts from. This module must not know tables.
"""

from enum import StrEnum
from typing import Final

__all__ = [
    "HELD",
    "MOVED",
    "RETRIED",
    "RETRYABLE",
    "SHOWN",
    "UNFINISHED",
    "UNSETTLED",
    "InstanceState",
    "JobState",
    "SeriesState",
    "shown_as",
]


class SeriesState(StrEnum):
    """Of a row of `series_import`: what has become of a series of a delivery."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    PARTIAL = "partial"
    """Some instances are in."""
    HIDDEN = "hidden"
    """All are in, and some in image sets that are not primary, which no viewer sees."""
    FAILED = "failed"
    DISABLED = "disabled"
    """Never queued."""

    @property
    def status(self) -> int:
        """The seed's number: a partial series has failed there, a hidden one is completed, and `disabled` has none."""
        return _NUMBERS[self]


_NUMBERS: Final = {
    SeriesState.DISABLED: 0,
    SeriesState.QUEUED: 1,
    SeriesState.IN_PROGRESS: 2,
    SeriesState.COMPLETED: 3,
    SeriesState.HIDDEN: 3,
    SeriesState.PARTIAL: 4,
    SeriesState.FAILED: 4,
}
SHOWN: Final = {
    SeriesState.QUEUED: (SeriesState.QUEUED,),
    SeriesState.IN_PROGRESS: (SeriesState.IN_PROGRESS,),
    SeriesState.COMPLETED: (SeriesState.COMPLETED,),
    SeriesState.HIDDEN: (SeriesState.HIDDEN,),
    SeriesState.FAILED: (SeriesState.FAILED, SeriesState.PARTIAL),
}
"""What is counted and looked for by one name."""


def shown_as(state: str) -> str:
    """Return the name by which a state is counted; one that was never queued has none of `SHOWN`."""
    return next((str(name) for name, states in SHOWN.items() if state in states), "not_queued")


UNSETTLED: Final = (SeriesState.QUEUED, SeriesState.IN_PROGRESS)
RETRIED: Final = (SeriesState.FAILED, SeriesState.PARTIAL)
"""What an operator's retry takes by default."""
RETRYABLE: Final = (*RETRIED, SeriesState.DISABLED)
MOVED: Final = (SeriesState.COMPLETED, SeriesState.HIDDEN)
"""What can be queued again where it is in another data store than imports go to now."""


class JobState(StrEnum):
    """Of a row of `import_job`."""

    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    GIVEN_UP = "given_up"
    """It has run past the limit, and may still end."""


UNFINISHED: Final = (JobState.CLAIMED, JobState.SUBMITTED, JobState.IN_PROGRESS)


class InstanceState(StrEnum):
    """Of a row of `import_outcome`: what has become of an object in a job."""

    IMPORTED = "imported"
    WARNED = "warned"
    FAILED = "failed"
    GONE = "gone"
    """The image set that held it is not there any more."""


HELD: Final = (InstanceState.IMPORTED, InstanceState.WARNED)
"""What the data store has."""
