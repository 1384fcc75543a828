"""The edge without Greengrass: the commands of `edge-install`, the unit, the container's file, run on this machine.

Its folders stand in a scratch folder in the place of `/`, by a replacement in the texts; sudo, useradd and systemctl
are stand-ins (no systemd runs here, no user is made), so that what a device's own would refuse is not seen. All else is
the device's: the shell, the zip, the Python, another user without groups, a bare environment.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from systemd_unit import PLACES, STRANGER, below
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import samples
from dicomflow.edge.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "greengrass" / "dicomflow-edge.service"
SYSTEMD = ROOT / "tests" / "support" / "systemd_unit.py"
THING = "iep-01-edge-1"
SUDO = """\
#!/bin/sh
# As sudo does: another user, and nothing of the caller's environment but the way to AWS.
user=''
while [ "$1" = -u ]; do user=$2; shift 2; done
if [ -n "$user" ] && [ "$(id -u)" = 0 ]; then set -- setpriv --reuid USER --regid nogroup --clear-groups "$@"; fi
exec env -i PATH="$PATH" ${AWS_ENDPOINT_URL:+AWS_ENDPOINT_URL="$AWS_ENDPOINT_URL"} "$@"
"""
SYSTEMCTL = """\
#!/bin/sh
case "$1" in
    cat) [ "$2" = dicomflow-edge ] ;;
    restart) UNIT_PATH="$PATH" exec "PYTHON" "PROGRAM" restart "UNITS/$2.service" USER "ROOT" ;;
    disable) exec "PYTHON" "PROGRAM" stop "UNITS/$3.service" ;;
esac
"""


@dataclass(frozen=True)
class Device:
    """A machine with nothing of ours: a folder in the place of `/`, and the ports that its edge has."""

    root: Path
    port: int
    http_port: int

    @property
    def path(self) -> str:
        """Where programs are: the stand-ins, the system's, and at last those of the tests' Python."""
        return f"{self.root}/tools:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{Path(sys.base_prefix) / 'bin'}"

    def text(self, text: str) -> str:
        """Return commands with this device's folders and port in the places of theirs."""
        text = below(text, self.root).replace("127.0.0.1:8080", f"127.0.0.1:{self.http_port}")
        user = f"-o {STRANGER} -g nogroup" if os.geteuid() == 0 else ""
        return text.replace("-o dicomflow -g dicomflow", user).replace("dicomflow:dicomflow", _owner())

    def run(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run commands in a plain sh, from the folder that the zip lies in."""
        return subprocess.run(
            ["sh"],
            input=self.text(text),
            cwd=self.root,
            env={"PATH": self.path, "LANG": "C", "TZ": "Asia/Kathmandu", **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )

    def send(self, folder: Path) -> int:
        """Send a study to the edge, and return how many images it acknowledged: all, or the test fails."""
        paths = samples.write(samples.ct_study(3, slices=2), folder)
        command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(self.port), *map(str, paths)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert 0 == done.returncode, done.stdout + done.stderr
        return len(paths)

    def is_ready(self) -> bool:
        """Tell whether the edge says that it receives."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/readyz", timeout=10):
                return True
        except OSError:
            return False


def _owner() -> str:
    return f"{STRANGER}:nogroup" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


@pytest.fixture
def device(edge_zip: Path) -> Iterator[Device]:
    """Give a device with the zip beside; its path has no blank, which the unit could not hold."""
    with tempfile.TemporaryDirectory(prefix="device-") as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        shutil.copy(edge_zip, root)
        for place in (*PLACES, "/tools"):
            (root / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / "etc/systemd/system").mkdir()
        (root / "tools").mkdir()
        values = {"USER": STRANGER, "PYTHON": sys.executable, "PROGRAM": SYSTEMD}
        values |= {"UNITS": root / "etc/systemd/system", "ROOT": root}
        programs = {"sudo": SUDO, "systemctl": SYSTEMCTL, "useradd": "#!/bin/sh\n"}
        programs["python"] = '#!/bin/sh\nexec python3 "$@"\n'  # an image of Python's has the short name
        for name, text in programs.items():
            for word, value in values.items():
                text = re.sub(rf"(?<![\w$]){word}\b", str(value), text)  # noqa: PLW2901  # filled in
            (root / "tools" / name).write_text(text)
            (root / "tools" / name).chmod(0o755)
        port, http_port = free_ports(2)
        made = Device(root, port, http_port)
        yield made
        made.run("systemctl disable --now dicomflow-edge")


@pytest.fixture
def aws() -> Iterator[str]:
    """Serve STS and IoT with the policy that the stack makes."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    iot = boto3.client("iot", endpoint_url=f"http://{host}:{port}", **keys)
    with urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", b"", timeout=10):  # all servers share a memory
        pass
    iot.create_policy(policyName=f"{THING}-GG-Thing", policyDocument="{}")
    yield f"http://{host}:{port}"
    server.stop()


def _environment_file(device: Device, **more: object) -> None:
    """Write what an operator may have there before: this machine's other users have the usual ports."""
    folder = device.root / "etc/dicomflow"
    folder.mkdir(exist_ok=True)
    values = {"DICOMFLOW_EDGE__DIMSE__PORT": device.port, "DICOMFLOW_EDGE__HTTP_PORT": device.http_port, **more}
    (folder / "environment").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    (folder / "environment").chmod(0o600)


