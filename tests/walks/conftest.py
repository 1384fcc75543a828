"""A stranger's machine: a fresh clone, an environment made as the documents say, and nothing of ours beside it.

These take minutes, so that they run where DICOMFLOW_TEST_WALKS=1 says so, as `.ci/run` does.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from systemd_unit import STRANGER

ROOT = Path(__file__).resolve().parents[2]
IS_ON = os.environ.get("DICOMFLOW_TEST_WALKS") == "1"
HAS_DEBIAN = os.environ.get("DICOMFLOW_TEST_DEBIAN") == "1"
# Where this machine's packages come from is its own business, and so is its proxy.
_KEPT = ("PIP_", "UV_", "NPM_", "npm_", "HTTP_", "HTTPS_", "NO_", "http_", "https_", "no_", "SSL_", "NODE_EXTRA_CA")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the walks out unless they are asked for, and keep those of a file in one process: they share a clone."""
    folder = f"{Path(__file__).parent}{os.sep}"
    walks = [item for item in items if str(item.path).startswith(folder)]
    for item in walks:
        item.add_marker(pytest.mark.timeout(1200))
        item.add_marker(pytest.mark.xdist_group(f"walks of {item.path.stem}"))
    left_out = [item for item in walks if not IS_ON or (not HAS_DEBIAN and item.path.stem == "test_debian")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class Machine:
    """A clone in a folder with a blank and a letter that is not ASCII, of a user who is not us where we are root."""

    clone: Path
    home: Path
    user: str | None

    def run(
        self, *command: str | Path, cwd: Path | None = None, timeout: int = 900, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the stranger, with a bare environment and the variables given."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        python = str(Path(sys.base_prefix) / "bin")
        values = {"HOME": str(self.home), "PATH": f"{python}:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHON": "python3"}
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd or self.clone,
            env={**kept, **values, **environment},
            user=self.user,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )


def _give(path: Path, user: str | None) -> Path:
    if user is not None:
        entry = pwd.getpwnam(user)
        for each in (path, *path.rglob("*")):
            os.chown(each, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    return path


def _clone(target: Path) -> Path:
    """Copy what git knows and what is new: what a clone of the next commit has."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def new_machine() -> Iterator[Callable[[str], Machine]]:
    """Give a machine of a name, with a clone and an empty home; pytest's own folders are closed to other users."""
    user = STRANGER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="Kölner Klinik ") as temporary:
        Path(temporary).chmod(0o755)

        def make(name: str) -> Machine:
            folder = Path(temporary) / name
            clone = _clone(folder / "dicomflow")
            (folder / "home").mkdir()
            _give(folder, user)
            return Machine(clone, folder / "home", user)

        yield make


@pytest.fixture(scope="session")
def deployer(new_machine: Callable[[str], Machine]) -> Machine:
    """Give the computer of the hospital's engineer who deploys."""
    return new_machine("deploy")


@pytest.fixture(scope="session")
def synthesised(deployer: Machine) -> subprocess.CompletedProcess[str]:
    """Run the documented command in a fresh clone, once, with a name that has a hyphen, from another folder."""
    config = deployer.clone / "config.py"
    config.write_text(
        re.sub(r'^CDK_APP_NAME = "iep"', 'CDK_APP_NAME = "iep-01"', config.read_text(), flags=re.MULTILINE)
    )
    return deployer.run(deployer.clone / "scripts" / "deploy", "synth", cwd=deployer.home)


@pytest.fixture(scope="session")
def edge_zip(synthesised: subprocess.CompletedProcess[str], deployer: Machine) -> Path:
    """Make the zip of an edge without Greengrass, as documented, once."""
    assert 0 == synthesised.returncode, synthesised.stderr[-3000:]
    done = deployer.run(".venv/bin/python", "-m", "infra.greengrass", "linux-amd64")
    assert 0 == done.returncode, done.stderr[-3000:]
    return deployer.clone / "dist" / "dicomflow-edge-linux-amd64.zip"
