"""What `dicomflow edge-install` tells a device of the network around it, and the certificate that it gets."""

import json
import logging
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from dicomflow.cli.nucleus import NUCLEUS
from dicomflow.edge.settings import load_settings

Run = Callable[..., tuple[int, str, str]]
PROXY = ("--proxy-url", "http://proxy.example.org:3128", "--proxy-excludes", "10.0.0.0/8")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve STS and IoT, and be somebody there."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    yield
    server.stop()


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
def test_nucleus_is_installed_with_what_config_says(folder: Path, aws: None, run: Run, kind: tuple[str, ...]):
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
def test_options_go_before_config(folder: Path, aws: None, run: Run, kind: tuple[str, ...]):
    """A site has a proxy of its own; with everything as it is by default the nucleus gets no file."""
    assert 0 == run("edge-install", "ct", *kind, *PROXY, "--no-fips", "--no-only-port-443")[0]
    told = nucleus_file((folder / "edge-install-ct.txt").read_text())["configuration"]
    assert {"networkProxy"} == told.keys()
    assert "localhost,127.0.0.1,10.0.0.0/8" == told["networkProxy"]["noProxyAddresses"]
    assert 0 == run("edge-install", "ct", *kind, "--proxy-url", "", "--no-fips", "--no-only-port-443")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    assert "init-config" not in text
    assert "roxy" not in text


@pytest.mark.parametrize("kind", ["--systemd", "--windows-service"])
def test_edge_without_greengrass_has_settings_for_its_certificate(folder: Path, aws: None, run: Run, kind: str):
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
    called = "edge-certificate', 'hospital-ct'" if "windows" in kind else "edge-certificate hospital-ct"
    assert text.index(called) < text.index(".credentials.iot.")
    assert stat.S_IMODE((folder / "edge-install-ct.txt").stat().st_mode) == 0o600


def test_edge_without_greengrass_calls_fips_endpoints(folder: Path, aws: None, run: Run):
    """S3's and that of the credentials; in settings, which both systems read."""
    assert 0 == run("edge-install", "ct", "--systemd", "--store-url", "s3://bucket")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    (settings,) = re.findall(r"<<'EDGE_TOML'\n(.*?)EDGE_TOML\n", text, re.DOTALL)
    delivery = tomllib.loads(settings)["delivery"]
    assert "https://s3-fips.eu-west-1.amazonaws.com" == delivery["endpoint"]
    assert "data.credentials.iot-fips.eu-west-1.amazonaws.com" == delivery["credentials"]["endpoint"]


def test_certificate_makes_thing_and_files(tmp_path: Path, aws: None, run: Run):
    """The certificate is active, its thing's and under the edge's policy; its key is readable by its owner alone."""
    iot = boto3.client("iot", region_name="eu-west-1")
    iot.create_policy(policyName="iep-ct-GG-Thing", policyDocument=json.dumps({"Version": "2012-10-17"}))
    assert 0 == run("edge-certificate", "iep-ct", "--folder", tmp_path)[0]
    (arn,) = iot.list_thing_principals(thingName="iep-ct")["principals"]
    assert ["iep-ct-GG-Thing"] == [each["policyName"] for each in iot.list_attached_policies(target=arn)["policies"]]
    assert (
        "ACTIVE" == iot.describe_certificate(certificateId=arn.rpartition("/")[2])["certificateDescription"]["status"]
    )
    assert {"device.key", "device.pem"} == {path.name for path in tmp_path.iterdir()}
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert "BEGIN CERTIFICATE" in (tmp_path / "device.pem").read_text()

    before = (tmp_path / "device.pem").read_text()
    assert 0 == run("edge-certificate", "iep-ct", "--folder", tmp_path)[0]
    assert before == (tmp_path / "device.pem").read_text()
    assert [arn] == iot.list_thing_principals(thingName="iep-ct")["principals"]


def test_certificate_that_is_refused_leaves_none(tmp_path: Path, aws: None, run: Run, monkeypatch: pytest.MonkeyPatch):
    """One line names what is refused, and the next call begins anew; so it is where nobody answers."""
    code, _, errors = run("edge-certificate", "iep-mr", "--folder", tmp_path)
    assert (1, "AWS refuses AttachPolicy for iep-mr: ResourceNotFoundException") == (
        code,
        errors.strip().removeprefix("dicomflow: "),
    )
    assert not (tmp_path / "device.pem").exists()
    boto3.client("iot", region_name="eu-west-1").create_policy(policyName="iep-mr-GG-Thing", policyDocument="{}")
    assert 0 == run("edge-certificate", "iep-mr", "--folder", tmp_path)[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "device.pem").unlink()
    code, _, errors = run("edge-certificate", "iep-mr", "--folder", tmp_path)
    assert (1, True) == (code, "AWS IoT cannot be asked" in errors)