def test_systemd_edge_is_installed_upgraded_and_removed(deployer: Any, device: Device, aws: str, tmp_path: Path):
    """`edge-install --systemd` to the last line: key, settings, the unit's own ExecStart, images, twice.

    Another time zone, LANG=C, no HOME, user `nobody` with the unit's capabilities, folder `/`, a stack's name with a
    hyphen. AWS is away from the device: nothing asks it, and images are received all the same.
    """
    call = (".venv/bin/dicomflow", "edge-install", "edge-1", "--systemd", "--store-url", "s3://bucket")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    written = deployer.run(*call, AWS_ENDPOINT_URL=aws, **keys)
    assert 0 == written.returncode, written.stderr
    commands = (deployer.clone / "edge-install-edge-1.txt").read_text(encoding="utf-8")
    _environment_file(device, AWS_REGION="us-east-1")
    done = device.run(commands)
    log = device.root / "etc/systemd/system/dicomflow-edge.log"
    assert 0 == done.returncode, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    work = device.root / "var/lib/dicomflow"
    settings = load_settings(device.root / "etc/dicomflow/edge.toml")
    assert settings.delivery.credentials is not None
    assert (work / "device.pem", work / "device.key") == (
        settings.delivery.credentials.certificate,
        settings.delivery.credentials.key,
    )
    certificate = (work / "device.pem").read_bytes()
    sent = device.send(tmp_path / "first")

    again = device.run(commands)
    assert 0 == again.returncode, again.stdout + again.stderr
    assert certificate == (work / "device.pem").read_bytes()
    assert "installed already" in again.stdout
    sent += device.send(tmp_path / "second")
    if os.geteuid() == 0:
        spool = {path.owner() for path in (work / "spool").rglob("*")}
        assert {STRANGER} == spool
        assert {"root"} == {path.owner() for path in (device.root / "opt/dicomflow").rglob("*")}
    assert sent

    removal = deployer.run(".venv/bin/dicomflow", "edge-install", "edge-1", "--uninstall")
    assert 0 == removal.returncode, removal.stderr
    gone = device.run((deployer.clone / "edge-install-edge-1.txt").read_text(encoding="utf-8"))
    assert 0 == gone.returncode, gone.stdout + gone.stderr
    assert not device.is_ready()
    assert not (device.root / "opt/dicomflow").exists()
    assert not (work / "device.key").exists()
    assert f"may be in {work}/spool" in gone.stdout
    assert list((work / "spool").rglob("*"))


def _instructions() -> dict[str, list[str]]:
    """Return the container file's instructions by their names, lines that go on joined."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "greengrass" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def test_container_files_lines_make_an_edge_that_receives(device: Device, tmp_path: Path):
    """COPY, RUN, USER, ENTRYPOINT and HEALTHCHECK one after the other, without Docker, whose daemon needs root's all.

    The image's Python is this machine's; layers, volume and port are Docker's own and not tried.
    """
    lines = _instructions()
    assert {"FROM", "ARG", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"} == lines.keys()
    (copied,) = lines["COPY"]
    source, target = copied.replace("${PLATFORM}", "linux-amd64").split()
    assert (device.root / source).exists()
    (run,) = lines["RUN"]
    zip_here = device.root / "edge.zip"
    shutil.copy(device.root / source, zip_here)
    built = device.run(f"set -e\n{run.replace(target, str(zip_here))}")
    assert 0 == built.returncode, built.stdout + built.stderr
    assert not zip_here.exists()
    _environment_file(device)
    settings = device.root / "etc/dicomflow/edge.toml"
    settings.write_text(
        f'name = "{THING}"\nhttp_port = {device.http_port}\n[dimse]\nport = {device.port}\n'
        f'[spool]\ndir = "{device.root}/var/lib/dicomflow/spool"\n[delivery]\nstore_url = "s3://bucket"\n'
    )
    entry = json.loads(device.text(lines["ENTRYPOINT"][0]))
    user: dict[str, Any] = {"user": STRANGER, "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {"PATH": device.path, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(entry, cwd="/", env=environment, stdout=log, stderr=log, **user)
    try:
        wait_for(device.is_ready, explain=(tmp_path / "log").read_text)
        assert 4 <= device.send(tmp_path / "study")
        check = json.loads(device.text(lines["HEALTHCHECK"][0].partition("CMD ")[2]))
        asked = subprocess.run(check, env=environment, check=False, timeout=WAIT_SECONDS)
        assert 0 == asked.returncode
    finally:
        process.terminate()
        assert 0 == process.wait(WAIT_SECONDS)


@pytest.mark.parametrize("change", ["", "RestartSec=2 apples"])
def test_unit_is_one_that_systemd_takes(tmp_path: Path, change: str):
    """The checker of systemd itself has nothing to say of any line; of a wrong one it has."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("RestartSec=2", change or "RestartSec=2"))
    done = subprocess.run([program, "verify", "--man=no", unit], check=False, capture_output=True, text=True)
    assert bool(change) == (UNIT.name in done.stderr), done.stderr
