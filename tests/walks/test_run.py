"""Those who run it on one machine: the profile `run`, and the wheel alone with each of its extras."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXTRAS = {
    "bare": [],
    "edge": ["edge", "send", "spool", "ledger", "edge-certificate"],
    "pipeline": ["migrate", "status", "query", "worker", "imports", "catalog"],
    "console": ["console"],
    "simulator": ["simulator"],
    "local": ["local", "doctor"],
}
"""By what is installed on top of what was before, the commands that work then."""
ENVIRONMENTS = [["bare", "edge"], ["pipeline", "console", "simulator", "local"]]
"""Each begins anew: edge and pipeline work without each other's packages."""


def test_demo_in_a_fresh_clone_shows_every_table(new_machine: Callable[[str], Any]):
    """`scripts/demo`, which makes the profile `run`, sends its study through everything and ends with 0."""
    machine = new_machine("demo")
    done = machine.run("scripts/demo", LC_ALL="C")
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Ahliimageset" in done.stdout


@pytest.fixture(scope="session")
def wheel(new_machine: Callable[[str], Any]) -> tuple[Any, Path]:
    """Build the wheel from a clone, with pip's own build environment."""
    machine = new_machine("wheel")
    folder = machine.home / "wheels"
    done = machine.run("python3", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ".")
    assert 0 == done.returncode, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return machine, built


@pytest.mark.parametrize("steps", ENVIRONMENTS, ids="+".join)
def test_wheel_with_an_extra_has_its_commands(wheel: tuple[Any, Path], steps: list[str]):
    """Installed from the wheel alone, each command of an extra shows its help; the bare one lists all commands."""
    machine, built = wheel
    environment = machine.home / f"venv {steps[0]}"
    assert 0 == machine.run("python3", "-m", "venv", environment).returncode
    program = environment / "bin" / "dicomflow"
    extras: list[str] = []
    for step in steps:
        extras += {"bare": [], "local": ["edge"]}.get(step, [step])
        target = f"{built}[{','.join(extras)}]" if extras else str(built)
        constraints = machine.clone / "constraints.txt"
        pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, target]
        done = machine.run(*pip, cwd=machine.home)
        assert 0 == done.returncode, done.stderr[-2000:]
        for arguments in (["--help"], *([command, "--help"] for command in EXTRAS[step])):
            done = machine.run(program, *arguments, cwd=machine.home)
            assert 0 == done.returncode, (arguments, done.stderr[-2000:])


def test_interpreter_of_the_walks_is_not_the_tests_own(wheel: tuple[Any, Path]):
    """A walk that found our own packages would prove nothing."""
    machine, _ = wheel
    done = machine.run("python3", "-c", "import dicomflow", cwd=machine.home)
    assert 0 != done.returncode
    assert os.fspath(Path(sys.prefix)) not in machine.run("sh", "-c", "echo $PATH").stdout
