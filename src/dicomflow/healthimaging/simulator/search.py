"""SearchImageSets: filters, sort and what it shows of an image set."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from dicomflow.healthimaging.simulator.datastores import require_datastore
from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.state import image_set
from dicomflow.healthimaging.simulator.world import World, page_of

__all__ = ["search_image_sets"]

DEFAULT_SORT: Final = {"sortField": "updatedAt", "sortOrder": "DESC"}
RANGE_KEYS: Final = frozenset({"createdAt", "updatedAt", "DICOMStudyDateAndTime"})
BETWEEN_VALUES: Final = 2


def search_image_sets(_world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """SearchImageSets."""
    require_datastore(connection, params["datastoreId"])
    criteria = params.get("searchCriteria") or {}
    filters = criteria.get("filters", [])
    for item in filters:
        _check_filter(item)
    statement = select(image_set).where(
        image_set.c.datastore_id == params["datastoreId"], image_set.c.state != "DELETED"
    )
    for item in filters:
        series_uid = item["values"][0].get("DICOMSeriesInstanceUID")
        if series_uid is not None:
            statement = statement.where(image_set.c.series_instance_uid == series_uid)
    rows = [row for row in connection.execute(statement) if all(_matches(row, item) for item in filters)]
    sort = criteria.get("sort", DEFAULT_SORT)
    rows.sort(
        key=lambda row: (_sort_value(row, sort["sortField"]), row.image_set_id),
        reverse=sort["sortOrder"] == "DESC",
    )
    page = page_of(rows, params)
    return {
        "imageSetsMetadataSummaries": [_summary(row) for row in page.items],
        "sort": sort,
        "nextToken": page.next_token,
    }


def _check_filter(item: Mapping[str, Any]) -> None:
    keys = {key for value in item["values"] for key in value}
    if item["operator"] == "BETWEEN":
        if len(item["values"]) != BETWEEN_VALUES or len(keys) != 1 or not keys <= RANGE_KEYS:
            raise ServiceError("ValidationException", "BETWEEN takes two values of one time attribute")
    elif len(item["values"]) != 1:
        raise ServiceError("ValidationException", "EQUAL takes one value")


def _matches(row: Row[Any], item: Mapping[str, Any]) -> bool:
    (key,) = item["values"][0]
    found = _value(row, key)
    wanted = [_comparable(key, value[key]) for value in item["values"]]
    if item["operator"] == "BETWEEN":
        return found is not None and wanted[0] <= found <= wanted[1]
    return bool(found == wanted[0])


def _value(row: Row[Any], key: str) -> Any:
    match key:
        case "createdAt":
            return row.created_at
        case "updatedAt":
            return row.updated_at
        case "isPrimary":
            return row.is_primary
        case "DICOMStudyDateAndTime":
            date = row.tags.get("DICOMStudyDate")
            return None if date is None else (date, row.tags.get("DICOMStudyTime", ""))
    return row.tags.get(key)


def _comparable(key: str, value: Any) -> Any:
    if key == "DICOMStudyDateAndTime":
        return (value["DICOMStudyDate"], value.get("DICOMStudyTime", ""))
    return value


def _sort_value(row: Row[Any], field: str) -> Any:
    value = _value(row, field)
    return ("", "") if value is None else value


def _summary(row: Row[Any]) -> dict[str, Any]:
    return {
        "imageSetId": row.image_set_id,
        "version": row.version,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
        "lastAccessedAt": row.updated_at,
        "storageTier": "FREQUENT_ACCESS",
        "DICOMTags": row.tags,
        "isPrimary": row.is_primary,
    }
