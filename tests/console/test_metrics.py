"""The console's `/metrics`: the catalog's counts in Prometheus' format, open, and without a word about patients."""

import httpx
from hospital import Hospital
from prometheus_client.parser import text_string_to_metric_families

from dicomflow.catalog.report import count_everything


def _samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_show_what_the_catalog_holds(client: httpx.Client, hospital: Hospital):
    """Rows, imports by state, what cannot be indexed and each edge's silence, as catalog and bucket have them."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found, counts = _samples(answer.text), count_everything(hospital.engine)
    assert counts["instances"] == found["dicomflow_catalog_rows", "instances"] > 0
    assert counts["imports"] == {state: found["dicomflow_catalog_imports", state] for state in counts["imports"]}
    assert counts["unreadable"] == found["dicomflow_catalog_unreadable", ""] > 0
    assert [name for name, _ in found if name == "dicomflow_edge_silent_seconds"]
