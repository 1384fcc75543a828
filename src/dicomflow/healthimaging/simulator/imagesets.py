"""Image sets as the API shows them: properties, versions, metadata, deletion."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from dicomflow.healthimaging.simulator.datastores import require_datastore
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.frames import frame_list
from dicomflow.healthimaging.simulator.state import has_come, image_set, image_set_instance, image_set_version
from dicomflow.healthimaging.simulator.world import Blob, World, page_of

__all__ = [
    "advance_image_sets",
    "delete_image_set",
    "emit_image_set",
    "find_image_set",
    "find_version",
    "get_image_set",
    "get_image_set_metadata",
    "instances_of",
    "list_image_set_versions",
    "lock_image_set",
    "require_unlocked",
]

SETTLED = {
    "UPDATING": "UPDATED",
    "UPDATING_FOR_STUDY_CONSISTENCY": "UPDATED",
    "IMPORTING": "IMPORTED",
    "COPYING": "COPIED",
    "DELETING": "DELETED",
}  # workflow status of a LOCKED image set, and what it becomes


def get_image_set(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """GetImageSet, of the latest version or the one asked for."""
    require_datastore(connection, params["datastoreId"])
    row = find_image_set(connection, params["datastoreId"], params["imageSetId"])
    version = find_version(connection, row, params.get("versionId"))
    return {
        "datastoreId": row.datastore_id,
        **_properties(row, version),
        "imageSetArn": world.image_set_arn(row.datastore_id, row.image_set_id),
        "lastAccessedAt": row.updated_at,
        "storageTier": "FREQUENT_ACCESS",
    }


def list_image_set_versions(_world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """ListImageSetVersions, newest first."""
    require_datastore(connection, params["datastoreId"])
    row = find_image_set(connection, params["datastoreId"], params["imageSetId"])
    versions = connection.execute(
        select(image_set_version)
        .where(image_set_version.c.image_set_id == row.image_set_id)
        .order_by(image_set_version.c.version.desc())
    )
    entries = []
    for version in versions:
        properties = _properties(row, version)
        properties["ImageSetWorkflowStatus"] = properties.pop("imageSetWorkflowStatus")
        entries.append(properties)
    page = page_of(entries, params)
    return {"imageSetPropertiesList": page.items, "nextToken": page.next_token}


def get_image_set_metadata(world: World, connection: Connection, params: Mapping[str, Any]) -> Blob:
    """GetImageSetMetadata: gzip-compressed JSON."""
    require_datastore(connection, params["datastoreId"])
    row = find_image_set(connection, params["datastoreId"], params["imageSetId"])
    if row.state == "DELETED":
        raise ServiceError("ResourceNotFoundException", f"Image set {row.image_set_id} is deleted")
    version = find_version(connection, row, params.get("versionId"))
    instances = {
        instance.sop_instance_uid: {
            **instance.document,
            "ImageFrames": frame_list(world, row.datastore_id, row.image_set_id, instance),
        }
        for instance in instances_of(connection, row.image_set_id, version.version)
    }
    document = {
        "SchemaVersion": "1.1",
        "DatastoreID": row.datastore_id,
        "ImageSetID": row.image_set_id,
        "Patient": {"DICOM": version.patient},
        "Study": {
            "DICOM": version.study,
            "Series": {row.series_instance_uid: {"DICOM": version.series, "Instances": instances}},
        },
    }
    return Blob(gzip.compress(json.dumps(document).encode(), mtime=0), "application/json", "gzip")


def delete_image_set(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeleteImageSet: the image set is LOCKED until it is gone."""
    require_datastore(connection, params["datastoreId"])
    row = find_image_set(connection, params["datastoreId"], params["imageSetId"])
    if row.state == "DELETED":
        raise ServiceError("ResourceNotFoundException", f"Image set {row.image_set_id} is deleted")
    require_unlocked(row)
    lock_image_set(world, connection, row, "DELETING")
    return {
        "datastoreId": row.datastore_id,
        "imageSetId": row.image_set_id,
        "imageSetState": "LOCKED",
        "imageSetWorkflowStatus": "DELETING",
    }


