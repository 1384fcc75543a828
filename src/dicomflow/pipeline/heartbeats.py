"""Reads what edges tell of themselves: the heartbeats in the store, and how long each edge has been silent."""

import logging
from datetime import datetime

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.bucket.keys import STATUS_PREFIX, is_heartbeat
from dicomflow.bucket.listing import list_objects
from dicomflow.errors import PermanentError, TransientError

__all__ = ["read_heartbeats", "silences"]

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
                found.append(Heartbeat.from_json(bytes(obstore.get(store, key).bytes())))
            except FileNotFoundError:
                continue
            except PermanentError as error:
                logger.warning("heartbeat_unreadable", extra={"key": key, "error": str(error)})
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error
    return sorted(found, key=lambda each: each.edge)


def silences(store: ObjectStore, now: datetime) -> dict[str, float]:
    """Return by edge the seconds since its last heartbeat; 0 for a clock that is ahead of ours."""
    return {each.edge: max(0.0, (now - each.at).total_seconds()) for each in read_heartbeats(store)}
