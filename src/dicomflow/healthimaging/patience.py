"""Calls that change image sets: the service allows few, and says so of the others, which are made again.

Must not know what is called.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from dicomflow.errors import TransientError
from dicomflow.healthimaging.client import AccessError

__all__ = ["PACE_SECONDS", "call_patiently"]

T = TypeVar("T")

PACE_SECONDS: Final = 4.0
"""UpdateImageSetMetadata, CopyImageSet and DeleteImageSet are allowed once in four seconds each."""
_ATTEMPTS: Final = 8


def call_patiently(
    call: Callable[[], T], wait: Callable[[float], None], tell: Callable[[TransientError], None] = lambda _: None
) -> T:
    """Make a call, again while it may succeed later, with longer waits each time.

    Args:
        call: what is called.
        wait: sleeps for some seconds.
        tell: hears of each failure that is waited for.

    Raises:
        AccessError: at once.
        TransientError: the last attempt's.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except AccessError:  # that takes somebody, and no patience
            raise
        except TransientError as error:
            tell(error)
        wait(PACE_SECONDS * attempt)
    return call()
