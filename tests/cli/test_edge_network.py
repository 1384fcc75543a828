"""What `dicomflow edge-install` tells a device of the network around it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicomflow.cli.nucleus import NUCLEUS
from dicomflow.edge.settings import load_settings

Run = Callable[..., tuple[int, str, str]]
ALWAYS = {"awsRegion", "iotRoleAlias", "iotDataEndpoint", "iotCredEndpoint"}
PROXY = ("--proxy-url", "http://proxy.example.org:3128", "--proxy-excludes", "10.0.0.0/8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a config.py that names a proxy and FIPS endpoints."""
    (tmp_path / "config.py").write_text(
        'CDK_APP_NAME = "hospital"\nEDGE_CONFIG = [{"Name": "ct"}]\n'
        'DEVICE_CONFIG = {"proxy_url": "http://of-config:3128", "only_port_443": True}\n'
        'ACCOUNT_CONFIG = {"fips_endpoints": True}\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nucleus_file(text: str) -> dict[str, Any]:
    """Give the nucleus's part of the file that a device's installer reads, by a parser of YAML as the installer's."""
    (found,) = re.findall(r"(?:<<'NUCLEUS'|\$settings = @')\n(.*?)\n(?:NUCLEUS|'@)\n", text, re.DOTALL)
    told: dict[str, Any] = yaml.safe_load(found)["services"]["aws.greengrass.Nucleus"]
    return told


@pytest.mark.parametrize("kind", [(), ("--windows",)])
def test_nucleus_is_installed_with_what_config_says(folder: Path, iot: Any, run: Run, kind: tuple[str, ...]):
    """Proxy, port and FIPS endpoints of config.py, before the nucleus calls anybody; its download goes by the proxy."""
    assert 0 == run("edge-install", "ct", *kind)[0]
    text = (folder / "edge-install-ct.txt").read_text()
    told = nucleus_file(text)
    assert NUCLEUS == told["version"]
    assert {"noProxyAddresses": "localhost,127.0.0.1", "proxy": {"url": "http://of-config:3128"}} == told[
        "configuration"
    ]["networkProxy"]
    assert 443 == told["configuration"]["mqtt"]["port"] == told["configuration"]["greengrassDataPlanePort"]
    assert "true" == told["configuration"]["fipsMode"]
    assert "data.iot-fips.eu-west-1.amazonaws.com" == told["configuration"]["iotDataEndpoint"]
    assert "--init-config" in text
    download = "export HTTPS_PROXY='http://of-config:3128'" if not kind else "-Proxy 'http://of-config:3128'"
    assert text.index(download) < text.index("Greengrass.jar")


@pytest.mark.parametrize("kind", [(), ("--windows",)])
def test_options_go_before_config(folder: Path, iot: Any, run: Run, kind: tuple[str, ...]):
    """A site has a proxy of its own; with everything as it is by default the nucleus gets its own account's hosts."""
    assert 0 == run("edge-install", "ct", *kind, *PROXY, "--no-fips", "--no-only-port-443")[0]
    told = nucleus_file((folder / "edge-install-ct.txt").read_text())["configuration"]
    assert {*ALWAYS, "networkProxy"} == told.keys()
    assert "localhost,127.0.0.1,10.0.0.0/8" == told["networkProxy"]["noProxyAddresses"]
    assert 0 == run("edge-install", "ct", *kind, "--proxy-url", "", "--no-fips", "--no-only-port-443")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    told = nucleus_file(text)["configuration"]
    assert ALWAYS == told.keys()
    assert re.fullmatch(r"\w+\.credentials\.iot\.eu-west-1\.amazonaws\.com", told["iotCredEndpoint"])
    assert re.fullmatch(r"\w+-ats\.iot\.eu-west-1\.amazonaws\.com", told["iotDataEndpoint"])
    assert "roxy" not in text


@pytest.mark.parametrize("kind", ["--systemd", "--windows-service"])
def test_edge_without_greengrass_has_settings_for_its_certificate(folder: Path, iot: Any, run: Run, kind: str):
    """The names that the stack gave, the account's endpoint, the proxy; the edge's own program reads them."""
    assert 0 == run("edge-install", "ct", kind, "--store-url", "s3://bucket", "--no-fips", *PROXY)[0]
    text = (folder / "edge-install-ct.txt").read_text()
    (settings,) = re.findall(r"(?:<<'EDGE_TOML'|\$settings = @')\n(.*?)(?:EDGE_TOML|'@)\n", text, re.DOTALL)
    (folder / "edge.toml").write_text(settings)
    delivery = load_settings(folder / "edge.toml").delivery
    assert ("http://proxy.example.org:3128", "10.0.0.0/8") == (delivery.proxy_url, delivery.proxy_excludes)
    assert delivery.credentials is not None
    assert re.fullmatch(r"\w+\.credentials\.iot\.eu-west-1\.amazonaws\.com", delivery.credentials.endpoint)
    assert ("hospital-ct-GG-Role-Alias", "hospital-ct") == (delivery.credentials.role_alias, delivery.credentials.thing)
    for path in (delivery.credentials.key, delivery.credentials.certificate):
        assert text.index(str(path).rpartition("\\")[2]) < text.index(".credentials.iot.")


def test_edge_without_greengrass_calls_fips_endpoints(folder: Path, iot: Any, run: Run):
    """S3's and that of the credentials; in settings, which both systems read."""
    assert 0 == run("edge-install", "ct", "--systemd", "--store-url", "s3://bucket")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    (settings,) = re.findall(r"<<'EDGE_TOML'\n(.*?)EDGE_TOML\n", text, re.DOTALL)
    delivery = tomllib.loads(settings)["delivery"]
    assert "https://s3-fips.eu-west-1.amazonaws.com" == delivery["endpoint"]
    assert "data.credentials.iot-fips.eu-west-1.amazonaws.com" == delivery["credentials"]["endpoint"]
