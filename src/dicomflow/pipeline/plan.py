"""From a manifest to the import queue: one row per series of the delivery, written once however often it is asked.

It reads manifests and no image, as its role lets it: objects are compared by `index` and, before a series is claimed,
by `drive`.
"""

import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.bucket.keys import MANIFEST_PREFIX, manifest_key
from dicomflow.bucket.manifest import Manifest
from dicomflow.bucket.reading import MANIFEST_MOST_BYTES, read_document
from dicomflow.catalog.deliveries import clear_problem, record_delivery
from dicomflow.catalog.engine import is_of_a_value
from dicomflow.catalog.outgoing import tell_delivery_stored
from dicomflow.catalog.states import SeriesState
from dicomflow.dicom.uids import is_usable
from dicomflow.errors import DicomflowError, PermanentError

__all__ = ["STAT_PRIORITY", "plan_delivery"]

logger = logging.getLogger(__name__)

STAT_PRIORITY: Final = 1
# A modality may open an association an image; the manifest has them all.
_LOGGED_ASSOCIATIONS: Final = 20


def plan_delivery(
    engine: Engine,
    store: ObjectStore,
    key: str,
    *,
    import_enabled: bool,
    now: datetime,
    stat_ae_titles: Collection[str] = (),
    only: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    is_news: bool = True,
) -> int:
    """Record the delivery of a manifest and queue its series; return how many are new.

    Args:
        engine: the catalog.
        store: the bucket that holds the manifest.
        key: the manifest's object key.
        import_enabled: False marks the series as not queued.
        now: the time.
        stat_ae_titles: what one of these calling AE titles has sent goes before the rest.
        only: leaves out of the manifest what is not to be recorded.
        is_news: others are told of the delivery.

    Raises:
        PermanentError: there is no such object, it is no manifest or too large for one, or the catalog cannot hold
            what it says.
        sqlalchemy.exc.SQLAlchemyError: the database failed; nothing of the manifest is written.
    """
    try:
        encoded, _ = read_document(store, key, most_bytes=MANIFEST_MOST_BYTES)
    except FileNotFoundError as error:
        raise PermanentError("there is no such manifest") from error
    manifest = Manifest.from_json(encoded)
    _check(manifest, key)
    is_stat = any(association.calling_ae_title.strip() in stat_ae_titles for association in manifest.associations)
    state, priority = SeriesState.QUEUED if import_enabled else SeriesState.DISABLED, STAT_PRIORITY if is_stat else 0
    try:
        manifest = only(manifest)
        with engine.begin() as connection:
            clear_problem(connection, key)
            new = record_delivery(connection, manifest, key, state, now, priority)
            if is_news:
                tell_delivery_stored(connection, manifest, now)
    except DicomflowError:
        raise
    except Exception as error:
        if not is_of_a_value(error):
            raise
        logger.exception("manifest_not_written", extra={"key": key})
        raise PermanentError(f"the catalog cannot hold the manifest: {type(error).__name__}") from error
    logger.info(
        "delivery_planned",
        extra={
            "edge": manifest.edge,
            "delivery": manifest.delivery,
            "associations": [each.association_id for each in manifest.associations[:_LOGGED_ASSOCIATIONS]],
            "new_series": new,
        },
    )
    return new


def _check(manifest: Manifest, key: str) -> None:
    """Refuse a manifest that is not of its key, or whose series are not each under one prefix of their own.

    An edge may write under its own name only, so what it says of another's objects is not believed.
    """
    if key != manifest_key(manifest.edge, manifest.delivery):
        raise PermanentError("the manifest is of another edge or delivery than its key")
    own = key.removeprefix(MANIFEST_PREFIX).removesuffix(".json") + "/"
    if not all(instance.key.startswith(own) for instance in manifest.instances()):
        raise PermanentError("the manifest names objects of another edge or delivery")
    prefixes: set[str] = set()
    for study in manifest.studies:
        for series in study.series:
            found = {instance.key.rpartition("/")[0] for instance in series.instances}
            uids = [study.study_instance_uid, series.series_instance_uid]
            if not all(map(is_usable, uids)):
                raise PermanentError("the manifest holds a UID that is none")
            if len(found) > 1 or "" in found or found & prefixes:
                raise PermanentError(f"a series of the manifest lies under {len(found)} prefixes, not one of its own")
            prefixes |= found
