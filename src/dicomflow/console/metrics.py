"""What a console tells Prometheus: what the catalog holds, what waits or failed, and how long edges are silent.

Counts only, so it is open to who has no login. `dicomflow local` has metrics of its own at the same address.
"""

from collections.abc import Iterator
from typing import Final

from obstore.store import ObjectStore
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dicomflow.console.totals import Totals
from dicomflow.pipeline.metrics import register_edges

__all__ = ["METRICS_PATH", "build_registry"]

METRICS_PATH: Final = "/metrics"


def build_registry(totals: Totals, store: ObjectStore) -> CollectorRegistry:
    """Return the registry of a console over a catalog and a bucket."""
    registry = CollectorRegistry()
    registry.register(_CatalogCollector(totals))
    register_edges(registry, store)
    return registry


class _CatalogCollector:
    """Counts rows when it is asked, from what `Totals` counted last. Thread: any."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        counted = self._totals.read()
        rows = GaugeMetricFamily("dicomflow_catalog_rows", "What the catalog holds.", labels=["kind"])
        for kind in ("patients", "studies", "series", "instances", "image_sets"):
            rows.add_metric([kind], counted.counts[kind])
        yield rows
        imports = GaugeMetricFamily(
            "dicomflow_catalog_imports", "Series by the state of their import.", labels=["state"]
        )
        for state, number in counted.counts["imports"].items():
            imports.add_metric([state], number)
        yield imports
        yield GaugeMetricFamily(
            "dicomflow_catalog_unreadable", "Objects that cannot be indexed.", value=counted.counts["unreadable"]
        )
        conflicts = GaugeMetricFamily(
            "dicomflow_catalog_conflicts", "Contradictions that somebody should decide, up to 100.", labels=["kind"]
        )
        for kind, number in counted.conflicts.items():
            conflicts.add_metric([kind], number)
        yield conflicts

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: registering must not count."""
        return iter(())
