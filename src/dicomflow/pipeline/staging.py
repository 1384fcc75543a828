"""Staging: copies of the objects that a job is to take without the rest of their series.

An import job takes whole prefixes. Where some objects of a series are in already, the others are copied under a prefix
of the job's own (a copy within the store), so that nothing is imported and paid for twice.
"""

import logging
from typing import Final

from obstore.exceptions import BaseError

from dicomflow.catalog import imports, outcomes
from dicomflow.catalog.jobs import Job
from dicomflow.errors import TransientError
from dicomflow.pipeline.dependencies import Dependencies

__all__ = ["MAX_COPY_BYTES", "clear_staging", "input_prefix", "stage_objects"]

logger = logging.getLogger(__name__)

MAX_COPY_BYTES: Final = 5 * 10**9
"""What one CopyObject of S3 takes; a series with a larger object is imported whole."""


def input_prefix(deps: Dependencies, job: Job) -> str:
    """Return the key prefix of a job's input, which ends in a slash."""
    return job.input_s3_uri.removeprefix(f"s3://{deps.bucket}/")


def stage_objects(deps: Dependencies, job: Job) -> None:
    """Copy what is left of a job's series under the job's prefix; a repeat makes the same copies.

    Raises:
        TransientError: the store did not answer.
    """
    prefix = input_prefix(deps, job)
    with deps.engine.begin() as connection:
        rows = imports.series_of_job(connection, job.import_job_id)
        keys = [left.object_key for row in rows for left in outcomes.objects_left(connection, row)]
    for key in keys:
        try:
            deps.store.copy(key, prefix + key.rpartition("/")[2])
        except FileNotFoundError:
            logger.warning("object_missing", extra={"key": key})  # its series will say that it has no result
        except (BaseError, OSError) as error:
            raise TransientError(f"the store did not copy an object: {type(error).__name__}") from error


def clear_staging(deps: Dependencies, job: Job) -> None:
    """Remove a job's copies; what cannot be removed now is left to the bucket's lifecycle rule."""
    if not job.is_staged:
        return
    try:
        prefix = input_prefix(deps, job)
        for chunk in deps.store.list(prefix.rstrip("/")):
            deps.store.delete([meta["path"] for meta in chunk])
    except (BaseError, OSError) as error:
        logger.warning("staging_left", extra={"import_job_id": job.import_job_id, "error": type(error).__name__})
