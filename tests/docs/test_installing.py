"""What docs/install.md sets up: the unit, and the container, as far as they can be tried without root and Docker."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dicomflow import cli

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "packaging" / "local"
PROGRAM = "/opt/dicomflow/bin/dicomflow"


def test_unit_is_one_that_systemd_takes(tmp_path: Path):
    """The checker of systemd itself has nothing to say of any line."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "dicomflow-local.service"
    text = (LOCAL / unit.name).read_text(encoding="utf-8")
    assert PROGRAM in text
    unit.write_text(text.replace(PROGRAM, sys.executable))
    checked = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert (0, "") == (checked.returncode, checked.stderr)


def test_containers_lines_name_what_there_is():
    """What is copied is in the repository and in the context, and the entry is a command with its options."""
    text = (LOCAL / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    copied = [name for line in re.findall(r"^COPY (.*)", text, re.MULTILINE) for name in line.split()[:-1]]
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert [] == [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in context]
    entry = re.search(r"^ENTRYPOINT (.*)", text, re.MULTILINE)
    assert entry is not None
    program, command, option, folder = json.loads(entry[1])
    assert ("dicomflow", f"VOLUME {folder}") == (
        program,
        f"VOLUME {re.findall(r'^VOLUME (.*)', text, re.MULTILINE)[0]}",
    )
    assert option in {each for parameter in cli.load_command(command).params for each in parameter.opts}
    compose = (LOCAL / "compose.yaml").read_text(encoding="utf-8")
    assert f"data:{folder}" in compose
    assert (LOCAL / re.findall(r"context: (.*)", compose)[0] / re.findall(r"dockerfile: (.*)", compose)[0]).exists()
