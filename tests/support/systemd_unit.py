"""Starts and stops a unit as systemd would, as far as a machine can without it: `systemd_unit.py start UNIT USER ROOT`.

The process gets what the unit's lines say and no more: user without groups, capabilities, limit of descriptors,
environment file; and systemd's own defaults: `/` as folder, umask 022, no terminal. HOME, LANG and all else that a
login has is missing. What needs a name space of its own (ProtectSystem, PrivateTmp) is not tried.
"""

import configparser
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STRANGER = "nobody"
"""A user whom every machine has, and who is nobody that runs tests."""
PLACES = (
    "/etc/systemd/system", "/opt/dicomflow", "/etc/dicomflow", "/var/lib/dicomflow", "/greengrass/v2",
    "/usr/local/bin/dicomflow",
)  # fmt: skip
"""Places of an edge on its device, which a test has below a folder of its own."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def below(text: str, root: Path) -> str:
    """Return a text with the edge's folders below another root."""
    for place in PLACES:
        text = text.replace(place, f"{root}{place}")
    return text


def service_of(unit: Path) -> dict[str, str]:
    """Return the lines of a unit's section Service."""
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # as its documentation says
    parser.read_string(unit.read_text(encoding="utf-8"))
    return dict(parser["Service"])


def start(unit: Path, user: str, root: Path) -> None:
    """Start a unit's process in a session of its own, and note its number beside the unit."""
    service = {name: below(value, root) for name, value in service_of(unit).items()}
    environment = {"PATH": os.environ.get("UNIT_PATH", PATH)}
    file = Path(service["EnvironmentFile"].removeprefix("-"))
    environment |= dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    command = shlex.split(service["ExecStart"])
    if os.geteuid() == 0:
        names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in service["AmbientCapabilities"].split())
        setpriv = [str(shutil.which("setpriv")), f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        setpriv += ["--no-new-privs", f"--inh-caps=-all,{names}", f"--ambient-caps={names}"]
        command = [*setpriv, f"--bounding-set=-all,{names}", *command]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = int(service["LimitNOFILE"])
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)

    def become() -> None:
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with unit.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=become,  # noqa: PLW1509  # no thread runs here
        )
    unit.with_suffix(".pid").write_text(str(process.pid))


def stop(unit: Path) -> None:
    """Ask the unit's process to end, and wait as long as the unit says; a unit that does not run is stopped already."""
    noted = unit.with_suffix(".pid")
    if not noted.exists():
        return
    pid = int(noted.read_text())
    noted.unlink()
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + int(service_of(unit)["TimeoutStopSec"])
    while Path(f"/proc/{pid}/stat").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            raise SystemExit(f"{unit.name} did not end by itself")
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] != "start":
        stop(Path(sys.argv[2]))
    if sys.argv[1] != "stop":
        start(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
