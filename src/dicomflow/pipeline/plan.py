"""From a manifest to the import queue: one row per series of the delivery, written once however often it is asked."""

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Final

from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog.deliveries import record_delivery
from dicomflow.dicom.uids import is_usable
from dicomflow.errors import PermanentError
from dicomflow.manifest import Manifest
from dicomflow.pipeline.versions import compare_versions

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
) -> int:
    """Record the delivery of a manifest and queue its series; return how many are new.

    Args:
        engine: the catalog.
        store: the bucket that holds the manifest.
        key: the manifest's object key.
        import_enabled: False marks the series as not queued.
        now: the time.
        stat_ae_titles: what one of these calling AE titles has sent goes before the rest.

    Raises:
        PermanentError: there is no such object, or it is no manifest.
        TransientError: objects that may be versions of one instance could not be compared.
    """
    try:
        encoded = bytes(store.get(key).bytes())
    except FileNotFoundError as error:
        raise PermanentError("there is no such manifest") from error
    manifest = Manifest.from_json(encoded)
    _check(manifest)
    is_stat = any(association.calling_ae_title.strip() in stat_ae_titles for association in manifest.associations)
    state, priority = "queued" if import_enabled else "disabled", STAT_PRIORITY if is_stat else 0
    with engine.begin() as connection:
        new = record_delivery(connection, manifest, key, state, now, priority)
    compare_versions(engine, store, {instance.sop_instance_uid for instance in manifest.instances()})
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


def _check(manifest: Manifest) -> None:
    """Refuse a manifest whose series are not each under one key prefix of their own, with valid UIDs."""
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
