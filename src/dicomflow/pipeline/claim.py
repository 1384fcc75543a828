"""Which series are started next: they are prepared one by one, and claimed for a job in one short transaction.

What the catalog remembers to be in is believed only when the data store confirms the image sets that are to hold it,
and what it does not confirm is imported again. Trouble with a series is kept with that series: it waits, longer each
time, and fails in the end with its reason; the others go on.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from dicomflow.catalog import imports, jobs, outcomes, pace
from dicomflow.catalog.hidden import why_hidden
from dicomflow.catalog.imports import LONGEST_PUT_OFF, UNCHANGED
from dicomflow.catalog.jobs import Job
from dicomflow.catalog.states import SeriesState
from dicomflow.errors import DicomflowError, InternalError, PermanentError, TransientError, pause_after
from dicomflow.healthimaging import client as healthimaging
from dicomflow.healthimaging.client import ImageSetNotFoundError, ThrottledError
from dicomflow.healthimaging.limits import MAX_BYTES, MAX_FILES
from dicomflow.pipeline.dependencies import Dependencies
from dicomflow.pipeline.metrics import Counts, Name, after_commit
from dicomflow.pipeline.staging import MAX_COPY_BYTES
from dicomflow.pipeline.versions import compare_versions

__all__ = [
    "CLAIM_SECONDS",
    "FIRST_BACKOFF",
    "MAX_PATIENT_ATTEMPTS",
    "MAX_START_ATTEMPTS",
    "Prepared",
    "backoff",
    "claim_next",
    "is_vain",
    "reason_of",
]

logger = logging.getLogger(__name__)

MAX_STEPS: Final = 400
"""Of a run, with the series that need no job: it is to end long before its time is over."""
LONGEST_WAIT: Final = timedelta(seconds=10)
"""The queue is long when its last series, each having a job of its own, would wait longer than this."""
CLAIM_SECONDS: Final = 75  # longer than one call can take
FIRST_BACKOFF: Final = timedelta(seconds=2)
MAX_START_ATTEMPTS: Final = 15
"""Of what fails for no reason that we know; from then on a job goes without the objects that cannot be copied."""
MAX_PATIENT_ATTEMPTS: Final = 900
"""Of what may succeed later: with the longest pause three days, as long as a weekend until somebody mends a role."""

Series = Sequence[Row[Any]]


@dataclass(slots=True)
class Prepared:
    """What one run of the driver has seen to: series by their numbers, and image sets that the data store has."""

    series: set[int] = field(default_factory=set)
    image_sets: set[str] = field(default_factory=set)
    steps: int = 0


def claim_next(deps: Dependencies, prepared: Prepared) -> Job | None:
    """Take the next job to start, if rate and concurrency allow one: first those claimed before, then new ones.

    The series of a new one are prepared before: what is in as a whole is completed, and needs no job.
    """
    while prepared.steps < MAX_STEPS:
        found = _claim_next(deps, prepared)
        if found is None:
            return None
        if not isinstance(found, Job):
            try:
                _prepare(deps, found, prepared)
            except ThrottledError as error:
                logger.warning("import_starts_stopped", extra={"error": str(error)})
                return None
        prepared.steps += 1
        if isinstance(found, Job):
            return found
    return None


def backoff(attempts: int) -> timedelta:
    """Return how long something waits that failed so many times before."""
    return pause_after(attempts + 1, FIRST_BACKOFF, LONGEST_PUT_OFF)


def is_vain(error: Exception, attempts: int) -> bool:
    """Tell whether to try no more after an error, when as many tries failed before."""
    if isinstance(error, PermanentError):
        return True
    return attempts + 1 >= (MAX_PATIENT_ATTEMPTS if isinstance(error, TransientError) else MAX_START_ATTEMPTS)


def reason_of(error: Exception) -> str:
    """Return what is recorded of an error: the text of one that is not ours may hold what was stored."""
    return str(error) if isinstance(error, DicomflowError) else f"it could not be started: {type(error).__name__}"


def _claim_next(deps: Dependencies, prepared: Prepared) -> Job | Series | None:
    """Return the next job; or the series it would have, if these are to be prepared first or no job takes them."""
    rows: Series = ()
    try:
        with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
            now = deps.clock()
            due_at = now + timedelta(seconds=CLAIM_SECONDS)
            pace.lock_claims(connection)
            if pace.next_call_at(connection, deps.datastore_id, deps.start_rate, now) > now:
                return None
            has_slot = pace.count_unfinished_jobs(connection, deps.datastore_id) < deps.concurrent_imports
            job = jobs.retake_claimed_job(connection, now, due_at, has_slot=has_slot)
            if job is not None or not has_slot:
                return job
            prefix, rows = _next_series(deps, connection, now)
            if not rows or not prepared.series.issuperset(row.series_import_id for row in rows):
                return rows or None
            return _claim(deps, connection, counts, prefix, rows, now, due_at) or rows
    except Exception as error:
        if not rows:
            raise
        _put_off(deps, rows[0], error)
        return rows


def _next_series(deps: Dependencies, connection: Connection, now: datetime) -> tuple[str, Series]:
    most = int(LONGEST_WAIT.total_seconds() * deps.start_rate) + 1
    ahead = timedelta(seconds=imports.count_ready_series(connection, now, most) / deps.start_rate)
    together_before = now - max(LONGEST_WAIT - ahead, timedelta())
    found = imports.next_ready_series(
        connection, now, max_files=MAX_FILES, max_bytes=MAX_BYTES, together_before=together_before
    )
    return found or ("", ())


def _prepare(deps: Dependencies, rows: Series, prepared: Prepared) -> None:
    """See what of some series is in; one that is in as a whole is completed, the others are ready for a job.

    Raises:
        ThrottledError: the service has enough to do; nothing is recorded.
    """
    for row in rows:
        if row.series_import_id in prepared.series:
            continue
        try:
            _prepare_one(deps, row, prepared)
        except ThrottledError:
            raise
        except Exception as error:  # noqa: BLE001  # it belongs to this series
            _put_off(deps, row, error)
        else:
            prepared.series.add(row.series_import_id)


def _prepare_one(deps: Dependencies, row: Row[Any], prepared: Prepared) -> None:
    with deps.engine.begin() as connection:
        left = outcomes.objects_left(connection, row, deps.datastore_id)
    compare_versions(deps.engine, deps.store, {each.sop_instance_uid for each in left if each.sop_instance_uid})
    while True:
        with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
            outcomes.adopt_outcomes(connection, row, deps.datastore_id)
            relied_on = outcomes.image_sets_relied_on(connection, row, deps.datastore_id)
            unconfirmed = [each for each in relied_on if each not in prepared.image_sets]
            if not unconfirmed:
                if outcomes.count_in(connection, row, deps.datastore_id) >= row.object_count:
                    _complete(deps, connection, counts, row)
                return
        for image_set_id in unconfirmed:
            _confirm(deps, row, image_set_id)
            prepared.image_sets.add(image_set_id)


def _confirm(deps: Dependencies, row: Row[Any], image_set_id: str) -> None:
    """Ask the data store for an image set that a series relies on; one that is not there holds nothing any more."""
    try:
        healthimaging.get_image_set(deps.client, deps.datastore_id, image_set_id)
    except ImageSetNotFoundError:
        with deps.engine.begin() as connection:
            fallen = outcomes.forget_image_set(connection, row, deps.datastore_id, image_set_id)
        logger.warning(
            "image_set_gone",
            extra={
                "image_set_id": image_set_id,
                "series_instance_uid": row.series_instance_uid,
                "imported_again": fallen,
            },
        )


def _complete(deps: Dependencies, connection: Connection, counts: Counts, row: Row[Any]) -> None:
    why = why_hidden(connection, row, deps.datastore_id)
    state, message = (SeriesState.COMPLETED, UNCHANGED) if why is None else (SeriesState.HIDDEN, why)
    if imports.complete_series(connection, row.series_import_id, state, message, deps.clock()):
        counts[Name.IMPORTS_COMPLETED if why is None else Name.IMPORTS_HIDDEN] += 1


def _claim(
    deps: Dependencies,
    connection: Connection,
    counts: Counts,
    prefix: str,
    rows: Series,
    now: datetime,
    due_at: datetime,
) -> Job | None:
    """Claim a job for what is not in yet of these series; None when no job can take the first."""
    in_already = [outcomes.count_in(connection, row, deps.datastore_id) for row in rows]
    if any(in_already):
        prefix, rows = rows[0].input_prefix, rows[:1]
    row = rows[0]
    left = outcomes.objects_left(connection, row, deps.datastore_id) if in_already[0] else []
    files, size = sum(each.object_count for each in rows), sum(each.bytes for each in rows)
    # An unknown size is no reason to import everything again: the copy shows what it is.
    is_staged = 0 < len(left) == row.object_count - in_already[0] and all(
        (item.bytes or 0) <= MAX_COPY_BYTES for item in left
    )
    if is_staged:
        files, size = len(left), sum(item.bytes or 0 for item in left)
    if files > MAX_FILES or size > MAX_BYTES:
        message = f"{files} files of {size} bytes exceed a job's limits of {MAX_FILES} files and {MAX_BYTES} bytes"
        imports.refuse_series(connection, row.series_import_id, message, now)
        counts[Name.IMPORTS_FAILED] += 1
        return None
    job = jobs.claim_job(connection, deps.target, prefix, rows, now, due_at, is_staged=is_staged)
    if job is None:
        raise InternalError(f"series import {row.series_import_id} has a job of attempt {row.attempts + 1} already")
    return job


def _put_off(deps: Dependencies, row: Row[Any], error: Exception) -> None:
    """Let a series wait that cannot be claimed; one that never will fails with the reason."""
    told = {"series_import_id": row.series_import_id, "series_instance_uid": row.series_instance_uid}
    if not isinstance(error, DicomflowError):
        logger.error("series_not_claimed", extra=told, exc_info=error)
    message, now = reason_of(error), deps.clock()
    with after_commit(deps.metrics) as counts, deps.engine.begin() as connection:
        if is_vain(error, row.attempts):
            imports.refuse_series(connection, row.series_import_id, message, now)
            counts[Name.IMPORTS_FAILED] += 1
        else:
            not_before = now + backoff(row.attempts)
            imports.put_off_series(connection, [row.series_import_id], not_before, message, now)
    logger.warning("series_put_off", extra={**told, "attempts": row.attempts + 1, "error": message})
