"""The dashboard and the alert rules ask for metrics that are served, and load."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
NAME = re.compile(r"\bdicomflow_[a-z_]+")
# Told only when something was refused, while something waits, or where edges compare themselves with sources.
SOMETIMES = {"dicomflow_images_missing", "dicomflow_sources_not_compared", "dicomflow_delivery_level_in_seconds"}


@pytest.fixture(scope="module")
def served(site: Any) -> set[str]:
    """Give the names of the metrics that a system serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.daemon.http_port}/metrics", timeout=120) as answer:
        text = answer.read().decode()
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def _rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return panels


def test_alert_rules_ask_for_metrics_that_are_served(served: set[str]):
    """No rule waits for a metric that never comes, and each says what to do."""
    rules = _rules()
    assert len(rules) == len({rule["alert"] for rule in rules})
    for rule in rules:
        assert set(NAME.findall(rule["expr"])) <= served | SOMETIMES, rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_dashboard_panels_ask_for_metrics_that_are_served(served: set[str]):
    """Each panel has queries of metrics that exist, a place of its own, and a title."""
    panels = _panels()
    assert len(panels) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, panel["title"]
        assert place["x"] + place["w"] <= 24
        places |= cells
        expressions = [target["expr"] for target in panel.get("targets", [])]
        assert expressions or panel["type"] == "row"
        assert {name for text in expressions for name in NAME.findall(text)} <= served | SOMETIMES, panel["title"]


def test_every_metric_that_is_served_is_documented(served: set[str]):
    """The operations manual explains what is served."""
    manual = (MONITORING.parent / "operations.md").read_text(encoding="utf-8")
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in served if name.startswith("dicomflow_")}
    families = {re.sub(r"_total$", "", name) for name in families}
    documented = {re.sub(r"_total$", "", name) for name in NAME.findall(manual)}
    assert set() == families - documented


def test_alert_rules_are_accepted_by_prometheus():
    """Prometheus's own tool takes every rule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    result = subprocess.run(
        [promtool, "check", "rules", MONITORING / "alerts.yml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == result.returncode, result.stdout + result.stderr
