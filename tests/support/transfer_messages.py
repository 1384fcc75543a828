"""Messages of transfers to a deployment, and what edges say of them."""

import json
from datetime import UTC, datetime
from typing import Any

from dicomflow.bucket.heartbeat import Heartbeat, KnownDestination
from dicomflow.bucket.keys import heartbeat_key, pending_key, returns_key
from dicomflow.bucket.transfer import (
    InstanceState,
    Pending,
    PendingTransfer,
    ReturnedInstance,
    Returns,
    decode,
    encode,
)
from dicomflow.catalog.transfers import get_transfer

__all__ = ["OK", "SERIES", "beat", "give_back", "pending", "read", "send", "state"]

OK = {"batchItemFailures": []}
SERIES = {"1.2.1": 2, "1.2.2": 1}
"""Of the study 1.2 of the fixture `hospital`."""


def beat(deployment: Any, edge: str, *destinations: str) -> None:
    """Have an edge say which destinations it knows."""
    known = tuple(KnownDestination(name, f"{name}_AE") for name in destinations)
    heartbeat = Heartbeat(edge, "1", datetime.now(UTC), "AE", 0, 0, 0, 0, 0.0, destinations=known)
    deployment.store.put(heartbeat_key(edge), heartbeat.to_json())


def send(deployment: Any, **message: Any) -> dict[str, Any]:
    """Hand a message to the queue's handler."""
    found: dict[str, Any] = deployment.handle("transfers", json.dumps(message))
    return found


def read(deployment: Any, kind: Any, key: str) -> Any:
    """Return a document of the store."""
    return decode(kind, bytes(deployment.store.get(key).bytes()))


def pending(deployment: Any, edge: str = "edge") -> tuple[PendingTransfer, ...]:
    """Return what waits for an edge."""
    found: Pending = read(deployment, Pending, pending_key(edge))
    return found.transfers


def give_back(
    deployment: Any, *states: InstanceState, transfer: str = "t1", edge: str = "edge", final: bool = True, **more: Any
) -> dict[str, Any]:
    """Have an edge say what became of the first instances, and hand on the event of that."""
    instances = tuple(
        ReturnedInstance(number, state, 0 if state is InstanceState.DONE else 0xA900, "", 1)
        for number, state in enumerate(states)
    )
    values = {"round": 1, "sequence": 1} | more
    returns = Returns(edge, transfer, at=datetime.now(UTC), is_final=final, instances=instances, **values)
    key = returns_key(edge, transfer)
    deployment.store.put(key, encode(returns))
    found: dict[str, Any] = deployment.handle("transfers", deployment.object_event(key))
    return found


def state(deployment: Any, transfer: str = "t1") -> tuple[str, dict[str, int]]:
    """Return a transfer's state and how its instances are."""
    with deployment.deps.engine.begin() as connection:
        found = get_transfer(connection, transfer)
    return found.row.state, found.counts
