"""Data stores: create, get, list, delete, and their way from CREATING to ACTIVE."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from dicomflow.healthimaging.simulator.errors import ServiceError
from dicomflow.healthimaging.simulator.state import datastore, has_come, image_set
from dicomflow.healthimaging.simulator.world import World, identifier, page_of

__all__ = [
    "advance_datastores",
    "create_datastore",
    "delete_datastore",
    "get_datastore",
    "list_datastores",
    "require_datastore",
]


def create_datastore(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """CreateDatastore: the same token answers with the same store."""
    token = params["clientToken"]
    known = connection.execute(select(datastore).where(datastore.c.client_token == token)).first()
    if known is not None:
        if known.properties != json.loads(json.dumps(dict(params))):
            raise ServiceError(world.settings.token_mismatch, "clientToken was used with other parameters")
        return {"datastoreId": known.datastore_id, "datastoreStatus": known.status}
    now = world.now()
    datastore_id = identifier("datastore", world.settings.account, token)
    connection.execute(
        insert(datastore).values(
            datastore_id=datastore_id,
            client_token=token,
            name=params.get("datastoreName", datastore_id),
            status="CREATING",
            properties=dict(params),
            created_at=now,
            updated_at=now,
            due_at=now + world.settings.datastore_seconds,
        )
    )
    _emit(world, connection, datastore_id, params.get("datastoreName", datastore_id), "CREATING")
    return {"datastoreId": datastore_id, "datastoreStatus": "CREATING"}


def get_datastore(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """GetDatastore."""
    row = _find(connection, params["datastoreId"])
    properties = {
        **_summary(world, row),
        "kmsKeyArn": row.properties.get("kmsKeyArn"),
        "lambdaAuthorizerArn": row.properties.get("lambdaAuthorizerArn"),
        "losslessStorageFormat": row.properties.get("losslessStorageFormat", "HTJ2K"),
    }
    return {"datastoreProperties": properties}


def list_datastores(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """ListDatastores."""
    statement = select(datastore).order_by(datastore.c.created_at, datastore.c.datastore_id)
    if "datastoreStatus" in params:
        statement = statement.where(datastore.c.status == params["datastoreStatus"])
    rows = [_summary(world, row) for row in connection.execute(statement)]
    page = page_of(rows, params)
    return {"datastoreSummaries": page.items, "nextToken": page.next_token}


def delete_datastore(world: World, connection: Connection, params: Mapping[str, Any]) -> dict[str, Any]:
    """DeleteDatastore: refused while image sets are left."""
    row = _find(connection, params["datastoreId"])
    left = connection.execute(
        select(image_set.c.image_set_id).where(
            image_set.c.datastore_id == row.datastore_id, image_set.c.state != "DELETED"
        )
    ).first()
    if left is not None:
        raise ServiceError("ConflictException", "The data store still holds image sets")
    if row.status not in {"DELETING", "DELETED"}:
        now = world.now()
        connection.execute(
            update(datastore)
            .where(datastore.c.datastore_id == row.datastore_id)
            .values(status="DELETING", updated_at=now, due_at=now + world.settings.datastore_seconds)
        )
        _emit(world, connection, row.datastore_id, row.name, "DELETING")
    return {"datastoreId": row.datastore_id, "datastoreStatus": "DELETING"}


def require_datastore(connection: Connection, datastore_id: str) -> None:
    """Raise unless the data store exists and is ACTIVE."""
    row = _find(connection, datastore_id)
    if row.status != "ACTIVE":
        raise ServiceError("ConflictException", f"The data store is {row.status}")


def advance_datastores(world: World, connection: Connection) -> None:
    """Complete every creation and deletion that is due."""
    now = world.now()
    due = select(datastore).where(has_come(datastore.c.due_at, now))
    for row in connection.execute(due).all():
        status = {"CREATING": "ACTIVE", "DELETING": "DELETED"}[row.status]
        connection.execute(
            update(datastore)
            .where(datastore.c.datastore_id == row.datastore_id)
            .values(status=status, updated_at=now, due_at=None)
        )
        _emit(world, connection, row.datastore_id, row.name, status)


def _find(connection: Connection, datastore_id: str) -> Row[Any]:
    row = connection.execute(select(datastore).where(datastore.c.datastore_id == datastore_id)).first()
    if row is None:
        raise ServiceError("ResourceNotFoundException", f"Data store {datastore_id} does not exist")
    return row


def _summary(world: World, row: Row[Any]) -> dict[str, Any]:
    return {
        "datastoreId": row.datastore_id,
        "datastoreName": row.name,
        "datastoreStatus": row.status,
        "datastoreArn": world.datastore_arn(row.datastore_id),
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
    }


def _emit(world: World, connection: Connection, datastore_id: str, name: str, status: str) -> None:
    """Emit the event of a state; the event names ACTIVE `Created`."""
    word = {"CREATING": "Creating", "ACTIVE": "Created", "DELETING": "Deleting", "DELETED": "Deleted"}[status]
    detail = {"datastoreId": datastore_id, "datastoreName": name, "datastoreStatus": status}
    world.emit(connection, f"Data Store {word}", world.datastore_arn(datastore_id), detail)
