"""The edge without Greengrass: what of its unit can be tried without a machine that runs systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "greengrass" / "dicomflow-edge.service"


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
