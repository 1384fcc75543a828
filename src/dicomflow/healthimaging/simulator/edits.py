"""Changes of image sets by hand: UpdateImageSetMetadata and CopyImageSet.

The result is there at once as a new version; the image set is LOCKED until the change is due.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from dicomflow.healthimaging.simulator.datastores import require_datastore
from dicomflow.healthimaging.simulator.documents import Elements, search_tags
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.grouping import STUDY_ELEMENT_COUNT
from dicomflow.healthimaging.simulator.imagesets import (
    find_image_set,
    find_version,
    instances_of,
    lock_image_set,
    require_unlocked,
)
from dicomflow.healthimaging.simulator.state import image_set, image_set_instance, image_set_version
from dicomflow.healthimaging.simulator.world import World, identifier

__all__ = ["copy_image_set", "update_image_set_metadata"]

FORCED: Final = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyID"})
NOT_LATEST: Final = "Requested version(s) of ImageSet(s) is not the latest."
FOR_CONSISTENCY: Final = "UPDATING_FOR_STUDY_CONSISTENCY"
LEVELS: Final = ("patient", "study", "series")

Document = dict[str, Any]
Change = Callable[[Mapping[str, Any], Mapping[str, Any]], Document]


def update_image_set_metadata(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """UpdateImageSetMetadata: attributes set and removed, or an earlier version again."""
    row = _latest(connection, params["datastoreId"], params["imageSetId"], params["latestVersionId"])
    updates = params["updateImageSetMetadataUpdates"]
    if params.get("includeStudyImageSets"):
        _update_others(world, connection, row, params)
    if "revertToVersionId" in updates:
        source = find_version(connection, row, updates["revertToVersionId"])
        documents = {level: getattr(source, level) for level in LEVELS}
        held = {item.sop_instance_uid: item for item in instances_of(connection, row.image_set_id, source.version)}
        changed = {uid: item.document for uid, item in held.items()}
    else:
        documents, held, changed = _edited(connection, row, updates["DICOMUpdates"], is_forced=params.get("force"))
    version = _new_version(world, connection, row, documents, "UPDATING", is_forced=bool(params.get("force")))
    _hold(connection, row.image_set_id, version, held, changed)
    lock_image_set(world, connection, find_image_set(connection, row.datastore_id, row.image_set_id), "UPDATING")
    return {"datastoreId": row.datastore_id, **_properties(world, connection, row.datastore_id, row.image_set_id)}


def _update_others(world: World, connection: Connection, row: Row[Any], params: Mapping[str, Any]) -> None:
    """Give the other image sets of a study the values of its patient and study, as `includeStudyImageSets` asks."""
    updates = params["updateImageSetMetadataUpdates"].get("DICOMUpdates")
    if updates is None:
        raise ServiceError("ValidationException", "includeStudyImageSets is for DICOMUpdates")
    others = connection.execute(
        select(image_set)
        .where(image_set.c.datastore_id == row.datastore_id, image_set.c.state != "DELETED")
        .where(image_set.c.study_instance_uid == row.study_instance_uid, image_set.c.image_set_id != row.image_set_id)
    ).all()
    for other in others:
        require_unlocked(other)
        documents = _documents(find_version(connection, other, None))
        for member, change in (("removableAttributes", _removed), ("updatableAttributes", _updated)):
            wanted = _decoded(updates[member]) if member in updates else {}
            for level, part in (("patient", wanted.get("Patient", {})), ("study", wanted.get("Study", {}))):
                documents[level] = change(documents[level], part.get("DICOM", {}))
        _new_version(world, connection, other, documents, FOR_CONSISTENCY, is_forced=bool(params.get("force")))
        newest = find_image_set(connection, other.datastore_id, other.image_set_id)
        lock_image_set(world, connection, newest, FOR_CONSISTENCY)


def copy_image_set(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """CopyImageSet: instances of one image set into another, or into a new one."""
    wanted = params["copyImageSetInformation"]
    datastore_id = params["datastoreId"]
    source = _latest(connection, datastore_id, params["sourceImageSetId"], wanted["sourceImageSet"]["latestVersionId"])
    copied = _copied_instances(connection, source, wanted["sourceImageSet"].get("DICOMCopies"))
    destination = wanted.get("destinationImageSet")
    is_promoted = bool(params.get("promoteToPrimary"))
    target = (
        _latest(connection, datastore_id, destination["imageSetId"], destination["latestVersionId"])
        if destination
        else _primary_of(connection, source)
        if is_promoted
        else None
    )
    if target is None:
        if is_promoted and not params.get("force"):
            _require_no_conflict(connection, source)
        target = _create_copy(world, connection, source, is_primary=is_promoted)
        version = 1
    else:
        if target.elements != source.elements and not params.get("force"):
            raise ServiceError("ConflictException", "The metadata of source and destination differ")
        documents = _documents(find_version(connection, target, None))
        version = _new_version(world, connection, target, documents, "COPYING", is_forced=bool(params.get("force")))
    _hold(connection, target.image_set_id, version, copied, {uid: item.document for uid, item in copied.items()})
    for image_set_id in {source.image_set_id, target.image_set_id}:
        lock_image_set(world, connection, find_image_set(connection, datastore_id, image_set_id), "COPYING")
    return {
        "datastoreId": datastore_id,
        "sourceImageSetProperties": _properties(world, connection, datastore_id, source.image_set_id),
        "destinationImageSetProperties": _properties(world, connection, datastore_id, target.image_set_id),
    }


def _latest(connection: Connection, datastore_id: str, image_set_id: str, version: str) -> Row[Any]:
    """Return an image set that may be changed."""
    require_datastore(connection, datastore_id)
    row = find_image_set(connection, datastore_id, image_set_id)
    if row.state == "DELETED" or str(row.version) != version:
        raise ServiceError("ResourceNotFoundException", NOT_LATEST)
    require_unlocked(row)
    return row


def _edited(
    connection: Connection, row: Row[Any], updates: Mapping[str, Any], *, is_forced: bool | None
) -> tuple[dict[str, Document], dict[str, Row[Any]], dict[str, Document]]:
    """Return the documents of the new version, the instances it holds, and those that change."""
    documents = _documents(find_version(connection, row, None))
    held = {item.sop_instance_uid: item for item in instances_of(connection, row.image_set_id, row.version)}
    changed: dict[str, Document] = {}
    for member, change in (("removableAttributes", _removed), ("updatableAttributes", _updated)):
        if member not in updates:
            continue
        wanted = _decoded(updates[member])
        if not is_forced and FORCED & _keywords(wanted):
            raise ServiceError("ValidationException", "An identifying attribute is changed only with force")
        _apply(documents, held, changed, row.series_instance_uid, wanted, change)
    return documents, held, changed


def _apply(
    documents: dict[str, Document],
    held: Mapping[str, Row[Any]],
    changed: dict[str, Document],
    series_uid: str,
    wanted: Mapping[str, Any],
    change: Change,
) -> None:
    study = wanted.get("Study", {})
    series = study.get("Series", {})
    unknown = set(series) - {series_uid}
    if unknown:
        raise ServiceError("ValidationException", f"Series {min(unknown)} is not in the image set")
    of_series = series.get(series_uid, {})
    for level, part in zip(LEVELS, (wanted.get("Patient", {}), study, of_series), strict=True):
        documents[level] = change(documents[level], part.get("DICOM", {}))
    for uid, part in of_series.get("Instances", {}).items():
        if uid not in held:
            raise ServiceError("ValidationException", f"Instance {uid} is not in the image set")
        document = changed.get(uid, held[uid].document)
        changed[uid] = {**document, "DICOM": change(document["DICOM"], part.get("DICOM", {}))}


def _updated(document: Mapping[str, Any], part: Mapping[str, Any]) -> Document:
    return {**document, **part}


def _removed(document: Mapping[str, Any], part: Mapping[str, Any]) -> Document:
    return {key: value for key, value in document.items() if key not in part}


def _decoded(encoded: bytes | str) -> Document:
    try:
        document = json.loads(encoded)
    except ValueError as error:
        raise ServiceError("ValidationException", "The attributes are no JSON") from error
    if not isinstance(document, dict):
        raise ServiceError("ValidationException", "The attributes are no JSON object")
    return document


def _keywords(document: Mapping[str, Any]) -> set[str]:
    """Return the keywords that any `DICOM` member at any level names."""
    found = set(document.get("DICOM", {}))
    for value in document.values():
        if isinstance(value, dict) and value is not document.get("DICOM"):
            found |= _keywords(value)
    return found


def _documents(version: Row[Any]) -> dict[str, Document]:
    return {level: dict(getattr(version, level)) for level in LEVELS}


def _new_version(
    world: World,
    connection: Connection,
    row: Row[Any],
    documents: Mapping[str, Document],
    status: str,
    *,
    is_forced: bool,
) -> int:
    """Write the next version of an image set, with the elements and tags its documents give."""
    now = world.now()
    version: int = row.version + 1
    connection.execute(
        update(image_set)
        .where(image_set.c.image_set_id == row.image_set_id, image_set.c.version == row.version)
        .values(version=version, elements=_elements(documents), tags=search_tags(*documents.values()), updated_at=now)
    )
    connection.execute(
        insert(image_set_version).values(
            image_set_id=row.image_set_id,
            version=version,
            workflow_status=status,
            is_primary=row.is_primary,
            forced=is_forced,
            created_at=now,
            updated_at=now,
            **documents,
        )
    )
    return version


def _elements(documents: Mapping[str, Document]) -> Elements:
    """Return the seven elements of `documents.elements_of`, from documents in the place of a data set."""
    study, series = documents["study"], documents["series"]
    values = (
        study.get("StudyDate"),
        study.get("AccessionNumber"),
        documents["patient"].get("PatientID"),
        study.get("StudyInstanceUID"),
        study.get("StudyID"),
        series.get("SeriesInstanceUID"),
        series.get("SeriesNumber"),
    )
    return ["" if value is None else str(value).strip() for value in values]


def _hold(
    connection: Connection,
    image_set_id: str,
    version: int,
    held: Mapping[str, Row[Any]],
    changed: Mapping[str, Document],
) -> None:
    """Let a version hold changed instances in the place of those it held before under the same UIDs."""
    if not changed:
        return
    connection.execute(
        update(image_set_instance)
        .where(image_set_instance.c.image_set_id == image_set_id, image_set_instance.c.to_version.is_(None))
        .where(image_set_instance.c.sop_instance_uid.in_(list(changed)))
        .values(to_version=version)
    )
    rows = [
        {
            "image_set_id": image_set_id,
            "sop_instance_uid": uid,
            "from_version": version,
            "bucket": held[uid].bucket,
            "key": held[uid].key,
            "document": document,
        }
        for uid, document in changed.items()
    ]
    connection.execute(insert(image_set_instance), rows)


def _copied_instances(
    connection: Connection, source: Row[Any], copies: Mapping[str, Any] | None
) -> dict[str, Row[Any]]:
    """Return the instances to copy: those named, else all."""
    held = {item.sop_instance_uid: item for item in instances_of(connection, source.image_set_id, source.version)}
    if not copies:
        return held
    series = _decoded(copies["copiableAttributes"]).get("Study", {}).get("Series", {})
    named = {uid for part in series.values() for uid in part.get("Instances", {})}
    unknown = named - held.keys()
    if unknown:
        raise ServiceError("ValidationException", f"Instance {min(unknown)} is not in the image set")
    return {uid: item for uid, item in held.items() if uid in named}


def _primary_of(connection: Connection, source: Row[Any]) -> Row[Any] | None:
    return connection.execute(
        select(image_set)
        .where(image_set.c.datastore_id == source.datastore_id, image_set.c.is_primary)
        .where(image_set.c.study_instance_uid == source.study_instance_uid, image_set.c.state != "DELETED")
        .where(image_set.c.series_instance_uid == source.series_instance_uid)
    ).first()


def _require_no_conflict(connection: Connection, source: Row[Any]) -> None:
    """Refuse to promote what would conflict with the study's primary image sets."""
    known = connection.execute(
        select(image_set.c.elements)
        .where(image_set.c.datastore_id == source.datastore_id, image_set.c.is_primary)
        .where(image_set.c.study_instance_uid == source.study_instance_uid, image_set.c.state != "DELETED")
        .limit(1)
    ).first()
    if known is not None and known.elements[:STUDY_ELEMENT_COUNT] != source.elements[:STUDY_ELEMENT_COUNT]:
        raise ServiceError("ConflictException", "The metadata of the source and of the primary image sets differ")


