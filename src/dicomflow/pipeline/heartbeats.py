"""Reads what edges tell of themselves: the heartbeats in the store, how long each is silent, and what it lacks."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket.compared import Standing, judge_source
from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import STATUS_PREFIX, is_heartbeat
from dicomflow.bucket.listing import list_objects
from dicomflow.bucket.reading import read_heartbeat
from dicomflow.errors import PermanentError, TransientError

__all__ = ["Completeness", "completeness", "read_heartbeats", "silences", "waits"]

logger = logging.getLogger(__name__)


def read_heartbeats(store: ObjectStore) -> list[Heartbeat]:
    """Return the last heartbeat of each edge, by name; an object that is none is logged and left out.

    Raises:
        TransientError: the store did not answer.
    """
    found = []
    try:
        for key in (each.key for each in list_objects(store, STATUS_PREFIX) if is_heartbeat(each.key)):
            try:
                found.append(read_heartbeat(store, key))
            except FileNotFoundError:
                continue
            except PermanentError as error:
                logger.warning("heartbeat_unreadable", extra={"key": key, "error": str(error)})
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error
    return sorted(found, key=lambda each: each.edge)


def silences(beats: Iterable[Heartbeat], now: datetime) -> dict[str, float]:
    """Return by edge the seconds since its last heartbeat; 0 for a clock that is ahead of ours."""
    return {each.edge: max(0.0, (now - each.at).total_seconds()) for each in beats}


def waits(beats: Iterable[Heartbeat]) -> dict[str, float]:
    """Return by edge for how many seconds its oldest instance had waited for a destination; 0 for none."""
    return {each.edge: max((waiting.oldest_seconds for waiting in each.waiting), default=0.0) for each in beats}


@dataclass(frozen=True, slots=True)
class Completeness:
    """What nightly comparisons of an edge came to: images that it lacks, and sources of which nobody knows."""

    missing: int
    not_compared: int


def completeness(beats: Iterable[Heartbeat], now: datetime) -> dict[str, Completeness]:
    """Return by edge what its nightly comparisons found, of those that have any; no report is not a good one."""
    found = {}
    for beat in beats:
        if compared := beat.compared():
            standings = [judge_source(source, now) for source in compared.values()]
            missing = sum(source.missing for source in compared.values() if source is not None)
            found[beat.edge] = Completeness(missing, standings.count(Standing.UNCHECKED))
    return found
