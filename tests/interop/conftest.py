"""One receiver for all tests of this folder, and DCMTK's programs."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomflow import samples


@pytest.fixture(scope="session")
def receiver(local_daemon_factory: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give one `dicomflow local` for all tests: each sends studies of its own."""
    daemon = local_daemon_factory(tmp_path_factory.mktemp("interop"))
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of DCMTK's programs with Nagle's algorithm off, as any serious sender has it."""

    def _dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"DCMTK's {program} is not installed (package dcmtk)")
        return subprocess.run(
            [found, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=240,
            env={**os.environ, "TCP_NODELAY": "1"},
        )

    return _dcmtk


@pytest.fixture
def study(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ...]:
    """Give the files of a CT study that no other test has: two series of five."""
    seed = int.from_bytes(request.node.nodeid.encode()) % (1 << 61)
    return samples.write(samples.ct_study(seed, slices=5), tmp_path / "study")
