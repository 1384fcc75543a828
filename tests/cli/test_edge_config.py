"""What `dicomflow edge-install` takes from config.py: an edge's own settings, and no guess."""

import getpass
import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomflow.cli.toml import to_toml
from dicomflow.edge.settings import load_settings

Run = Callable[..., tuple[int, str, str]]
SERVICE = ("--own-credentials", "--store-url", "s3://bucket")
SETTINGS = re.compile(r"(?:<<'EDGE_TOML'|\$settings = @')\n(.*?)(?:EDGE_TOML|'@)\n", re.DOTALL)
EDGES = """
EDGE_CONFIG = [
    {"Name": "ct", "device_type": "LOCAL", "settings": {
        "dimse": {"port": 104, "calling_ae_titles": ["CT1", "MR1"], "tls": {"certificate": "/c", "key": "/k"}},
        "delivery": {"quiet_seconds": 2.5, "bandwidth": [{"from_hour": 6, "to_hour": 22, "max_bytes_per_second": 9}]},
        "spool": {"dir": "/srv/Küche"},
    }},
    {"Name": "vm", "device_type": "EC2"},
]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a config.py that a test writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    return tmp_path / "config.py"


def written(config: Path) -> str:
    """Give the commands that were written for the edge ct."""
    return (config.parent / "edge-install-ct.txt").read_text(encoding="ascii")


def settings_of(config: Path) -> dict[str, Any]:
    """Give what the commands write into edge.toml."""
    (text,) = SETTINGS.findall(written(config))
    (config.parent / "edge.toml").write_text(text)
    load_settings(config.parent / "edge.toml")  # the edge's own program takes it
    return tomllib.loads(text)


@pytest.mark.parametrize("kind", ["--systemd", "--windows-service"])
def test_edge_without_greengrass_gets_its_own_settings(config: Path, run: Run, kind: str):
    """Who may send, and to which port, is as config.py says; what is the stack's own stays so."""
    config.write_text(f'CDK_APP_NAME = "hospital"\n{EDGES}\nS3_CONFIG = {{"s3_acceleration": True}}\n')
    assert 0 == run("edge-install", "ct", kind, *SERVICE)[0]
    found = settings_of(config)
    assert {"port": 104, "calling_ae_titles": ["CT1", "MR1"], "tls": {"certificate": "/c", "key": "/k"}} == found[
        "dimse"
    ]
    assert ("hospital-ct", "/srv/Küche") == (found["name"], found["spool"]["dir"])
    assert {
        "store_url": "s3://bucket",
        "accelerate": True,
        "quiet_seconds": 2.5,
        "bandwidth": [{"from_hour": 6, "to_hour": 22, "max_bytes_per_second": 9}],
    } == found["delivery"]
    if kind == "--windows-service":
        assert "LocalPort = 104, 2762 }" in written(config)


@pytest.mark.parametrize(
    "text",
    [
        'proxy = "http://p:3128"\nDEVICE_CONFIG = {"proxy_url": proxy}',
        'DEVICE_CONFIG: dict[str, str] = {"proxy_url": "http://p:3128"}',
        'common = {"proxy_url": "http://p:3128"}\nDEVICE_CONFIG = common',
        'other = "x"\nother += "y"\nDEVICE_CONFIG = OLD = {"proxy_url": "http://" "p:3128"}',
    ],
)
def test_what_config_writes_out_by_other_names_is_read(config: Path, run: Run, text: str):
    """A name that stands for a value, and an annotation, hide nothing from the device."""
    config.write_text(
        f'CDK_APP_NAME = "hospital"\n{EDGES}\n{text}\nACCOUNT_CONFIG: dict = {{"fips_endpoints": True}}\n'
    )
    assert 0 == run("edge-install", "ct", "--systemd", *SERVICE)[0]
    delivery = settings_of(config)["delivery"]
    assert ("http://p:3128", "https://s3-fips.eu-west-1.amazonaws.com") == (delivery["proxy_url"], delivery["endpoint"])


@pytest.mark.parametrize(
    "text",
    [
        'import os\nDEVICE_CONFIG = {"proxy_url": os.environ["PROXY"]}',
        'host = "p"\nDEVICE_CONFIG = {"proxy_url": f"http://{host}:3128"}',
        'DEVICE_CONFIG = {}\nDEVICE_CONFIG["proxy_url"] = "http://p:3128"',
        'DEVICE_CONFIG = {}\nif True:\n    DEVICE_CONFIG = {"proxy_url": "http://p:3128"}',
        'common = {}\nDEVICE_CONFIG = common\ncommon["proxy_url"] = "http://p:3128"',
        "from common import DEVICE_CONFIG",
        "from common import *",
        "DEVICE_CONFIG, X = {}, 1",
    ],
)
def test_what_config_computes_is_refused_and_not_left_out(config: Path, run: Run, text: str):
    """A proxy that is not seen would leave the device without a way out: it is asked for, and nothing is written."""
    head = 'CDK_APP_NAME = "hospital"\nACCOUNT_CONFIG = {}\nSTORAGE_CONFIG = {}\nS3_CONFIG = {}\n'
    config.write_text(f"{text}\n{head}{EDGES}")
    code, _, errors = run("edge-install", "ct", "--systemd", *SERVICE)
    assert (1, True) == (code, "DEVICE_CONFIG in plain text: give --proxy-url and --proxy-excludes" in errors)
    assert not list(config.parent.glob("edge-install*"))
    assert 0 == run("edge-install", "ct", "--systemd", *SERVICE, "--proxy-url", "", "--proxy-excludes", "")[0]


