"""Settings of single edges in config.py: in every deployment, on the right device, gone when config.py drops them."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dicomflow.edge.settings import load_settings
from greengrass import component
from infra.settings import load_deployment


def configuration(template: Any) -> dict[str, Any]:
    """Give what the deployment merges into the component's configuration."""
    (deployment,) = template.resources("AWS::GreengrassV2::Deployment").values()
    merge = deployment["Components"]["DIMSEtoS3"]["ConfigurationUpdate"]["Merge"]
    told: dict[str, Any] = json.loads("".join(part if isinstance(part, str) else "X" for part in merge["Fn::Join"][1]))
    return told


def rendered(folder: Path, monkeypatch: pytest.MonkeyPatch, thing: str, edge: Any, edges: str) -> dict[str, Any]:
    """Give the edge.toml that a device writes."""
    monkeypatch.setenv("EDGE_SETTINGS", json.dumps(edge))
    monkeypatch.setenv("EDGE_OWN_SETTINGS", edges)
    monkeypatch.setenv("AWS_IOT_THING_NAME", thing)
    text = component.to_toml(component._settings(folder))
    (folder / "edge.toml").write_text(text)
    return tomllib.loads(text)


def test_deployment_has_each_edges_settings_and_the_next_one_too(
    template: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What config.py says of an edge is in the deployment of all, and reaches that edge alone."""
    told = configuration(template)
    assert {"iep-edge-1": {"dimse": {"port": 104, "called_ae_titles": ["CT"]}}} == json.loads(told["edges"])
    told["edge"]["delivery"] |= {"store_url": "s3://bucket", "kms_key_id": "arn:key"}
    rendered(tmp_path, monkeypatch, "iep-edge-1", told["edge"], told["edges"])
    settings = load_settings(tmp_path / "edge.toml")
    assert ("iep-edge-1", 104, ("CT",)) == (settings.name, settings.dimse.port, settings.dimse.called_ae_titles)
    assert "s3://bucket" == settings.delivery.store_url
    assert "dimse" not in rendered(tmp_path, monkeypatch, "iep-edge-9", told["edge"], told["edges"])


@pytest.mark.parametrize(
    ("edges", "port"),
    [
        ('{"IEP-Edge-1": {"dimse": {"port": 104}}}', 104),  # the nucleus knows no case
        ('{"iep-edge-1": {"dimse": {"ae_title": "X"}}}', 4242),  # what was merged by hand stays below
        ("{}", 4242),
    ],
)
def test_settings_of_config_are_above_those_merged_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edges: str, port: int
):
    """Table by table: a key that config.py does not name stays as it is."""
    edge = {"dimse": {"port": "4242"}, "delivery": {"store_url": "s3://bucket"}}
    rendered(tmp_path, monkeypatch, "iep-edge-1", edge, edges)
    assert port == load_settings(tmp_path / "edge.toml").dimse.port


@pytest.mark.parametrize("edges", ["{configuration:/edges}", "[]", '{"iep-edge-1": 5}'])
def test_settings_that_are_no_object_stop_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edges: str):
    """An edge does not start with less than it was told."""
    with pytest.raises(component.ComponentError, match="EDGE_OWN_SETTINGS"):
        rendered(tmp_path, monkeypatch, "iep-edge-1", {}, edges)


def test_machine_that_deploys_has_no_say_in_settings(monkeypatch: pytest.MonkeyPatch):
    """Its environment is that of another edge, perhaps."""
    monkeypatch.setenv("DICOMFLOW_EDGE__DIMSE__PORT", "no port")
    edges = [{"Name": "ct", "device_type": "LOCAL", "settings": {"dimse": {"ae_title": "CT"}}}]
    found = load_deployment({"CDK_APP_NAME": "iep", "VPC_CIDR": "10.0.0.0/22", "EDGE_CONFIG": edges})
    assert {"dimse": {"ae_title": "CT"}} == found.edges[0].settings
