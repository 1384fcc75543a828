"""Deletes what was received, so long after its import: by the catalog, so that nothing goes that the service lacks.

Runs with the driver, when that is awake anyway. An object of a versioned bucket is there for a while yet.
"""

import logging
from typing import Final

from dicomflow.catalog import retention
from dicomflow.catalog.audit import record_audit_event
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["expire_objects"]

logger = logging.getLogger(__name__)

SERIES_AT_ONCE: Final = 20
ROUNDS: Final = 5
_KEYS_A_CALL: Final = 1000  # of DeleteObjects


def expire_objects(deps: Dependencies) -> bool:
    """Delete some of what may go; return whether there may be more.

    The mark is set when the objects are gone: after a crash they are deleted again, which changes nothing.
    """
    if deps.retention is None:
        return False
    before = deps.clock() - deps.retention
    for _ in range(ROUNDS):
        with deps.engine.begin() as connection:
            since = retention.expired_until(connection)
            keys, until = retention.objects_to_expire(connection, since, before, SERIES_AT_ONCE)
        if until is None:
            return False
        for start in range(0, len(keys), _KEYS_A_CALL):
            deps.store.delete(keys[start : start + _KEYS_A_CALL])
        with deps.engine.begin() as connection:
            retention.set_expired_until(connection, until)
            if keys:
                details = {"objects_deleted": len(keys), "imported_until": until.isoformat()}
                record_audit_event(
                    connection, deps.clock(), actor="retention", action="expire_objects", uid=None, details=details
                )
        logger.info("objects_expired", extra={"objects": len(keys), "until": until.isoformat()})
    return True
