"""The edge as a component of a device: install, run and stop it; Greengrass, systemd and Windows call nothing else.

Runs on the device's own Python with the standard library alone, from the folder of the unpacked artifact, which is
never written to. All that a device keeps is in the work folder:

    environments/{hash}/   a virtual environment for each artifact that was installed; the last two are kept
    current                the name of the one in use
    dicomflow              the command line of that environment, for the operator; on Linux
    edge.toml              the settings, written at each start from the component's configuration
    edge.pid               the process that runs
    spool/                 what is received and not stored yet, unless the settings say another place

So an upgrade and a rollback change the environment and leave the spool as it is. Installing again what is installed
changes nothing and takes no time, since Greengrass installs at each of its starts.
"""

from __future__ import annotations  # an older Python must be able to say that it is too old

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ARTIFACT = Path(__file__).resolve().parent
WHEELS = ARTIFACT / "wheels"
REQUIREMENTS = ARTIFACT / "requirements.txt"
PYTHONS = ARTIFACT / "pythons.txt"
KEPT_ENVIRONMENTS = 2
STOP_SECONDS = 25
POLL_SECONDS = 0.1
SETTINGS_VARIABLE = "EDGE_SETTINGS"
OWN_SETTINGS_VARIABLE = "EDGE_OWN_SETTINGS"
IS_WINDOWS = os.name == "nt"
USAGE = "usage: component.py check | install WORK | run WORK [EDGE_TOML] | stop WORK"
COMMAND = """\
#!/bin/sh
# dicomflow as the edge of this folder has it, such as: dicomflow spool list --config edge.toml
work=$(cd "$(dirname "$0")" && pwd)
exec "$work/environments/$(cat "$work/current")/bin/python" -m dicomflow "$@"
"""


class ComponentError(Exception):
    """What the device's operator has to change."""


def main(arguments: list[str]) -> int:
    """Run one step and return its exit code."""
    try:
        if arguments == ["check"]:
            check()
        elif len(arguments) == 2 and arguments[0] == "install":
            install(Path(arguments[1]))
        elif len(arguments) in {2, 3} and arguments[0] == "run":
            return run(Path(arguments[1]), Path(arguments[2]) if len(arguments) == 3 else None)
        elif len(arguments) == 2 and arguments[0] == "stop":
            stop(Path(arguments[1]))
        else:
            print(USAGE, file=sys.stderr)
            return 2
    except ComponentError as error:
        print(f"dicomflow edge: {error}", file=sys.stderr)
        return 1
    return 0


def check() -> None:
    """Tell whether this Python can run the edge; raises where the artifact has no wheels for it."""
    supported = PYTHONS.read_text(encoding="utf-8").split()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version not in supported:
        raise ComponentError(f"{sys.executable} is Python {version}; this artifact is for {', '.join(supported)}")
    try:
        import ensurepip  # noqa: F401, PLC0415  # a module of its own package on Debian and Ubuntu
        import venv  # noqa: F401, PLC0415
    except ImportError as error:
        raise ComponentError(f"{sys.executable} cannot make environments: install python{version}-venv") from error


