"""Why a question has no answer; a failure is never an empty answer.

What may be asked again is a `TransientError`: the catalog or the store is away. Each protocol has its own words for
these: HTTP 400, 403 and 503, DIMSE A900, 0124 and A700.
"""

from dicomflow.errors import PeerError, PermanentError

__all__ = ["BadQueryError", "NotAllowedError", "NotHeldError"]


class BadQueryError(PeerError):
    """What is asked for makes no sense: a level, key or value that the standard does not know. Holds no value."""


class NotAllowedError(PeerError):
    """Who asks is known, and may not do this."""


class NotHeldError(PermanentError):
    """An object that the catalog knows is not in the store, or not as it was: 404, or a failed sub-operation."""
