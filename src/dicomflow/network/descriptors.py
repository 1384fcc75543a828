"""File descriptors: as many as the system lets have, and how many of them connections may hold that ask for nothing."""

import logging
import sys
from typing import Final

if sys.platform != "win32":
    import resource

__all__ = ["most_waiting", "raise_limit"]

# Of an association that receives: its socket, its file or segment, and what syncing and TLS take for a moment.
_OF_AN_ASSOCIATION: Final = 4
_OF_THE_PROCESS: Final = 64
_FEWEST_WAITING: Final = 16
# Each has a thread, and may have the 1 MiB of a request; an honest requestor waits for milliseconds.
_MOST_WAITING: Final = 256
_ENOUGH: Final = 1 << 16

_logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """Raise this process's limit to the hardest there is for it; its children inherit that."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _logger.warning("descriptors_not_raised soft=%d hard=%d error=%s", soft, hard, error)


def most_waiting(max_associations: int) -> int:
    """Return how many connections without an association a worker may have, beside all associations there may be."""
    if sys.platform == "win32":  # sockets are not limited
        return _MOST_WAITING
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MOST_WAITING
    reserved = _OF_THE_PROCESS + _OF_AN_ASSOCIATION * max_associations
    if limit < reserved + _FEWEST_WAITING:
        _logger.warning(
            "descriptors_short limit=%d needed=%d max_associations=%d",
            limit,
            reserved + _FEWEST_WAITING,
            max_associations,
        )
    return max(_FEWEST_WAITING, min(_MOST_WAITING, limit - reserved))