def test_settings_that_config_computes_are_refused(config: Path, run: Run):
    """Rules of access are not guessed either; an edge of Greengrass gets them by its deployment."""
    config.write_text('CDK_APP_NAME = "hospital"\nEDGE_CONFIG = [{"Name": n} for n in ("ct", "mr")]\n')
    code, _, errors = run("edge-install", "ct", "--stack", "hospital", "--systemd", *SERVICE)
    assert (1, True) == (code, "EDGE_CONFIG in plain text: write it out there" in errors)
    config.write_text("CDK_APP_NAME = 'x' +\n")
    code, _, errors = run("edge-install", "ct", "--stack", "hospital", "--systemd", *SERVICE)
    assert (1, True) == (code, "config.py cannot be read" in errors)


def test_stack_of_another_folder_is_said(config: Path, run: Run):
    """Without its config.py the options are all there is, and the operator is told."""
    config.write_text(f'CDK_APP_NAME = "hospital"\n{EDGES}')
    code, _, errors = run("edge-install", "ct", "--stack", "other", "--systemd", *SERVICE)
    assert (0, True) == (code, "only the options say what the edge needs" in errors)
    assert {
        "name": "other-ct",
        "spool": {"dir": "/var/lib/dicomflow/spool"},
        "delivery": {"store_url": "s3://bucket"},
    } == (settings_of(config))
    assert "edge-remove ct --stack other" in run("edge-install", "ct", "--stack", "other", "--uninstall")[1]


@pytest.mark.parametrize("command", ["edge-install", "edge-remove"])
def test_instance_of_the_stack_is_no_device(config: Path, run: Run, command: str):
    """An EC2 edge is neither installed nor removed by hand."""
    config.write_text(f'CDK_APP_NAME = "hospital"\n{EDGES}')
    code, _, errors = run(command, "vm")
    assert (1, True) == (code, "vm is an EC2 edge" in errors)


@pytest.mark.parametrize("url", ["s3://Hosp_Bucket/x", "s3://bucket/x", "s3://ab", "s3://"])
def test_store_that_can_be_no_bucket_is_a_wrong_call(config: Path, run: Run, url: str):
    """The stack's bucket has no prefix, and no capitals."""
    config.write_text(f'CDK_APP_NAME = "hospital"\n{EDGES}')
    assert 2 == run("edge-install", "ct", "--systemd", "--own-credentials", "--store-url", url)[0]


def test_toml_is_read_back_as_it_was():
    """Quotes, control characters, letters beyond ASCII and keys that need quotes."""
    settings = {
        "a": 'q"\\\n\x7f\u2028é😀',
        "b": [1, 2.5, True, {"c d": "x", "none": None}],
        "none": None,
        "destinations": {"PACS 1": {"tls": {"ca": "/x"}, "port": 104}},
    }
    text = to_toml(settings)
    assert text.isascii()
    del settings["none"]
    settings["b"] = [1, 2.5, True, {"c d": "x"}]
    assert settings == tomllib.loads(text)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
def test_service_can_read_what_a_strict_umask_installs(config: Path, run: Run, tmp_path: Path):
    """Hardened machines have 027 or 077: program and settings are the service's to read all the same."""
    config.write_text(f'CDK_APP_NAME = "hospital"\n{EDGES}')
    assert 0 == run("edge-install", "ct", "--systemd", *SERVICE)[0]
    root, tools = tmp_path / "root", tmp_path / "tools"
    tools.mkdir()
    for name in ("id", "systemctl", "curl"):
        (tools / name).write_text("#!/bin/sh\n")
    # As PAM may do it: whatever the script set, a program of another user begins with the strict mask.
    (tools / "sudo").write_text('#!/bin/sh\numask 077\n[ "$1" = -u ] && shift 2\nexec "$@"\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    with zipfile.ZipFile(tmp_path / "dicomflow-edge-linux-amd64.zip", "w") as artifact:
        for name in ("python.sh", "wheels/a.whl", "dicomflow-edge.service"):
            artifact.writestr(zipfile.ZipInfo(name), "")
    for folder in ("etc/systemd/system", "usr/local/bin", "var/lib", "opt"):
        (root / folder).mkdir(parents=True)
    text = re.sub(r"(?<![\w.])/(?=(?:etc|opt|var|usr/local)/)", f"{root}/", written(config))
    text = text.replace("-o dicomflow -g dicomflow", f"-o {getpass.getuser()}")
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", "-c", "umask 077; exec sh -s"]
    done = subprocess.run(
        command, input=text, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    for path in (root / "opt" / "dicomflow").rglob("*"):
        assert path.stat().st_mode & 0o005 == (0o005 if path.is_dir() else 0o004), path
    assert 0o644 == (root / "etc/dicomflow/edge.toml").stat().st_mode & 0o777
    assert 0o600 == (root / "etc/dicomflow/environment").stat().st_mode & 0o777
