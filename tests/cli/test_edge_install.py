"""`dicomflow edge-install`: commands that a device's operator can paste, and secrets that nobody else reads."""

import hashlib
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_powershell

from dicomflow.cli.nucleus import NUCLEUS, NUCLEUS_SHA256
from dicomflow.edge.settings import load_settings

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[2]
STORE = ("--store-url", "s3://bucket")
SECRET = re.compile(r"AWS_SECRET_ACCESS_KEY|PRIVATE KEY")


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
    for name in ("bash", "cat", "cp", "mktemp", "sh"):
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


def test_edge_install_runs_to_its_end_on_a_device(folder: Path, iot: Any, run: Run, device: dict[str, str]):
    """Java, unzip and Python come, then a nucleus of a version that is named; the shell runs it as a file."""
    without_java(device)
    assert 0 == run("edge-install", "ct")[0]
    done = subprocess.run(["sh", "edge-install-ct.txt"], env=device, check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    calls = Path(device["CALLS"]).read_text()
    assert f"greengrass-{NUCLEUS}.zip" in calls
    assert "apt-get install -y default-jre-headless" in calls
    assert calls.index("sha256sum --check") < calls.index("unzip -q")
    assert calls.index("/greengrass/v2/privKey.key") < calls.index("/greengrass/v2/rootCA.pem") < calls.index("-jar")
    assert calls.splitlines()[-1].startswith("systemctl enable --now greengrass")


def test_edge_install_run_again_installs_nothing(folder: Path, iot: Any, run: Run, device: dict[str, str]):
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
    folder: Path, iot: Any, run: Run, device: dict[str, str], digest: str
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
def test_edge_install_is_clean_for_a_shell_checker(folder: Path, iot: Any, run: Run, options: tuple[str, ...]):
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
def test_edge_install_for_windows_is_powershell(folder: Path, iot: Any, run: Run, options: tuple[str, ...]):
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
def test_edge_install_stops_at_the_first_failure(folder: Path, iot: Any, run: Run, device: dict[str, str], broken: str):
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


@pytest.mark.parametrize("kind", [(), ("--windows",), ("--systemd", *STORE), ("--windows-service", *STORE)])
def test_edge_install_gives_the_device_one_edges_certificate_and_no_credentials(
    folder: Path, iot: Any, run: Run, kind: tuple[str, ...]
):
    """The file has the key of a certificate that is this edge's and under its policy; no right to make another."""
    (folder / "edge-install-ct.txt").write_text("of another day")
    (folder / "edge-install-ct.txt").chmod(0o644)
    code, output, errors = run("edge-install", "ct", *kind)
    assert (0, "") == (code, errors)
    assert "PRIVATE KEY" not in output
    path = folder / "edge-install-ct.txt"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    text = path.read_text()
    assert "delete it when the device is installed" in text
    assert re.search(r"AWS_SECRET|SESSION_TOKEN|provision", text) is None
    (arn,) = iot.list_thing_principals(thingName="hospital-ct")["principals"]
    made = iot.describe_certificate(certificateId=arn.rpartition("/")[2])["certificateDescription"]
    assert ("ACTIVE", True) == (made["status"], made["certificatePem"].strip() in text)
    policies = iot.list_attached_policies(target=arn)["policies"]
    assert ["hospital-ct-GG-Thing"] == [each["policyName"] for each in policies]
    grouped = iot.list_things_in_thing_group(thingGroupName="hospital-IEP-devices")["things"]
    assert (["hospital-ct"] if kind in {(), ("--windows",)} else []) == grouped


@pytest.mark.parametrize("kind", [(), ("--windows",), ("--systemd", *STORE), ("--windows-service", *STORE)])
def test_edge_that_has_a_certificate_gets_no_other(
    folder: Path, iot: Any, run: Run, device: dict[str, str], kind: tuple[str, ...]
):
    """A second file has no secret; on a machine without the certificate it ends before anything is installed."""
    assert 0 == run("edge-install", "ct", *kind)[0]
    before = iot.list_thing_principals(thingName="hospital-ct")["principals"]
    code, output, _ = run("edge-install", "ct", *kind)
    assert (0, True) == (code, "dicomflow edge-remove ct --force" in output)
    text = (folder / "edge-install-ct.txt").read_text()
    assert SECRET.search(text) is None
    assert before == iot.list_thing_principals(thingName="hospital-ct")["principals"]
    if not kind:
        done = subprocess.run(["sh", "edge-install-ct.txt"], env=device, check=False, capture_output=True, text=True)
        assert (1, True) == (done.returncode, "dicomflow edge-remove ct --force" in done.stderr)
        assert "-jar" not in Path(device["CALLS"]).read_text()


def test_certificate_that_is_refused_leaves_none(folder: Path, iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch):
    """One line names what is refused, no file is written, and the next call begins anew; so where nobody answers."""
    code, _, errors = run("edge-install", "mr")
    assert (1, True) == (code, "AWS refuses AttachPolicy for hospital-mr: ResourceNotFoundException" in errors)
    assert [] == list(folder.glob("edge-install*"))
    iot.create_policy(policyName="hospital-mr-GG-Thing", policyDocument="{}")
    assert 0 == run("edge-install", "mr")[0]
    assert SECRET.search((folder / "edge-install-mr.txt").read_text()) is not None
    assert 2 == run("edge-install", "ct", "--output", folder / "none" / "it.txt")[0]
    assert "hospital-ct" not in {each["thingName"] for each in iot.list_things()["things"]}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, _, errors = run("edge-install", "ct")
    assert (1, True) == (code, "AWS cannot be asked for a certificate" in errors)


def test_settings_follow_config_until_they_are_changed_on_the_machine(folder: Path, run: Run, device: dict[str, str]):
    """Run again, `--systemd` brings what config.py says now; a file that somebody wrote in stays, with ours beside."""
    tools = Path(device["PATH"])
    for name in ("cmp", "sha256sum", "tee", "cat", "mv", "rm", "install", "test"):
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(str(shutil.which(name)))
    for place in ("etc/dicomflow", "etc/systemd/system", "opt/dicomflow", "usr/local/bin", "var/lib"):
        (folder / place).mkdir(parents=True)
    shutil.copy(ROOT / "greengrass" / "dicomflow-edge.service", folder / "opt/dicomflow")
    (folder / "opt/dicomflow/python.sh").write_text("exit 0\n")
    there = folder / "etc/dicomflow/edge.toml"

    def install(port: int) -> str:
        settings = f'"settings": {{"dimse": {{"port": {port}}}}}'
        (folder / "config.py").write_text(f'CDK_APP_NAME = "hospital"\nEDGE_CONFIG = [{{"Name": "mr", {settings}}}]\n')
        assert 0 == run("edge-install", "mr", "--systemd", "--own-credentials", *STORE)[0]
        text = (folder / "edge-install-mr.txt").read_text().replace("-o dicomflow -g dicomflow ", "")
        text = re.sub(r"/(?=(etc|opt|usr|var)/)", f"{folder}/", text)
        done = subprocess.run(["sh"], input=text, env=device, check=False, capture_output=True, text=True)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    for port in (104, 104, 105):
        assert "changed on this machine" not in install(port)
        assert port == load_settings(there).dimse.port
    there.write_text(there.read_text().replace("105", "106"))
    assert "edge.toml.new" in install(107)
    assert (106, 107) == (load_settings(there).dimse.port, load_settings(there.with_suffix(".toml.new")).dimse.port)
    there.write_text(there.with_suffix(".toml.new").read_text())
    assert "changed on this machine" not in install(107)
    assert not there.with_suffix(".toml.new").exists()


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
    assert "AWS cannot be asked for a certificate" in errors
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
