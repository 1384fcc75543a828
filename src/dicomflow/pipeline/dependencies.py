"""What the pipeline's functions are given: databases, stores, clients, limits and the clock, in one frozen bundle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from obstore.store import ObjectStore
from sqlalchemy import Engine

from dicomflow.catalog.jobs import JobTarget
from dicomflow.pipeline.metrics import Metrics, NoMetrics

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging.client import HealthImagingClient

    from dicomflow.pipeline.outbox import Publisher

__all__ = ["JOB_LIMIT", "Dependencies", "Enqueue"]

JOB_LIMIT: Final = timedelta(hours=6)
"""Jobs take minutes; one that takes this long hangs."""


class Enqueue(Protocol):
    """Send a message to a queue: SQS, or the local queue in its place."""

    def __call__(self, queue: str, body: str, delay_seconds: int = 0) -> None:
        """Durable: on return the message will be received at least once, not before the delay is over."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """One deployment's catalog, bucket and data store.

    `concurrent_imports` and `start_rate` (calls a second) are the service's limits for this account. A job that has not
    ended within `job_limit` is given up. What comes from an association of one of `stat_ae_titles` is imported first.
    What was received is deleted so long after its import as `retention` says, never without one.
    `issuers` gives the issuer of Patient IDs that name none, by `EDGE/CALLING AE TITLE` or by `EDGE`, `character_sets`
    likewise what devices mean that declare none. Events go to `publisher`, to nobody without one; where a thread of
    its own sends them, `wake_sender` wakes it.
    """

    engine: Engine
    store: ObjectStore
    bucket: str
    client: "HealthImagingClient"
    datastore_id: str
    data_access_role_arn: str
    concurrent_imports: int
    start_rate: float
    import_enabled: bool
    enqueue: Enqueue
    clock: Callable[[], datetime]
    job_limit: timedelta = JOB_LIMIT
    stat_ae_titles: frozenset[str] = frozenset()
    issuers: Mapping[str, str] = field(default_factory=dict)
    character_sets: Mapping[str, str] = field(default_factory=dict)
    retention: timedelta | None = None
    metrics: Metrics = field(default_factory=NoMetrics)
    publisher: "Publisher | None" = None
    wake_sender: Callable[[], None] | None = None

    @property
    def target(self) -> JobTarget:
        """Where import jobs read and write."""
        return JobTarget(self.datastore_id, self.bucket)
