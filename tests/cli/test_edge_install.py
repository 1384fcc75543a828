"""`dicomflow edge-install`: commands that a device's operator can paste, and secrets that nobody else reads."""

import logging
import re
import stat
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from dicomflow.edge.settings import load_settings

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"AWS_SECRET_ACCESS_KEY=(\S+)")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve STS, and be somebody there."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield
    server.stop()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a config.py of two edges, whose code must not run."""
    (tmp_path / "config.py").write_text(
        'CDK_APP_NAME = "hospital"\nEDGE_CONFIG = [{"Name": "ct"}, {"Name": "mr"}]\nraise SystemExit("ran")\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_edge_install_writes_commands_with_credentials_for_the_owner_alone(folder: Path, aws: None, run: Run):
    """The file has the installer's credentials and the names that the stack gave; nothing secret is printed."""
    (folder / "edge-install-ct.txt").write_text("of another day")
    (folder / "edge-install-ct.txt").chmod(0o644)
    code, output, errors = run("edge-install", "ct", "--region", "eu-west-1")
    assert (0, "") == (code, errors)
    path = folder / "edge-install-ct.txt"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    text = path.read_text()
    found = SECRET.search(text)
    assert found is not None
    assert found[1] not in output
    for words in (
        "--aws-region eu-west-1",
        "--thing-name hospital-ct ",
        "--thing-group-name hospital-IEP-devices",
        "--thing-policy-name hospital-ct-GG-Thing",
        "-trn hospital-ct-GG-Role -tra hospital-ct-GG-Role-Alias",
    ):
        assert words in text
    assert 0 == subprocess.run(["sh", "-n", path], check=False).returncode


def test_edge_install_of_an_edge_that_config_lacks_names_those_there_are(folder: Path, run: Run):
    """A misspelt name fails before AWS is asked."""
    code, _, errors = run("edge-install", "cr")
    assert 1 == code
    assert "no edge 'cr'; it has ct, mr" in errors
    assert not (folder / "edge-install-cr.txt").exists()


def test_edge_install_without_config_asks_for_the_stack(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than in the project's folder the stack has to be named."""
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("edge-install", "ct")
    assert 1 == code
    assert "give --stack" in errors


def test_edge_install_without_credentials_says_so(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    """Whoever has not logged in to AWS gets one line, and no file."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    code, _, errors = run("edge-install", "ct")
    assert 1 == code
    assert "AWS cannot be asked for credentials" in errors
    assert not (folder / "edge-install-ct.txt").exists()


def test_edge_install_systemd_writes_settings_that_the_edge_takes(folder: Path, run: Run):
    """Without Greengrass the commands are sh, set up the unit that the zip brings, and hold no secret."""
    code, _, _ = run("edge-install", "mr", "--systemd", "--store-url", "s3://bucket", "--output", folder / "it.sh")
    assert 0 == code
    text = (folder / "it.sh").read_text()
    assert 0 == subprocess.run(["sh", "-n", folder / "it.sh"], check=False).returncode
    (settings,) = re.findall(r"<<'EDGE_TOML'\n(.*?)EDGE_TOML\n", text, re.DOTALL)
    (folder / "edge.toml").write_text(settings)
    loaded = load_settings(folder / "edge.toml")
    assert ("hospital-mr", "s3://bucket") == (loaded.name, loaded.delivery.store_url)
    assert Path("/var/lib/dicomflow/spool") == loaded.spool.dir
    unit = (ROOT / "greengrass" / "dicomflow-edge.service").read_text()
    for path in ("/opt/dicomflow/python.sh", "/var/lib/dicomflow", "/etc/dicomflow/edge.toml"):
        assert path in text
        assert path in unit
    assert SECRET.search(text) is None


def test_edge_install_windows_service_writes_settings_that_are_toml(folder: Path, run: Run):
    """The settings of the Windows service keep their backslashes."""
    code, _, _ = run(
        "edge-install", "mr", "--windows-service", "--store-url", "s3://bucket", "--output", folder / "it.ps1"
    )
    assert 0 == code
    text = (folder / "it.ps1").read_text()
    (settings,) = re.findall(r"\$settings = @'\n(.*?)'@\n", text, re.DOTALL)
    assert r"C:\ProgramData\dicomflow\spool" == tomllib.loads(settings)["spool"]["dir"]


@pytest.mark.parametrize(
    "options",
    [("--systemd",), ("--systemd", "--windows-service", "--store-url", "s3://b"), ("--systemd", "--store-url", "b")],
)
def test_edge_install_called_wrongly_exits_2(folder: Path, run: Run, options: tuple[str, ...]):
    """Two kinds of service at once, or one without a bucket, is a wrong call."""
    assert 2 == run("edge-install", "ct", *options)[0]
