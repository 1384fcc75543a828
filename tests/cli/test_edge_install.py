"""`dicomflow edge-install`: commands that a device's operator can paste, and secrets that nobody else reads."""

import hashlib
import logging
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell
from moto.server import ThreadedMotoServer

from dicomflow.cli.nucleus import NUCLEUS, NUCLEUS_SHA256
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
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    return tmp_path


@pytest.mark.parametrize("option", ["--systemd", "--windows-service"])
def test_edge_install_without_a_region_asks_for_it(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, option: str
):
    """A guessed region would make a device that finds nothing."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    code, _, errors = run("edge-install", "mr", option, "--own-credentials", "--store-url", "s3://bucket")
    assert 2 == code
    assert "give the region the stack is deployed to" in errors
    (folder / "config").write_text("[default]\nregion = ap-southeast-2\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    assert 0 == run("edge-install", "mr", option, "--own-credentials", "--store-url", "s3://bucket")[0]
    assert "ap-southeast-2" in (folder / "edge-install-mr.txt").read_text()


@pytest.fixture
def device(tmp_path: Path) -> dict[str, str]:
    """Give a device whose programs note how they are called, and do nothing; sudo does what follows it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (
        "apt-get",
        "curl",
        "sha256sum",
        "unzip",
        "java",
        "systemctl",
        "python3.14",
        "useradd",
        "install",
        "tee",
        "id",
        "rm",
        "find",
        "chmod",
    ):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"$CALLS"\n[ {name} != "${{BROKEN:-}}" ]\n')
    (tools / "sudo").write_text('#!/bin/sh\nwhile [ "$1" = -E ]; do shift; done\n[ "$1" = -u ] && shift 2\nexec "$@"\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    for name in ("bash", "cp", "mktemp", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(tools), "CALLS": str(tmp_path / "calls"), "HOME": str(tmp_path)}


def test_edge_install_of_a_reserved_name_is_refused(folder: Path, run: Run):
    """A device is not made an edge that would not start; one that is there can be taken off."""
    code, _, errors = run("edge-install", "Status", "--stack", "hospital", "--systemd", "--store-url", "s3://bucket")
    assert (2, True) == (code, "'Status' is reserved" in " ".join(errors.split()))
    assert [] == list(folder.glob("edge-install*"))
    assert 0 == run("edge-install", "Status", "--stack", "hospital", "--uninstall")[0]


def without_java(device: dict[str, str]) -> None:
    """Take Java off a device; its package brings it."""
    tools = Path(device["PATH"])
    (tools / "java").rename(tools / "java.package")
    (tools / "apt-get").write_text(
        '#!/bin/sh\necho apt-get "$@" >>"$CALLS"\n[ apt-get != "${BROKEN:-}" ] || exit 1\n'
        f'[ "$1" = update ] || cp "{tools}/java.package" "{tools}/java"\n'
    )


def test_edge_install_runs_to_its_end_on_a_device(folder: Path, aws: None, run: Run, device: dict[str, str]):
    """Java, unzip and Python come, then a nucleus of a version that is named; the shell runs it as a file."""
    without_java(device)
    assert 0 == run("edge-install", "ct")[0]
    done = subprocess.run(["sh", "edge-install-ct.txt"], env=device, check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    calls = Path(device["CALLS"]).read_text()
    assert f"greengrass-{NUCLEUS}.zip" in calls
    assert "apt-get install -y default-jre-headless" in calls
    assert calls.index("sha256sum --check") < calls.index("unzip -q")
    assert "-jar" in calls
    assert calls.splitlines()[-1].startswith("systemctl enable --now greengrass")


def test_edge_install_run_again_installs_nothing(folder: Path, aws: None, run: Run, device: dict[str, str]):
    """What is there stays: no package list is read, nothing is downloaded, and no key is used."""
    assert 0 == run("edge-install", "ct")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    there = text.replace("/greengrass/v2/config/effectiveConfig.yaml", str(folder / "config.py"))
    done = subprocess.run(["sh"], input=there, env=device, check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    calls = [line.split()[0] for line in Path(device["CALLS"]).read_text().splitlines()]
    assert {"python3.14", "install", "systemctl"} == set(calls)
    assert "stays as it is" in done.stdout


@pytest.mark.parametrize("digest", [NUCLEUS_SHA256, "0" * 64])
def test_edge_install_takes_the_nucleus_of_its_digest_alone(
    folder: Path, aws: None, run: Run, device: dict[str, str], digest: str
):
    """What is downloaded in the place of the nucleus, or half of it, is not run."""
    tools = Path(device["PATH"])
    (tools / "sha256sum").unlink()
    (tools / "sha256sum").symlink_to(str(shutil.which("sha256sum")))
    given = ("--nucleus", "2.99.0", "--nucleus-sha256", hashlib.sha256(b"nucleus").hexdigest())
    assert 0 == run("edge-install", "ct", *(given if digest == NUCLEUS_SHA256 else ()))[0]
    (tools / "curl").write_text('#!/bin/sh\necho curl "$@" >>"$CALLS"\nprintf nucleus >"$4"\n')
    done = subprocess.run(["sh", "edge-install-ct.txt"], env=device, check=False, capture_output=True, text=True)
    calls = Path(device["CALLS"]).read_text()
    is_right = digest == NUCLEUS_SHA256
    assert (is_right, is_right) == (0 == done.returncode, "-jar" in calls), done.stderr
    assert ("greengrass-2.99.0.zip" in calls) == is_right


@pytest.mark.parametrize(
    "options", [("--nucleus", "2.18.2"), ("--nucleus-sha256", "x"), ("--nucleus", "$(x)", "--nucleus-sha256", "0" * 64)]
)
def test_edge_install_of_a_nucleus_without_its_digest_is_refused(folder: Path, run: Run, options: tuple[str, ...]):
    """Another version needs the digest of its zip; nothing is written without."""
    assert 2 == run("edge-install", "ct", *options)[0]
    assert [] == list(folder.glob("edge-install*"))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--proxy-url", "http://proxy:3128", "--proxy-excludes", "10.0.0.0/8", "--only-port-443", "--fips"),
        ("--systemd", "--store-url", "s3://bucket"),
        ("--systemd", "--store-url", "s3://bucket", "--proxy-url", "http://proxy:3128"),
        ("--uninstall",),
    ],
)
def test_edge_install_is_clean_for_a_shell_checker(folder: Path, aws: None, run: Run, options: tuple[str, ...]):
    """What shellcheck knows to go wrong is not there."""
    assert 0 == run("edge-install", "ct", *options)[0]
    program = Path(sys.executable).with_name("shellcheck")
    command = [program, "--shell=sh", "--exclude=SC3040,SC2024", "edge-install-ct.txt"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "" == done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--windows-service", "--store-url", "s3://bucket", "--own-credentials"),
        ("--windows-service", "--store-url", "s3://bucket", "--proxy-url", "http://proxy:3128"),
        ("--windows",),
        ("--windows", "--proxy-url", "http://proxy:3128", "--fips", "--only-port-443"),
        ("--windows", "--uninstall"),
    ],
)
def test_edge_install_for_windows_is_powershell(folder: Path, aws: None, run: Run, options: tuple[str, ...]):
    """A parser of PowerShell finds no mistake, and everything is in one block that the first failure ends."""
    assert 0 == run("edge-install", "ct", *options)[0]
    text = (folder / "edge-install-ct.txt").read_text()
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse(text.encode()).root_node.has_error
    assert parser.parse(text.replace("{", "", 1).encode()).root_node.has_error  # it sees mistakes
    code = [line for line in text.splitlines() if not line.startswith("#")]
    assert ("& {", "$ErrorActionPreference = 'Stop'", "}") == (code[0], code[1], code[-1])
    assert "spool" not in "".join(line for line in code if "Remove-Item" in line or "$own" in line)


