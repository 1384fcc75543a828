"""Those who run it on one machine: the profile `run`, and the wheel alone with each of its extras."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS = {
    "": [],
    "edge": ["edge", "send", "spool", "ledger"],
    "pipeline": ["migrate", "status", "query", "worker", "imports", "catalog"],
    "pipeline,console": ["console"],
    "pipeline,console,simulator": ["simulator"],
    "edge,pipeline,console,simulator": ["local", "doctor"],
}


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


@pytest.mark.parametrize("extras", COMMANDS, ids=lambda extras: extras or "bare")
def test_wheel_with_an_extra_has_its_commands(wheel: tuple[Any, Path], extras: str):
    """Installed from the wheel alone, each command of an extra shows its help; the bare one lists all commands."""
    machine, built = wheel
    environment = machine.home / f"venv {extras or 'bare'}"
    target = f"{built}[{extras}]" if extras else str(built)
    constraints = machine.clone / "constraints.txt"
    assert 0 == machine.run("python3", "-m", "venv", environment).returncode
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, target]
    done = machine.run(*pip, cwd=machine.home)
    assert 0 == done.returncode, done.stderr[-2000:]
    program = environment / "bin" / "dicomflow"
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS[extras])):
        done = machine.run(program, *arguments, cwd=machine.home)
        assert 0 == done.returncode, (arguments, done.stderr[-2000:])


def test_interpreter_of_the_walks_is_not_the_tests_own(wheel: tuple[Any, Path]):
    """A walk that found our own packages would prove nothing."""
    machine, _ = wheel
    done = machine.run("python3", "-c", "import dicomflow", cwd=machine.home)
    assert 0 != done.returncode
    assert os.fspath(Path(sys.prefix)) not in machine.run("sh", "-c", "echo $PATH").stdout
