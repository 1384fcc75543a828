"""Whether the catalog is behind the bucket: one that was lost, or restored from yesterday, knows not every delivery.

Events are sent once. What a catalog does not know of the deliveries that came before it, no event will bring.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.bucket.keys import MANIFEST_PREFIX, is_manifest, manifest_of_key
from dicomflow.bucket.listing import list_objects
from dicomflow.catalog.engine import begin_read
from dicomflow.catalog.imports import retry_series
from dicomflow.catalog.restoring import recorded_manifests, series_never_queued
from dicomflow.catalog.states import SeriesState
from dicomflow.errors import TransientError
from dicomflow.pipeline.rebuild import Rebuilt, rebuild_catalog

__all__ = ["catch_up", "manifests_behind"]

_logger = logging.getLogger(__name__)


def manifests_behind(engine: Engine, store: ObjectStore, before: datetime | None = None) -> list[str]:
    """Return the keys of the bucket's manifests that the catalog knows neither as a delivery nor as a problem.

    Args:
        engine: the catalog.
        store: the bucket; all its manifests are listed, a thousand a request.
        before: only those that were put before this time; events of others may be on their way.

    Raises:
        TransientError: the store did not answer.
    """
    return sorted(_listed(store, before) - _known(engine))


def catch_up(
    engine: Engine,
    store: ObjectStore,
    bucket: str,
    *,
    on_their_way: Collection[str] = (),
    issuers: Mapping[str, str],
    character_sets: Mapping[str, str],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Rebuilt | None:
    """Bring the deliveries that the catalog does not know into it, and queue what of them is not in HealthImaging.

    What the catalog knows is left as it is: a study whose rows were deleted stays deleted. None when it knows all.

    Args:
        engine: the catalog.
        store: the bucket.
        bucket: its name.
        on_their_way: keys of manifests whose events wait in a queue.
        issuers: as for `rebuild_catalog`.
        character_sets: as for `rebuild_catalog`.
        clock: tells the time.

    Raises:
        TransientError: the store did not answer; what is done stays done, and another call goes on from there.
    """
    listed, known = _listed(store), _known(engine)
    behind = listed.difference(known, on_their_way)
    if not behind:
        return None
    _logger.warning("catalog_behind_the_bucket manifests=%d", len(behind))
    done = rebuild_catalog(
        engine,
        store,
        bucket,
        issuers=issuers,
        character_sets=character_sets,
        is_wanted=lambda key: (key if is_manifest(key) else manifest_of_key(key)) not in known,
        clock=clock,
    )
    with engine.begin() as connection:
        queued = retry_series(connection, clock(), {SeriesState.DISABLED}, series_never_queued(connection, behind))
    _logger.info(
        "catalog_caught_up deliveries=%d indexed=%d problems=%d queued=%d",
        done.deliveries,
        done.indexed,
        done.problems,
        len(queued),
    )
    return done


def _listed(store: ObjectStore, before: datetime | None = None) -> set[str]:
    try:
        return {
            each.key
            for each in list_objects(store, MANIFEST_PREFIX)
            if is_manifest(each.key) and (before is None or each.modified_at < before)
        }
    except (BaseError, OSError) as error:
        raise TransientError(f"the store did not answer: {type(error).__name__}") from error


def _known(engine: Engine) -> set[str]:
    with begin_read(engine) as connection:
        return recorded_manifests(connection)
