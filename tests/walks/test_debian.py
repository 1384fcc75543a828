"""The edge without Greengrass on a Debian of its own: a system made by debootstrap, booted with its own systemd.

Nothing is a stand-in but the machine: users, sudo, apt's Python, the unit with all that it forbids, the journal, a
reboot. The network is this machine's, so that the edge's ports are free ones. Where no container may be booted, as in
most containers, the file is left out: `.ci/run` asks with DICOMFLOW_TEST_DEBIAN=1 and says so.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_SECONDS, free_ports, wait_for

from dicomflow import samples

PACKAGES = "systemd,systemd-sysv,dbus,sudo,curl,unzip,python3,python3-venv,ca-certificates"
SECONDS = 900
MIRROR = "http://deb.debian.org/debian"


class Debian:
    """A booted system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = root.with_suffix(".log")
        self._container: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start its systemd, and wait until all that starts with it has."""
        options = ["--quiet", "--register=no", "--keep-unit", "--console=pipe", "--boot"]
        with self._log.open("ab") as log:
            self._container = subprocess.Popen(
                ["systemd-nspawn", *options, "-D", self.root],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self.is_up, explain=lambda: self._log.read_text(errors="replace")[-2000:])

    def is_up(self) -> bool:
        """Tell whether the system has started."""
        return self._init() is not None and self.run("systemctl is-system-running").stdout.strip() == "running"

    def off(self) -> None:
        """Cut its power."""
        first = self._init()
        if first is not None:
            os.kill(first, signal.SIGKILL)  # with it ends all that it started
        if self._container is not None:
            self._container.wait(WAIT_SECONDS)

    def run(self, text: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run commands in a login shell of a user."""
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"]
        return subprocess.run(
            ["nsenter", "--target", str(self._init()), "--all", *environment, "su", "-", user, "-c", text],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def must(self, text: str, user: str = "root") -> str:
        """Run commands that succeed, and return what they print."""
        done = self.run(text, user)
        assert 0 == done.returncode, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _init(self) -> int | None:
        """Return the number that this machine knows the system's first process by."""
        if self._container is None:
            return None
        found = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children")
        numbers = found.read_text().split() if found.exists() else []
        return int(numbers[0]) if numbers else None


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    """Make a Debian and boot it, with an engineer who may use sudo."""
    with tempfile.TemporaryDirectory(prefix="debian-", ignore_cleanup_errors=True) as temporary:
        root = Path(temporary) / "root"
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, MIRROR]
        made = subprocess.run(make, check=False, capture_output=True, text=True, timeout=SECONDS)
        assert 0 == made.returncode, made.stdout[-2000:] + made.stderr[-2000:]
        (root / "etc/hostname").write_text("edge-machine\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost edge-machine\n")
        (root / "etc/sudoers.d/engineer").write_text("engineer ALL=(ALL) NOPASSWD: ALL\n")
        system = Debian(root)
        system.boot()
        try:
            system.must("useradd --create-home engineer")
            yield system
        finally:
            system.off()


def _send(port: int, folder: Path) -> int:
    paths = samples.write(samples.ct_study(3, slices=2), folder)
    command = [sys.executable, "-m", "dicomflow", "send", "127.0.0.1", str(port), *map(str, paths)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert 0 == done.returncode, done.stdout + done.stderr
    return len(paths)


def _is_ready(http_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/readyz", timeout=10):
            return True
    except OSError:
        return False


def test_edge_lives_on_a_debian_of_its_own(debian: Debian, deployer: Any, edge_zip: Path, tmp_path: Path):
    """`edge-install --systemd`, images, a killed edge, a power cut, an upgrade, the removal; the spool stays."""
    port, http_port = free_ports(2)
    (debian.root / "etc/dicomflow").mkdir()
    (debian.root / "etc/dicomflow/environment").write_text(
        f"DICOMFLOW_EDGE__DIMSE__PORT={port}\nDICOMFLOW_EDGE__HTTP_PORT={http_port}\nAWS_REGION=eu-central-1\n"
    )
    home = debian.root / "home/engineer"
    call = ["edge-install", "edge-1", "--stack", "iep-01", "--region", "eu-central-1", "--systemd", "--own-credentials"]
    written = deployer.run(".venv/bin/dicomflow", *call, "--store-url", "s3://bucket")
    assert 0 == written.returncode, written.stderr
    commands = (deployer.clone / "edge-install-edge-1.txt").read_text(encoding="utf-8")
    (home / "edge-install-edge-1.txt").write_text(commands.replace("127.0.0.1:8080", f"127.0.0.1:{http_port}"))
    shutil.copy(edge_zip, home)

    installed = debian.must("sh edge-install-edge-1.txt", "engineer")
    assert installed.rstrip().endswith("ready"), installed
    assert "dicomflow" == debian.must("stat -c %U /proc/$(systemctl show -P MainPID dicomflow-edge)").strip()
    sent = _send(port, tmp_path / "first")

    killed = debian.must("systemctl show -P MainPID dicomflow-edge").strip()
    debian.must(f"kill -KILL {killed}")
    wait_for(lambda: _is_ready(http_port) and killed != debian.must("systemctl show -P MainPID dicomflow-edge").strip())
    sent += _send(port, tmp_path / "second")

    debian.off()
    debian.boot()
    wait_for(lambda: _is_ready(http_port), explain=lambda: debian.must("journalctl -u dicomflow-edge -n 30"))
    assert f'"port": {port}' in debian.must("journalctl -u dicomflow-edge | grep edge_started", "root")

    again = debian.must("sh edge-install-edge-1.txt", "engineer")
    assert "installed already" in again
    for command in ("spool list", "commitments list"):
        debian.must(f"dicomflow {command} --config /etc/dicomflow/edge.toml", "engineer")
    assert "aws" in debian.run("dicomflow doctor --config /etc/dicomflow/edge.toml", "engineer").stdout.lower()

    removal = deployer.run(".venv/bin/dicomflow", "edge-install", "edge-1", "--uninstall", "--systemd")
    assert 0 == removal.returncode, removal.stderr
    (home / "uninstall.txt").write_text((deployer.clone / "edge-install-edge-1.txt").read_text(encoding="utf-8"))
    gone = debian.must("sh uninstall.txt", "engineer")
    assert "may be in /var/lib/dicomflow/spool" in gone
    assert not _is_ready(http_port)
    assert 0 != debian.run("systemctl cat dicomflow-edge").returncode
    assert 0 != debian.run("command -v dicomflow", "engineer").returncode
    kept = list((debian.root / "var/lib/dicomflow/spool").rglob("*.dcm"))
    assert sent <= 2 * len(kept), "each study was sent twice under the same UIDs"