def advance_image_sets(world: World, connection: Connection) -> None:
    """Settle every update, copy and deletion that is due."""
    now = world.now()
    for row in connection.execute(select(image_set).where(has_come(image_set.c.due_at, now))).all():
        workflow_status = SETTLED[row.workflow_status]
        is_deleted = workflow_status == "DELETED"
        changed = connection.execute(
            update(image_set)
            .where(image_set.c.image_set_id == row.image_set_id)
            .values(
                state="DELETED" if is_deleted else "ACTIVE",
                workflow_status=workflow_status,
                updated_at=now,
                deleted_at=now if is_deleted else None,
                due_at=None,
            )
            .returning(*image_set.c)
        ).one()
        connection.execute(
            update(image_set_version)
            .where(image_set_version.c.image_set_id == row.image_set_id)
            .where(image_set_version.c.version == row.version)
            .values(workflow_status=workflow_status, updated_at=now)
        )
        emit_image_set(world, connection, changed)


def lock_image_set(world: World, connection: Connection, row: Row[Any], workflow_status: str) -> None:
    """Lock an image set until its work is due."""
    now = world.now()
    changed = connection.execute(
        update(image_set)
        .where(image_set.c.image_set_id == row.image_set_id, image_set.c.state == "ACTIVE")
        .values(
            state="LOCKED",
            workflow_status=workflow_status,
            updated_at=now,
            due_at=now + world.settings.update_seconds,
        )
        .returning(*image_set.c)
    ).one()
    emit_image_set(world, connection, changed)


def require_unlocked(row: Row[Any]) -> None:
    """Raise when an image set is being worked on."""
    if row.state == "LOCKED":
        raise ServiceError("ConflictException", f"Image set {row.image_set_id} is LOCKED, {row.workflow_status}")


def find_image_set(connection: Connection, datastore_id: str, image_set_id: str) -> Row[Any]:
    """Return an image set, deleted ones included."""
    row = connection.execute(
        select(image_set).where(image_set.c.datastore_id == datastore_id, image_set.c.image_set_id == image_set_id)
    ).first()
    if row is None:
        raise ServiceError("ResourceNotFoundException", f"Image set {image_set_id} does not exist")
    return row


def find_version(connection: Connection, row: Row[Any], version: str | None) -> Row[Any]:
    """Return a version of an image set, the latest by default."""
    number = row.version if version is None else int(version)
    found = connection.execute(
        select(image_set_version).where(
            image_set_version.c.image_set_id == row.image_set_id, image_set_version.c.version == number
        )
    ).first()
    if found is None:
        raise ServiceError("ResourceNotFoundException", f"Image set {row.image_set_id} has no version {number}")
    return found


def instances_of(connection: Connection, image_set_id: str, version: int) -> list[Row[Any]]:
    """Return the instances a version holds, by SOP Instance UID."""
    held = image_set_instance.c
    return list(
        connection.execute(
            select(image_set_instance)
            .where(held.image_set_id == image_set_id, held.from_version <= version)
            .where(or_(held.to_version.is_(None), held.to_version > version))
            .order_by(held.sop_instance_uid)
        )
    )


def emit_image_set(world: World, connection: Connection, row: Row[Any]) -> None:
    """Emit the event of an image set's workflow status."""
    detail = {
        "isPrimary": row.is_primary,
        "imageSetVersion": str(row.version),
        "datastoreId": row.datastore_id,
        "imagesetId": row.image_set_id,
        "imageSetState": row.state,
        "imageSetWorkflowStatus": row.workflow_status,
    }
    words = row.workflow_status.replace("_", " ").title()
    # The service has no event for the end of an import into an image set that is there.
    name = world.settings.bump_event if row.workflow_status == "IMPORTED" else f"Image Set {words}"
    world.emit(connection, name, world.image_set_arn(row.datastore_id, row.image_set_id), detail)


def _properties(row: Row[Any], version: Row[Any]) -> dict[str, Any]:
    is_latest = version.version == row.version
    return {
        "imageSetId": row.image_set_id,
        "versionId": str(version.version),
        "imageSetState": row.state if is_latest else "ACTIVE",
        "imageSetWorkflowStatus": row.workflow_status if is_latest else version.workflow_status,
        "createdAt": version.created_at,
        "updatedAt": row.updated_at if is_latest else version.updated_at,
        "deletedAt": row.deleted_at,
        "overrides": {"forced": True} if version.forced else None,
        "isPrimary": version.is_primary,
    }