def install(work: Path) -> None:
    """Make the environment of this artifact the current one; nothing is done where it already is."""
    check()
    wanted = _stamp()
    _offer_command(work)
    environment = work / "environments" / wanted[:16]
    if _read(environment / "stamp") == wanted:
        _point_to(work, environment.name)
        print(f"dicomflow edge: environment {environment.name} is installed already")
        return
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    _call([sys.executable, "-m", "venv", str(environment)])
    pip = [str(_python_of(environment)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--no-index", "--find-links", str(WHEELS), "--require-hashes", "--no-compile"]
    _call([*pip, "--requirement", str(REQUIREMENTS)])
    _write(environment / "stamp", wanted)
    _point_to(work, environment.name)
    _remove_old(environment)
    print(f"dicomflow edge: installed environment {environment.name}")


def run(work: Path, config: Path | None) -> int:
    """Run the edge until it is stopped; on Linux this process becomes it."""
    name = _read(work / "current")
    if name is None:
        raise ComponentError(f"nothing is installed in {work}: run 'component.py install {work}' first")
    if config is None:
        config = work / "edge.toml"
        _write(config, to_toml(_settings(work)))
    for variable in (SETTINGS_VARIABLE, OWN_SETTINGS_VARIABLE):
        os.environ.pop(variable, None)
    python = str(_python_of(work / "environments" / name))
    command = [python, "-m", "dicomflow", "--json-logs", "edge", "--config", str(config)]
    _write(work / "edge.pid", str(os.getpid()))
    sys.stdout.flush()
    if not IS_WINDOWS:
        os.execv(python, command)  # noqa: S606  # no shell is meant
    process = subprocess.Popen(command)  # noqa: S603  # our own command
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C goes to all processes of a console, the edge included
            continue


def stop(work: Path) -> None:
    """Ask the edge to stop and wait until it has: it ends its associations and keeps what is not stored yet."""
    text = _read(work / "edge.pid")
    if text is None or not text.isdigit() or not _is_edge(int(text)):
        print("dicomflow edge: does not run")
        return
    pid = int(text)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_edge(pid):
        if time.monotonic() > deadline:
            raise ComponentError(f"process {pid} has not stopped in {STOP_SECONDS} seconds; what it received is safe")
        time.sleep(POLL_SECONDS)
    print("dicomflow edge: stopped")


def to_toml(settings: dict[str, object]) -> str:
    """Write settings as TOML: plain keys first, then a table for each object."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    lines = [f"{_toml_text(key)} = {_toml_value(value)}" for key, value in plain.items()]
    lines += _toml_tables(settings, "")
    return "\n".join(lines) + "\n"


def _toml_tables(settings: dict[str, object], path: str) -> list[str]:
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict):
            name = f"{path}{_toml_text(key)}"
            lines += ["", f"[{name}]"]
            lines += [f"{_toml_text(k)} = {_toml_value(v)}" for k, v in value.items() if not isinstance(v, dict)]
            lines += _toml_tables(value, f"{name}.")
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # the nucleus gives every number as one with a fraction
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_text(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    return _toml_text(str(value))


def _toml_text(text: str) -> str:
    """Quote a key or a value: a basic string of TOML is one of JSON, with DEL and no pairs of escapes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _settings(work: Path) -> dict[str, object]:
    """Return the component's configuration with the values that only the device knows; empty ones are left out."""
    given = _json_object(SETTINGS_VARIABLE, "")
    thing = os.environ.get("AWS_IOT_THING_NAME", "edge")
    # The nucleus knows no case in names, and hands them on as it got them.
    by_thing = {name.lower(): own for name, own in _json_object(OWN_SETTINGS_VARIABLE, "{}").items()}
    own = by_thing.get(thing.lower(), {})
    if not isinstance(own, dict):
        raise ComponentError(f"{OWN_SETTINGS_VARIABLE} has no JSON object for {thing}")
    given = _merged(given, own)
    settings = _without_empty(given)
    settings.setdefault("name", thing)
    spool = settings.setdefault("spool", {})
    if isinstance(spool, dict):
        spool.setdefault("dir", str(work / "spool"))
    return settings


def _json_object(variable: str, default: str) -> dict[str, object]:
    try:
        given = json.loads(os.environ.get(variable, default))
    except ValueError as error:
        raise ComponentError(f"{variable} is no JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ComponentError(f"{variable} is no JSON object")
    return given


def _merged(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    """Return settings with others above them, table by table."""
    found = {**below, **above}
    for name, value in below.items():
        other = above.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found[name] = _merged(value, other)
    return found


def _without_empty(settings: dict[str, object]) -> dict[str, object]:
    found = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in settings.items()}
    return {key: value for key, value in found.items() if value is not None and value not in ("", {})}


def _stamp() -> str:
    """Return what an environment is made of: the wheels, by their hashes, and the Python under it."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes())
    digest.update(f"{sys.version} {sys.base_prefix}".encode())
    return digest.hexdigest()


def _offer_command(work: Path) -> None:
    command = work / "dicomflow"
    if not IS_WINDOWS and _read(command) != COMMAND:
        work.mkdir(parents=True, exist_ok=True)
        _write(command, COMMAND)
        command.chmod(0o755)


def _remove_old(newest: Path) -> None:
    """Keep the environment before the newest, for a rollback without an installation."""
    others = [path for path in newest.parent.iterdir() if path != newest]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_ENVIRONMENTS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _point_to(work: Path, name: str) -> None:
    if _read(work / "current") != name:
        _write(work / "current", name)


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if IS_WINDOWS else "bin/python")


def _is_edge(pid: int) -> bool:
    """Tell whether a process is the edge, and not another that got its number later."""
    try:
        return b"dicomflow" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _call(command: list[str]) -> None:
    """Run a command; pip reads no settings but its arguments, so that nothing is asked of a network."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    result = subprocess.run(command, check=False, env={**variables, "PIP_CONFIG_FILE": os.devnull})  # noqa: S603
    if result.returncode != 0:
        raise ComponentError(f"'{' '.join(command[1:4])}' failed; its own words are above")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o640)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