@pytest.mark.parametrize("broken", ["apt-get", "curl", "sha256sum", "unzip", "java"])
def test_edge_install_stops_at_the_first_failure(
    folder: Path, aws: None, run: Run, device: dict[str, str], broken: str
):
    """A download that fails installs nothing half, whether the file is run or its lines are pasted."""
    assert 0 == run("edge-install", "ct")[0]
    if broken == "apt-get":
        without_java(device)
    text = (folder / "edge-install-ct.txt").read_text()
    for command in (["sh", "edge-install-ct.txt"], ["bash"]):
        done = subprocess.run(
            command,
            input=text + "\necho the terminal goes on\n",
            env={**device, "BROKEN": broken},
            check=False,
            capture_output=True,
            text=True,
        )
        calls = Path(device["CALLS"]).read_text().splitlines()
        assert calls[-1].startswith(broken), calls
        assert (command == ["bash"]) == (0 == done.returncode)
        if command == ["bash"]:
            assert "the terminal goes on" in done.stdout


def test_edge_uninstall_leaves_the_spool(folder: Path, run: Run, device: dict[str, str]):
    """The commands need neither AWS nor credentials, and delete neither work folder nor spool."""
    assert 0 == run("edge-install", "ct", "--uninstall")[0]
    text = (folder / "edge-install-ct.txt").read_text()
    assert SECRET.search(text) is None
    done = subprocess.run(["sh", "edge-install-ct.txt"], env=device, check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    calls = Path(device["CALLS"]).read_text()
    assert "systemctl disable --now greengrass" in calls
    for line in calls.splitlines():
        if line.startswith(("rm ", "find ")):
            assert "spool" not in line
            assert "/var/lib/dicomflow" not in line or "-maxdepth 1 -name device.* -delete" in line
    assert "! -name work" in calls


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
    given = ("--systemd", "--own-credentials", "--store-url", "s3://bucket", "--output", folder / "it.sh")
    code, _, _ = run("edge-install", "mr", *given)
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
    given = ("--windows-service", "--own-credentials", "--store-url", "s3://bucket", "--output", folder / "it.ps1")
    code, _, _ = run("edge-install", "mr", *given)
    assert 0 == code
    text = (folder / "it.ps1").read_text()
    (settings,) = re.findall(r"\$settings = @'\n(.*?)'@\n", text, re.DOTALL)
    assert r"C:\ProgramData\dicomflow\spool" == tomllib.loads(settings)["spool"]["dir"]


@pytest.mark.parametrize(
    "options",
    [
        ("--systemd",),
        ("--systemd", "--windows-service", "--store-url", "s3://b"),
        ("--systemd", "--store-url", "b"),
        ("--windows", "--own-credentials"),
        ("--proxy-url", "http://a b"),
        ("--proxy-url", "http://$(x)"),
        ("--proxy-excludes", "a, b"),
    ],
)
def test_edge_install_called_wrongly_exits_2(folder: Path, run: Run, options: tuple[str, ...]):
    """Two kinds of service at once, one without a bucket, or a proxy that is none is a wrong call."""
    assert 2 == run("edge-install", "ct", *options)[0]
