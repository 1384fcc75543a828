"""What the pipeline counts, under names that dashboards and alarms rely on; docs/operations.md says what each means.

In Lambda the counts of an invocation are one line on standard output (CloudWatch's embedded metric format); elsewhere
they are Prometheus counters. Must not know where a count comes from.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from dicomflow.bucket.heartbeat import Heartbeat
from dicomflow.errors import TransientError
from dicomflow.pipeline.heartbeats import Completeness, completeness, read_heartbeats, silences, waits

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = [
    "NAMESPACE",
    "Counts",
    "EmfMetrics",
    "Metrics",
    "Name",
    "NoMetrics",
    "PrometheusMetrics",
    "after_commit",
    "register_edges",
]

NAMESPACE: Final = "dicomflow"
logger = logging.getLogger(__name__)

_READ_SECONDS: Final = 30.0
_SERVICE_VARIABLE: Final = "POWERTOOLS_SERVICE_NAME"


class Name(Enum):
    """A metric: its name in CloudWatch, its name in Prometheus, and what it counts."""

    INSTANCES_INDEXED = ("InstancesIndexed", "dicomflow_instances_indexed", "Objects that were indexed.")
    OBJECTS_UNREADABLE = ("ObjectsUnreadable", "dicomflow_objects_unreadable", "Objects stored with a problem.")
    IMPORTS_STARTED = ("ImportsStarted", "dicomflow_imports_started", "Series that a job was started for.")
    IMPORTS_COMPLETED = ("ImportsCompleted", "dicomflow_imports_completed", "Series that ended with everything in.")
    IMPORTS_HIDDEN = ("ImportsHidden", "dicomflow_imports_hidden", "Series that are in, and that no viewer sees.")
    IMPORTS_FAILED = ("ImportsFailed", "dicomflow_imports_failed", "Series that ended partial or failed.")
    EVENTS_SENT = ("EventsSent", "dicomflow_events_sent", "Events that were taken by whoever asked for them.")
    EVENTS_NOT_SENT = ("EventsNotSent", "dicomflow_events_not_sent", "Attempts to send an event that was not taken.")
    TRANSFERS_DONE = ("TransfersDone", "dicomflow_transfers_done", "Transfers that arrived whole.")
    TRANSFERS_FAILED = ("TransfersFailed", "dicomflow_transfers_failed", "Transfers that ended partial or failed.")
    INSTANCES_SENT_BACK = ("InstancesSentBack", "dicomflow_instances_sent_back", "Instances that a destination has.")
    IMPORT_BACKLOG = ("ImportBacklog", "dicomflow_import_backlog", "Series queued or in progress.")
    EDGE_SILENT_SECONDS = ("EdgeSilentSeconds", "dicomflow_edge_silent_seconds", "Since the edge's last heartbeat.")
    DESTINATION_WAIT_SECONDS = (
        "DestinationWaitSeconds",
        "dicomflow_destination_wait_seconds",
        "For how long the oldest instance waits for a destination of its edge's routes.",
    )
    IMAGES_MISSING = ("ImagesMissing", "dicomflow_images_missing", "Images that sources have and the edge has not.")
    SOURCES_NOT_COMPARED = (
        "SourcesNotCompared",
        "dicomflow_sources_not_compared",
        "Sources whose nightly comparison is late, or did not see all.",
    )

    @property
    def cloudwatch(self) -> str:
        """The name in CloudWatch."""
        return self.value[0]

    @property
    def prometheus(self) -> str:
        """The name in Prometheus, of a counter without `_total`."""
        return self.value[1]

    @property
    def description(self) -> str:
        """What it counts."""
        return self.value[2]


COUNTERS: Final = (
    Name.INSTANCES_INDEXED,
    Name.OBJECTS_UNREADABLE,
    Name.IMPORTS_STARTED,
    Name.IMPORTS_COMPLETED,
    Name.IMPORTS_HIDDEN,
    Name.IMPORTS_FAILED,
    Name.EVENTS_SENT,
    Name.EVENTS_NOT_SENT,
    Name.TRANSFERS_DONE,
    Name.TRANSFERS_FAILED,
    Name.INSTANCES_SENT_BACK,
)

_OF_TIME: Final = frozenset({Name.EDGE_SILENT_SECONDS, Name.DESTINATION_WAIT_SECONDS})

Counts = Counter[Name]


class Metrics(Protocol):
    """Where counts go. Thread: any."""

    def count(self, name: Name, number: int) -> None:
        """Add to a counter; what is counted has happened, and nothing rolls it back."""

    def backlog(self, series: int) -> None:
        """Tell how many series are queued or in progress."""


@contextmanager
def after_commit(metrics: Metrics) -> Iterator[Counts]:
    """Gather counts around a transaction and tell them when it is committed, not when it fails."""
    counts: Counts = Counter()
    yield counts
    for name, number in counts.items():
        metrics.count(name, number)


class NoMetrics:
    """Nobody listens."""

    def count(self, name: Name, number: int) -> None:
        """Forget it."""

    def backlog(self, series: int) -> None:
        """Forget it."""


class EmfMetrics:
    """Gathers what one invocation counts; `flush` writes it as one line. Thread: any; `_lock` guards the counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Name, int] = {}

    def count(self, name: Name, number: int) -> None:
        """Add to a counter."""
        if number:
            with self._lock:
                self._counts[name] = self._counts.get(name, 0) + number

    def backlog(self, series: int) -> None:
        """Keep the last number."""
        with self._lock:
            self._counts[Name.IMPORT_BACKLOG] = series

    def flush(self) -> None:
        """Write what was counted since the last time, if anything was."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if counts:
            _write(counts)

    @staticmethod
    def write_silences(silences: Mapping[str, float]) -> None:
        """Write, by edge, the seconds since its last heartbeat: a line each, since the edge is a dimension."""
        for edge, seconds in silences.items():
            _write({Name.EDGE_SILENT_SECONDS: round(seconds)}, {"edge": edge})

    @staticmethod
    def write_waits(waits: Mapping[str, float]) -> None:
        """Write how long the oldest instance of all edges waits for a destination: one line, if anything waits."""
        if longest := max(waits.values(), default=0.0):
            _write({Name.DESTINATION_WAIT_SECONDS: round(longest)})

    @staticmethod
    def write_completeness(found: Iterable[Completeness]) -> None:
        """Write what nightly comparisons found, of all edges together: one line, and none without comparisons."""
        if edges := list(found):
            missing, not_compared = sum(each.missing for each in edges), sum(each.not_compared for each in edges)
            _write({Name.IMAGES_MISSING: missing, Name.SOURCES_NOT_COMPARED: not_compared})


def _write(values: Mapping[Name, int], dimensions: Mapping[str, str] | None = None) -> None:
    from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit  # noqa: PLC0415  # Lambda's need only

    metrics = EphemeralMetrics(namespace=NAMESPACE, service=os.environ.get(_SERVICE_VARIABLE, NAMESPACE))
    for dimension, value in (dimensions or {}).items():
        metrics.add_dimension(dimension, value)
    for name, number in values.items():
        unit = MetricUnit.Seconds if name in _OF_TIME else MetricUnit.Count
        metrics.add_metric(name.cloudwatch, unit, number)
    metrics.flush_metrics()


class PrometheusMetrics:
    """Counters of a registry. Thread: any."""

    def __init__(self, registry: "CollectorRegistry") -> None:
        import prometheus_client  # noqa: PLC0415  # not in Lambda

        self._counters = {
            name: prometheus_client.Counter(name.prometheus, name.description, registry=registry) for name in COUNTERS
        }
        backlog = Name.IMPORT_BACKLOG
        self._backlog = prometheus_client.Gauge(backlog.prometheus, backlog.description, registry=registry)

    def count(self, name: Name, number: int) -> None:
        """Add to a counter."""
        self._counters[name].inc(number)

    def backlog(self, series: int) -> None:
        """Set the gauge."""
        self._backlog.set(series)


def register_edges(registry: "CollectorRegistry", store: "ObjectStore") -> None:
    """Let a registry tell what heartbeats say of each edge; the store is asked at most every half minute."""
    registry.register(_HeartbeatCollector(store))


class _HeartbeatCollector:
    """Reads the heartbeats when it is asked. Thread: any; `_lock` guards what was read last."""

    def __init__(self, store: "ObjectStore") -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._beats: list[Heartbeat] = []

    def collect(self) -> "Iterator[Metric]":
        """Yield the gauges."""
        beats, now = self._last_beats(), datetime.now(UTC)
        lacks = completeness(beats, now)
        yield _by_edge(Name.EDGE_SILENT_SECONDS, silences(beats, now))
        yield _by_edge(Name.DESTINATION_WAIT_SECONDS, waits(beats))
        yield _by_edge(Name.IMAGES_MISSING, {edge: each.missing for edge, each in lacks.items()})
        yield _by_edge(Name.SOURCES_NOT_COMPARED, {edge: each.not_compared for edge, each in lacks.items()})

    def _last_beats(self) -> list[Heartbeat]:
        with self._lock:
            if time.monotonic() - self._read_at >= _READ_SECONDS:
                self._read_at = time.monotonic()
                try:
                    self._beats = read_heartbeats(self._store)
                except TransientError as error:  # what was read before grows older, which is the truth
                    logger.warning("heartbeats_not_read", extra={"error": str(error)})
            return self._beats


def _by_edge(name: Name, values: Mapping[str, float]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  # not in Lambda

    family = GaugeMetricFamily(name.prometheus, name.description, labels=["edge"])
    for edge, value in values.items():
        family.add_metric([edge], value)
    return family
