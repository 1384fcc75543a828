"""The one tree of errors: whose fault it is decides the class, and the class decides what is done next."""

from datetime import timedelta
from typing import Final, TypeVar

__all__ = [
    "DicomflowError",
    "InternalError",
    "PeerError",
    "PermanentError",
    "TransientError",
    "pause_after",
    "text_of",
]

_MOST_DOUBLINGS: Final = 30
_Span = TypeVar("_Span", float, int, timedelta)


class DicomflowError(Exception):
    """Base of all errors raised by dicomflow; its text holds no patient data and no secret."""


class PeerError(DicomflowError):
    """The other side broke the protocol or sent an unusable object; it is answered in the protocol's terms."""


class TransientError(DicomflowError):
    """The same call may succeed later: network, throttling, a full disk, a database that resumes."""


class PermanentError(DicomflowError):
    """The same call will never succeed: it is recorded with its reason and not repeated."""


class InternalError(DicomflowError):
    """An invariant of ours does not hold: a bug."""


def pause_after(failures: int, first: _Span, longest: _Span) -> _Span:
    """Return how long to wait after so many failures on end: `first` after one, then twice as long each time."""
    factor: int = 1 << min(max(failures - 1, 0), _MOST_DOUBLINGS)
    return min(first * factor, longest)


def text_of(error: DicomflowError | OSError) -> str:
    """Return what an error says: of the system's its own words, which name no path."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
