"""Staging: copies of the objects that a job is to take without the rest of their series.

An import job takes whole prefixes. Where some objects of a series are in already, the others are copied under a prefix
of the job's own (a copy within the store), so that nothing is imported and paid for twice.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from obstore.exceptions import BaseError

from dicomflow.bucket.listing import list_objects
from dicomflow.catalog import imports, outcomes
from dicomflow.catalog.jobs import Job
from dicomflow.errors import TransientError
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["MAX_COPY_BYTES", "clear_staging", "stage_objects"]

logger = logging.getLogger(__name__)

MAX_COPY_BYTES: Final = 5 * 10**9
"""What one CopyObject of S3 takes; a series with a larger object is imported whole."""
COPIES_AT_ONCE: Final = 16
_PAGE: Final = 2 * COPIES_AT_ONCE
RENEW_SECONDS: Final = 20.0
"""How often a claim is renewed while copies are made: a copy of gigabytes takes minutes."""


def stage_objects(deps: Dependencies, job: Job, renew: Callable[[], None], *, is_last_attempt: bool) -> None:
    """Copy what is left of a job's series under the job's prefix; a repeat makes the same copies.

    Args:
        deps: the deployment.
        job: a job that this driver has claimed.
        renew: keeps the claim while copies are made, and raises when it is lost.
        is_last_attempt: what cannot be copied is left out, and does not keep the rest of its series from being
            imported.

    Raises:
        TransientError: the store did not make a copy.
    """
    prefix = job.input_prefix
    with deps.engine.begin() as connection:
        rows = imports.series_of_job(connection, job.import_job_id)
        keys = [left.object_key for row in rows for left in outcomes.objects_left(connection, row, job.datastore_id)]

    def copy(key: str) -> TransientError | None:
        try:
            deps.store.copy(key, prefix + key.rpartition("/")[2])
        except (FileNotFoundError, ValueError) as error:  # its series will say that it has no result
            logger.warning("object_missing", extra={"key": key, "error": type(error).__name__})
        except (BaseError, OSError) as error:
            logger.warning("object_not_copied", extra={"key": key, "error": type(error).__name__})
            return TransientError(f"the store did not copy an object: {type(error).__name__}")
        return None

    failures = []
    with ThreadPoolExecutor(COPIES_AT_ONCE, "stage") as threads:
        for start in range(0, len(keys), _PAGE):
            pending = {threads.submit(copy, key) for key in keys[start : start + _PAGE]}
            while pending:
                done, pending = wait(pending, RENEW_SECONDS)
                renew()
                failures += [error for future in done if (error := future.result()) is not None]
            if failures and not is_last_attempt:
                raise failures[0]
    if failures and len(failures) == len(keys):
        raise failures[0]


def clear_staging(deps: Dependencies, job: Job) -> None:
    """Remove a job's copies; what cannot be removed now is left to the bucket's lifecycle rule."""
    try:
        deps.store.delete([each.key for each in list_objects(deps.store, job.input_prefix)])
    except Exception as error:  # noqa: BLE001  # nothing rests on it
        logger.warning("staging_left", extra={"import_job_id": job.import_job_id, "error": type(error).__name__})
