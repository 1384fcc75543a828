"""Tags of data stores and image sets: TagResource, UntagResource, ListTagsForResource."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select

from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.state import datastore, image_set, tag
from dicomflow.healthimaging.simulator.world import World

__all__ = ["list_tags_for_resource", "tag_resource", "untag_resource"]

MAX_TAGS: Final = 50


def tag_resource(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """TagResource: what is new is added, what is there gets the new value."""
    arn = _require(world, connection, params["resourceArn"])
    tags = {**_tags(connection, arn), **params["tags"]}
    if len(tags) > MAX_TAGS:
        raise ServiceError("ValidationException", f"{len(tags)} tags, the limit is {MAX_TAGS}")
    connection.execute(delete(tag).where(tag.c.resource_arn == arn))
    rows = [{"resource_arn": arn, "key": key, "value": value} for key, value in tags.items()]
    if rows:
        connection.execute(insert(tag), rows)
    return {}


def untag_resource(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """UntagResource: keys that are not there are passed over."""
    arn = _require(world, connection, params["resourceArn"])
    connection.execute(delete(tag).where(tag.c.resource_arn == arn, tag.c.key.in_(params["tagKeys"])))
    return {}


def list_tags_for_resource(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """ListTagsForResource."""
    return {"tags": _tags(connection, _require(world, connection, params["resourceArn"]))}


def _require(world: World, connection: Connection, arn: str) -> str:
    """Raise unless the ARN names a data store or an image set that is there."""
    resource = arn.rpartition(":datastore/")[2]
    datastore_id, _, image_set_id = resource.partition("/imageset/")
    statement = select(datastore.c.datastore_id).where(
        datastore.c.datastore_id == datastore_id, datastore.c.status != "DELETED"
    )
    expected = world.datastore_arn(datastore_id)
    if image_set_id:
        statement = select(image_set.c.image_set_id).where(
            image_set.c.datastore_id == datastore_id,
            image_set.c.image_set_id == image_set_id,
            image_set.c.state != "DELETED",
        )
        expected = world.image_set_arn(datastore_id, image_set_id)
    if arn != expected or connection.execute(statement).first() is None:
        raise ServiceError("ResourceNotFoundException", f"Resource {arn} does not exist")
    return arn


def _tags(connection: Connection, arn: str) -> dict[str, str]:
    rows = connection.execute(select(tag.c.key, tag.c.value).where(tag.c.resource_arn == arn).order_by(tag.c.key))
    return {row.key: row.value for row in rows}