def _create_copy(world: World, connection: Connection, source: Row[Any], *, is_primary: bool) -> Row[Any]:
    now = world.now()
    image_set_id = identifier("copy", source.image_set_id, source.version, now)
    kept = ("datastore_id", "study_instance_uid", "series_instance_uid", "elements", "tags")
    connection.execute(
        insert(image_set).values(
            image_set_id=image_set_id,
            is_primary=is_primary,
            version=1,
            state="ACTIVE",
            workflow_status="CREATED",
            created_at=now,
            updated_at=now,
            **{name: getattr(source, name) for name in kept},
        )
    )
    connection.execute(
        insert(image_set_version).values(
            image_set_id=image_set_id,
            version=1,
            workflow_status="COPYING",
            is_primary=is_primary,
            created_at=now,
            updated_at=now,
            **_documents(find_version(connection, source, None)),
        )
    )
    return find_image_set(connection, source.datastore_id, image_set_id)


def _properties(world: World, connection: Connection, datastore_id: str, image_set_id: str) -> dict[str, Any]:
    row = find_image_set(connection, datastore_id, image_set_id)
    return {
        "imageSetId": row.image_set_id,
        "latestVersionId": str(row.version),
        "imageSetState": row.state,
        "imageSetWorkflowStatus": row.workflow_status,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
        "imageSetArn": world.image_set_arn(datastore_id, row.image_set_id),
    }
