"""What every part of the simulator shares: settings, state, stores, clock, faults and the names of resources."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from obstore.store import ObjectStore
from sqlalchemy import Connection, Engine, insert

from dicomflow.healthimaging.simulator.faults import Faults
from dicomflow.healthimaging.simulator.settings import SimulatorSettings
from dicomflow.healthimaging.simulator.state import outbox

__all__ = ["Blob", "Page", "World", "event_time", "identifier", "page_of", "split_s3_uri"]

IDENTIFIER_LENGTH: Final = 32
MAX_PAGE: Final = 50


@dataclass(slots=True)
class World:
    """One simulated account in one region. `lock` guards the order of writes to the state."""

    settings: SimulatorSettings
    engine: Engine
    stores: Callable[[str], ObjectStore | None]
    clock: Callable[[], datetime]
    faults: Faults
    lock: threading.RLock = field(default_factory=threading.RLock)
    ahead_seconds: float = 0.0

    def now(self) -> float:
        """Return the simulator's time in seconds since the epoch."""
        return self.clock().timestamp() + self.ahead_seconds

    def datastore_arn(self, datastore_id: str) -> str:
        """Return the ARN of a data store."""
        return f"arn:aws:medical-imaging:{self.settings.region}:{self.settings.account}:datastore/{datastore_id}"

    def image_set_arn(self, datastore_id: str, image_set_id: str) -> str:
        """Return the ARN of an image set."""
        return f"{self.datastore_arn(datastore_id)}/imageset/{image_set_id}"

    def emit(self, connection: Connection, detail_type: str, resource: str, detail: Mapping[str, Any]) -> None:
        """Put an EventBridge event in the outbox; it is delivered after the transaction."""
        now = self.now()
        body = {
            "version": "0",
            "id": identifier("event", detail_type, resource, now, sorted(map(str, detail.items()))),
            "detail-type": detail_type,
            "source": "aws.medical-imaging",
            "account": self.settings.account,
            "time": event_time(now),
            "region": self.settings.region,
            "resources": [resource],
            "detail": {"imagingVersion": "1.0", **detail},
        }
        connection.execute(insert(outbox).values(body=body))


@dataclass(frozen=True, slots=True)
class Blob:
    """An answer that is no JSON object of the model."""

    body: bytes
    content_type: str
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and the token of the next part if there is one."""

    items: list[Any]
    next_token: str | None


def page_of(items: list[Any], params: Mapping[str, Any]) -> Page:
    """Return the page that `maxResults` and `nextToken` ask for; a token is the position it continues at."""
    token = params.get("nextToken") or "0"
    start = int(token) if token.isdigit() else 0
    end = start + min(params.get("maxResults") or MAX_PAGE, MAX_PAGE)
    return Page(items[start:end], str(end) if end < len(items) else None)


def identifier(*parts: object) -> str:
    """Return a deterministic id `[0-9a-z]{32}` of the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:IDENTIFIER_LENGTH]


def event_time(seconds: float) -> str:
    """Return a time as events carry it, to the second in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key prefix of an `s3://` URI that the model's pattern has accepted."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix
